"""The models: architectures, weights, export and the store. The package itself imports no TensorFlow."""
