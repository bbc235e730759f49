"""Pieces that every part of Envoy's configuration is made of."""

from typing import Any, TypeAlias

from dermserve.edge.settings import split_address

Json: TypeAlias = dict[str, Any]

CLIENT_HEADER = "x-dermserve-client"
"""Who asks, as the key or the token said; removed from what arrives."""


def typed(kind: str, **fields: Any) -> Json:
    """Make a configuration of a type, for example "filters.http.cors.v3.Cors" below envoy.extensions."""
    return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **fields}


def named(name: str, kind: str, **fields: Any) -> Json:
    """Make a named extension's entry."""
    return {"name": name, "typed_config": typed(kind, **fields)}


def socket_address(address: str) -> Json:
    """Make an address of HOST:PORT."""
    host, port = split_address(address, name="address")
    return {"socket_address": {"address": host, "port_value": port}}


def seconds(value: float) -> str:
    """Write a duration."""
    return f"{value:g}s"
