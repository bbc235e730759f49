"""A local stand-in for TensorFlow Serving: the same gRPC services, flags, status codes and messages.

Run it with `python -m dermserve.modelserver` (docs/modelserver.md). It is for laptops and tests; production runs the
`tensorflow/serving` image.
"""
