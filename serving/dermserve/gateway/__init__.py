"""The gateway: photos in over dermserve.v1, probabilities from TensorFlow Serving, an honest verdict out.

A request goes one way: admit → decode → plan → predict → reduce → verdict → answer (`classify`). What has state
(channels, pools, the catalog) is built in `dermserve.gateway.server` and nowhere else. Never imports TensorFlow.
"""

import os

# gRPC reads this once, when it is imported: its own lines, of each failed handshake for example, are no JSON.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
