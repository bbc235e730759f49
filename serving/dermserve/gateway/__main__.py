"""`python -m dermserve.gateway` is `dermserve gateway`."""

from dermserve.gateway.cli import gateway

gateway(prog_name="dermserve gateway")
