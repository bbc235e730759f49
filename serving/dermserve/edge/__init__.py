"""The edge: an Envoy in front of the gateway that speaks HTTP, JSON and gRPC-Web, and serves the page.

Nothing here sees a request. This package writes Envoy's configuration, one for a laptop and for Kubernetes, and the
OpenAPI document; Envoy does the rest.
"""

from dermserve.edge.bootstrap import bootstrap
from dermserve.edge.settings import SITE, Jwt, Settings, SettingsError, read_keys

__all__ = ["SITE", "Jwt", "Settings", "SettingsError", "bootstrap", "read_keys"]
