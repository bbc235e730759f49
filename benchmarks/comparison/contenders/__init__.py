"""Servers that are compared; each runs in an environment of its own."""
