"""The gateway: takes photos over dermserve.v1, gets probabilities from TensorFlow Serving, answers with a verdict.

The stages of a request: admit → decode → plan → predict → reduce → verdict → answer (`classify`). What has state
(channels, pools, the catalog) is built in `dermserve.gateway.server` and nowhere else. Never imports TensorFlow.
"""

import os

# gRPC reads this once, when it is imported: its own log lines, of failed handshakes for example, are not JSON.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
