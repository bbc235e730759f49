"""`dermserve doctor`: find what is unsafe or does not work in a configuration. Not part of the request path."""
