"""Training, evaluation and calibration: from a folder of labelled photos to calibrated and measured weights.

Importing this package imports no TensorFlow: its modules do, so that `--help` stays quick.
"""
