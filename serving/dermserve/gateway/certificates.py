"""TLS from PEM files that may change while the gateway runs, and the expiry of the loaded certificates.

A gRPC channel takes its credentials once. So when files change, a new channel to each model server is opened. Once it
is connected, it replaces the old channel, which stays for the calls in flight.
"""

import asyncio
import contextlib
import pathlib
import ssl
from typing import TYPE_CHECKING, Literal

import grpc
import structlog

from dermserve.gateway.config import Config
from dermserve.gateway.model_servers import ModelServer, ModelServers

if TYPE_CHECKING:
    from cryptography import x509

_PEERS_SECONDS = 60.0  # seconds between looks at the certificates that model servers show
_HANDSHAKE_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class TlsFiles:
    """The PEM files of one end of TLS, as last read."""

    def __init__(self, config: Config, use: Literal["tls", "tfs_tls"]) -> None:
        """Read the files of the gateway's own TLS, or of that towards model servers.

        Raises:
            OSError: a file can't be read or holds no certificate, or the key is not the certificate's.
        """
        self._use = use
        names = ("tls_client_ca" if use == "tls" else "tfs_tls_ca", f"{use}_key", f"{use}_certificate")
        self._files: dict[str, pathlib.Path | None] = {name: getattr(config, name) for name in names}
        self.expiry: dict[str, float] = {}  # when the first certificate of each setting expires, in seconds since 1970
        self.loaded: list[bytes | None] = []  # authorities, key and certificate
        self._read()

    def renew(self) -> bool:
        """Read the files again; return whether they changed. If they can't be used, log it and keep the former."""
        try:
            changed = self._read()
        except OSError as error:  # a file may just be being replaced
            _log.warning("certificate_not_read", use=self._use, fault=str(error))
            return False
        if changed:
            _log.warning("certificate_renewed", use=self._use)
        return changed

    @property
    def client(self) -> grpc.ChannelCredentials:
        """Credentials for a channel."""
        return grpc.ssl_channel_credentials(*self.loaded)

    @property
    def server(self) -> grpc.ServerCredentials:
        """Credentials for a server, which reads the files again for each connection."""
        given = self.loaded

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self.renew()
            if self.loaded is given:
                return None
            given = self.loaded
            return _configuration(*given)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(*given),
            renewed,  # type: ignore[arg-type]  # None keeps the old one, which the stubs do not know
            require_client_authentication=given[0] is not None,
        )

    def _read(self) -> bool:
        found = {name: file.read_bytes() if file else None for name, file in self._files.items()}
        if [*found.values()] == self.loaded:
            return False
        authorities, key, certificate = found
        try:
            certificates = {
                name: read_certificates(pem) for name in (authorities, certificate) if (pem := found[name]) is not None
            }
            if (pem := found[key]) is not None and not is_key_of(pem, certificates[certificate][0]):
                raise ValueError("the key is not the certificate's")
        except ValueError as error:
            shown = ", ".join(str(file) for file in self._files.values() if file)
            raise OSError(f"can't use {shown}: {error}; `dermserve doctor` looks at each") from error
        self.expiry = {name: min(map(_expiry, each)) for name, each in certificates.items()}
        self.loaded = [*found.values()]
        return True


def model_server_files(config: Config) -> TlsFiles | None:
    """Read the files of the TLS towards model servers; None without. Raises what `TlsFiles` raises."""
    return TlsFiles(config, "tfs_tls") if config.tfs_tls_ca else None


async def follow_files(files: TlsFiles, servers: ModelServers, *, every: float) -> None:
    """Check the files every so many seconds until cancelled, and move each model server to a channel with new ones."""
    outdated: list[ModelServer] = []
    while True:
        await asyncio.sleep(every)
        if files.renew():
            outdated = servers.all
        moved = await asyncio.gather(*(servers.reconnect(each, seconds=_HANDSHAKE_SECONDS) for each in outdated))
        outdated = [server for server, done in zip(outdated, moved, strict=True) if not done]


async def follow_peers(servers: ModelServers) -> None:
    """Read the certificates that model servers show, until cancelled: these may be older than the files."""
    while True:
        await asyncio.gather(*map(_look_at, servers.all))
        await asyncio.sleep(_PEERS_SECONDS)


async def _look_at(server: ModelServer) -> None:
    host, _, port = server.address.rpartition(":")
    with contextlib.suppress(OSError, ValueError):  # keep what was seen last
        address = (host.strip("[]"), int(port))
        shown = await asyncio.to_thread(ssl.get_server_certificate, address, timeout=_HANDSHAKE_SECONDS)
        server.certificate_expiry = _expiry(read_certificates(shown.encode())[0])


def _expiry(certificate: "x509.Certificate") -> float:
    return certificate.not_valid_after_utc.timestamp()


def _configuration(authorities: bytes | None, *own: bytes | None) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([own], authorities)  # type: ignore[list-item]  # a server has both


def read_certificates(pem: bytes) -> "list[x509.Certificate]":
    """Read all certificates of PEM, the first being the server's or client's own.

    Raises:
        ValueError: it holds no certificate.
    """
    from cryptography import x509  # imported only with TLS: it takes 10 MB

    return x509.load_pem_x509_certificates(pem)


def is_key_of(key: bytes, certificate: "x509.Certificate") -> bool:
    """Tell whether PEM is the private key of a certificate.

    Raises:
        ValueError: it holds no key, one with a passphrase, or one of a kind that is not supported.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        pair = load_pem_private_key(key, password=None).public_key(), certificate.public_key()
    except TypeError as error:  # raised by the library for a missing passphrase
        raise ValueError("the key has a passphrase, which can't be entered here") from error
    except UnsupportedAlgorithm as error:
        raise ValueError(f"the key or the certificate's can't be used: {error}") from error
    ours, theirs = (each.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in pair)
    return ours == theirs
