"""A local stand-in for TensorFlow Serving, for laptops and tests: `python -m dermserve.modelserver`."""
