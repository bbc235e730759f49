"""The gateway: takes photos over dermserve.v1, gets probabilities from TensorFlow Serving, answers with a verdict.

The stages of a request: admit → decode → plan → predict → reduce → verdict → answer (`classify`). What has state
(channels, pools, the catalog) is built in `dermserve.gateway.server` and nowhere else. Never imports TensorFlow.
"""

import os

# gRPC reads this when it is imported. Its own log lines, for example of failed handshakes, are not JSON.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
