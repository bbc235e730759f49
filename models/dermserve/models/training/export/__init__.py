"""What a finished run is shipped as: compact weights, TensorFlow Lite, and the content of a version's card."""
