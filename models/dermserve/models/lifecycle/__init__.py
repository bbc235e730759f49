"""The life of a model version: published, verified, promoted, rolled back, retired; each step in an audit log.

Only `recording` imports TensorFlow, so that the commands and `dermserve up` start at once.
"""
