"""The models: architectures, weights, export to TensorFlow Serving, and the store.

The package itself imports no TensorFlow, only its modules do, so that `--help` stays quick.
"""
