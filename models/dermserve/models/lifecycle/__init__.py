"""The life of a model version: publish, verify, promote, roll back, retire; each step is in an audit log."""
