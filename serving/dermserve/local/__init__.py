"""Everything on one machine: the model server and the gateway as child processes, started and stopped in order.

Never imports TensorFlow; the model server and the exporter are processes of their own.
"""

from dermserve.local.child import StackError
from dermserve.local.stack import DEFAULT_MODELS, DEFAULT_PORT, DEFAULT_STORE, DEFAULT_TFS_PORT, Stack

__all__ = ["DEFAULT_MODELS", "DEFAULT_PORT", "DEFAULT_STORE", "DEFAULT_TFS_PORT", "Stack", "StackError"]
