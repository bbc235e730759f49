"""The models: architectures, weights, export to TensorFlow Serving, and the store.

Importing this package imports no TensorFlow: its modules do, so that `--help` stays quick.
"""
