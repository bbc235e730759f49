"""The gateway beside other ways to serve the same weights."""
