"""Training, evaluation and calibration: from a folder of labelled photos to weights with honest figures.

Importing this package imports no TensorFlow: its modules do, so that `--help` stays quick.
"""
