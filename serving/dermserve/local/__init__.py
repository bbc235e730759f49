"""The model server and the gateway on one machine, as child processes, which alone import TensorFlow."""

from dermserve.local.child import StackError
from dermserve.local.stack import DEFAULT_MODELS, DEFAULT_PORT, DEFAULT_STORE, DEFAULT_TFS_PORT, DRAWN, Stack

__all__ = ["DEFAULT_MODELS", "DEFAULT_PORT", "DEFAULT_STORE", "DEFAULT_TFS_PORT", "DRAWN", "Stack", "StackError"]
