"""The life of a model version: published, verified, promoted, rolled back, retired; each step in an audit log."""
