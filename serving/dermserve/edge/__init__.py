"""The edge: an Envoy in front of the gateway that speaks HTTP, JSON and gRPC-Web, and serves the page.

This package writes Envoy's configuration, the same for one machine and for Kubernetes, and holds the files that are
served. It handles no request: Envoy does.
"""

from dermserve.edge.config import envoy_config, write_config
from dermserve.edge.settings import SITE, Settings, SettingsError, read_keys

__all__ = ["SITE", "Settings", "SettingsError", "envoy_config", "read_keys", "write_config"]
