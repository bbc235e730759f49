"""The edge: the configuration and files of an Envoy in front of the gateway, on one machine and in Kubernetes."""

from dermserve.edge.config import envoy_config, write_config
from dermserve.edge.settings import SITE, Settings, SettingsError, read_keys

__all__ = ["SITE", "Settings", "SettingsError", "envoy_config", "read_keys", "write_config"]
