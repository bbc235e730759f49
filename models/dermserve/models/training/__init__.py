"""Training, evaluation and calibration. The package itself imports no TensorFlow, so that `--help` stays quick."""
