"""Find the HTTP proxy between a client and its gateway, by the environment's variables.

gRPC reads grpc_proxy, https_proxy and http_proxy. For no_proxy it only compares ends of names. This module reads
no_proxy as curl and Python do: names and their subdomains, `*`, ports, addresses and networks (10.0.0.0/8), in either
case. The loopback is never behind a proxy.
"""

import contextlib
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_BYPASSES = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
_NAMED = ("dns", "ipv4", "ipv6")  # schemes of gRPC targets that name a host


@dataclass(frozen=True, slots=True)
class Way:
    """How a channel gets to a target."""

    target: str  # the target for gRPC
    proxy: str | None = None  # the proxy's address and the variable that names it, for messages; None without one
    name: str | None = None  # name to expect in a certificate, where `target` has another host


def find_way(target: str, environment: Mapping[str, str] = os.environ) -> Way:
    """Find the way to a gRPC target; raise ValueError for an invalid proxy.

    `localhost` becomes 127.0.0.1, where `dermserve up` listens, because another program may listen on its other
    address. Write [::1] for that one.
    """
    host, port = host_and_port(target)
    if host == "localhost":
        return Way(f"127.0.0.1:{port or 443}", name="localhost")
    if host is None or _is_here(host):
        return Way(target)
    variable = next((name for name in _PROXIES if environment.get(name)), "")
    bypasses = next((found for name in _BYPASSES if (found := environment.get(name))), "")
    if not variable or any(_covers(entry, host, port) for entry in bypasses.replace(",", " ").split()):
        return Way(target)
    try:
        url = urlsplit(environment[variable])
        proxy = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        named = f"{proxy}:{url.port or 80} ({variable})"
    except ValueError:
        raise ValueError(f"{variable} is not the URL of a proxy: give http://HOST:PORT") from None
    return Way(target, proxy=named if url.scheme == "http" and proxy else None)  # gRPC leaves other schemes aside


def host_and_port(target: str) -> tuple[str | None, str]:
    """Take host and port out of a gRPC target; no host when it names none, as a socket's path does not."""
    scheme, colon, rest = target.partition(":")
    schemed = scheme in _NAMED or (scheme and not rest.split(",")[0].isdecimal())
    if colon and schemed and not target.startswith("[") and ip_address(target) is None:
        if scheme not in _NAMED:
            return None, ""
        target = rest.rpartition("/")[2]
    host, port = _split(target.split(",")[0])
    return host.lower().rstrip("."), port


def _split(address: str) -> tuple[str, str]:
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        return host, rest.removeprefix(":")
    if address.count(":") > 1:
        return address, ""
    host, _, port = address.partition(":")
    return host, port


def _is_here(host: str) -> bool:
    if address := ip_address(host):
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified
    return host.endswith(".localhost")


def _covers(entry: str, host: str, port: str) -> bool:
    """Tell whether an entry of no_proxy covers an address."""
    if entry == "*":
        return True
    name, its_port = (entry, "") if "/" in entry else _split(entry.lower())
    if its_port not in ("", port):
        return False
    address, network = ip_address(host), _network(name)
    if address or network:
        return address is not None and network is not None and address in network
    name = name.lstrip("*").strip(".")
    return name != "" and f".{host}".endswith(f".{name}")


def _network(name: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(name, strict=False)
    return None


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address; None for a name."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    return None
