"""`dermserve doctor`: what of a configuration is unsafe or will not work. No part of the request path."""
