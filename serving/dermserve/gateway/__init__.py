"""The gateway: photos in over dermserve.v1, probabilities from TensorFlow Serving, an honest verdict out.

A request goes one way: admit → decode → plan → predict → reduce → verdict → answer, one module a stage. What has state
(channels, pools, the catalog) is built in `dermserve.gateway.lifespan` and nowhere else. Never imports TensorFlow.
"""
