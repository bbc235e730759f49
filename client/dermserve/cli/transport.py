"""Check the way to a gateway without gRPC: names, ports, proxies, TLS, and other protocols."""

import base64
import contextlib
import functools
import os
import pathlib
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import grpc

from dermserve.cli.findings import Finding
from dermserve.cli.server import Server
from dermserve.client import TLS
from dermserve.client._connection import usual_roots
from dermserve.client._proxies import Way, find_way, host_and_port

Dial: TypeAlias = Callable[[], socket.socket]
"""Connects."""
_EXPIRY_DAYS = 21
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"  # and empty SETTINGS (RFC 9113, 3.4)
_SETTINGS = b"\4"
"""The type of the first frame that an HTTP/2 server sends."""
_WRONG_PORT = "correct HOST:PORT: the gateway's gRPC port is 50051 unless set otherwise"
_REMEDIES = {  # by OpenSSL's X509_V_ERR_…
    9: "set this machine's clock, or wait",
    10: "renew the certificate; if it is valid still, set this machine's clock",
    62: "ask by a name in the certificate, or name one by --tls-authority",
    64: "ask by a name in the certificate, or name one by --tls-authority",
}
_UNTRUSTED = "name the authority that signed it by --tls-ca"


class ObstacleError(Exception):
    """A finding that prevents calls to the gateway."""

    def __init__(self, code: str, what: str, remedy: str) -> None:
        super().__init__(what)
        self.finding = Finding("ERROR", code, what, remedy)


def look_at_way(server: Server) -> Iterator[Finding]:
    """Connect as gRPC would, and check whether the other side speaks TLS, if configured, and HTTP/2.

    Raises:
        ObstacleError: the first problem that prevents calls.
    """
    way, tls = find_way(server.target), server.tls_options()
    host, port = host_and_port(way.target)
    if host is None:  # a socket's path, or a scheme that only gRPC resolves
        return
    if way.proxy:
        text = f"calls to {server.target} go through the proxy {way.proxy}: it must allow CONNECT to that port"
        yield Finding("WARNING", "PROXY", text, "list the host in no_proxy, if it can be reached without")
        dial: Dial = functools.partial(_tunnel, way, host, port or "443", server.deadline)
    else:
        dial = yield from _reach(host, port or "443", server.deadline)
    if tls is None:
        yield _look_at_plain(dial, server)
    else:
        yield from _look_at_tls(dial, tls.authority or way.name or host, server, tls)


def _reach(host: str, port: str, seconds: float) -> Generator[Finding, None, Dial]:
    """Connect to each address of a name; return a function that connects to one that answers."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        text = f"{host} has no address: {error.strerror or error}"
        raise ObstacleError("NAME", text, "correct the name, or the DNS") from error
    alive, dead = [], []
    for address in sorted({(str(info[4][0]), int(info[4][1])) for info in infos}):
        try:
            socket.create_connection(address, timeout=seconds).close()
            alive.append(address)
        except OSError as error:
            dead.append(f"nothing accepts connections at {address[0]}:{address[1]}: {error.strerror or error}")
    remedy = "is the gateway running, is the port right, and does a firewall let you pass?"
    if not alive:
        raise ObstacleError("UNREACHABLE", "; ".join(dead), remedy)
    for text in dead:
        yield Finding("WARNING", "UNREACHABLE", text, remedy)
    return functools.partial(socket.create_connection, alive[0], seconds)


def _tunnel(way: Way, host: str, port: str, seconds: float) -> socket.socket:
    """Connect through the HTTP proxy, with the credentials of its URL, as gRPC does."""
    url = urlsplit(os.environ[str(way.proxy).partition(" ")[2].strip("()")])
    login = base64.b64encode(unquote(f"{url.username}:{url.password or ''}").encode()).decode()
    header = f"Proxy-Authorization: Basic {login}\r\n" if url.username else ""
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    without = "list the host in no_proxy to go without it, or correct the variable"
    try:
        with contextlib.ExitStack() as failing:
            connection = failing.enter_context(
                socket.create_connection((url.hostname, url.port or 80), timeout=seconds)
            )
            connection.sendall(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{header}\r\n".encode())
            if not (said := connection.recv(4096)):
                raise ConnectionError("it closes the connection")
            if said.split(b" ")[1:2] != [b"200"]:
                text = f"the proxy {way.proxy} refuses calls to {name}: it answers {_shown(said)}"
                raise ObstacleError("PROXY_REFUSES", text, without)
            failing.pop_all()
            return connection
    except OSError as error:
        text = f"the proxy {way.proxy} does not answer: {error.strerror or error}"
        raise ObstacleError("PROXY_UNREACHABLE", text, without) from error


def _look_at_plain(dial: Dial, server: Server) -> Finding:
    said = _greet(dial)
    if _is_http2(said):
        return Finding("NOTE", "PLAINTEXT", "the way to the gateway is not encrypted", "use TLS beyond this machine")
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), _within(dial()) as plain, anyone.wrap_socket(plain):
        raise ObstacleError("TLS_WANTED", f"{server.target} speaks TLS, and this client plain text", "use --tls")
    raise _stranger(said, server.target)


def _look_at_tls(dial: Dial, name: str, server: Server, tls: TLS) -> Iterator[Finding]:
    context = _context(server, tls)
    try:
        with _within(dial()) as plain, context.wrap_socket(plain, server_hostname=name) as secured:
            ends = str((secured.getpeercert() or {})["notAfter"])
            protocol, said = secured.selected_alpn_protocol(), _greet(lambda: secured)
    except ssl.SSLCertVerificationError as error:
        text = f"the certificate of {server.target} is not trusted: {error.verify_message.rstrip('.')}"
        raise ObstacleError("CERTIFICATE", text, _REMEDIES.get(error.verify_code, _UNTRUSTED)) from error
    except OSError as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            raise _refused_handshake(server, error.reason) from error
        if not _is_http2(said := _greet(dial)):
            raise _stranger(said, server.target) from error
        text = f"{server.target} speaks gRPC in plain text, not TLS"
        raise ObstacleError("NO_TLS", text, "leave --tls out") from error
    if said == b"":  # with TLS 1.3 a client certificate is judged after the handshake
        raise _refused_handshake(server, "it closes the connection after the handshake")
    if not _is_http2(said):
        raise _stranger(said, server.target)
    if protocol != "h2":
        text = f"{server.target} does not offer HTTP/2 by ALPN, without which gRPC does not connect"
        raise ObstacleError("NO_ALPN", text, "enable HTTP/2 where TLS ends there")
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400
    if days < _EXPIRY_DAYS:
        yield Finding("WARNING", "CERTIFICATE_EXPIRES", f"the certificate ends in {days:.0f} days", "renew it")


def _context(server: Server, tls: TLS) -> ssl.SSLContext:
    """Check certificates as gRPC does; `ssl.create_default_context` is stricter from Python 3.13 on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    own = os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    file = pathlib.Path(own or pathlib.Path(grpc.__file__).parent / "_cython/_credentials/roots.pem")
    try:
        roots = (tls.root_certificates or usual_roots() or file.read_bytes()).decode().splitlines(keepends=True)
        context.load_verify_locations(cadata="".join(line for line in roots if line.isascii()))
        if server.tls_cert:
            context.load_cert_chain(server.tls_cert, server.tls_key, password="")
    except (OSError, ValueError) as error:
        text = f"the TLS files can't be used: {getattr(error, 'reason', None) or error}"
        raise ObstacleError("TLS_FILES", text, "give PEM: --tls-key is the key of --tls-cert, not encrypted") from error
    return context


def _refused_handshake(server: Server, why: str) -> ObstacleError:
    shown = "does not accept this client's certificate" if server.tls_cert else "wants a client certificate, it seems"
    remedy = "give one that its client authority signed, by --tls-cert and --tls-key"
    return ObstacleError("CLIENT_CERTIFICATE", f"{server.target} {shown}: {why}", remedy)


def _stranger(said: bytes | None, target: str) -> ObstacleError:
    if said is None:
        text = f"{target} accepts connections and sends nothing"
        return ObstacleError("SILENT", text, f"restart what hangs there, or {_WRONG_PORT}")
    if not said:
        text = f"{target} accepts connections and closes them at once, as a proxy does with nothing behind it"
        return ObstacleError("CLOSED", text, f"start what it leads to, or {_WRONG_PORT}")
    kind = "is a web server and" if said.startswith((b"HTTP/", b"<")) else "is something else and"
    return ObstacleError("NOT_GRPC", f"{target} {kind} does not speak gRPC: it says {_shown(said)}", _WRONG_PORT)


def _within(connection: socket.socket) -> socket.socket:
    connection.settimeout(min(connection.gettimeout() or 3.0, 3.0))
    return connection


def _greet(dial: Dial) -> bytes | None:
    """Begin HTTP/2; return the answer, nothing if the connection is closed, None after some seconds."""
    try:
        with _within(dial()) as connection:
            connection.sendall(_GREETING)
            return connection.recv(64)
    except TimeoutError:
        return None
    except ssl.SSLError:
        raise
    except OSError:
        return b""


def _is_http2(said: bytes | None) -> bool:
    return said is not None and said[3:4] == _SETTINGS


def _shown(said: bytes) -> str:
    first = said.partition(b"\n")[0].strip()[:60].decode("ascii", "replace")
    return repr("".join(letter if letter.isprintable() else "?" for letter in first))
