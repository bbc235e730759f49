"""The ports the gateway listens on, encrypted or not, and the limits of a connection."""

import pathlib

import grpc
import grpc.aio
import structlog

from dermserve.gateway.config import Config

_log = structlog.get_logger(__name__)

_MESSAGE_ROOM = 12_000_000
"""Bytes a message may be over the photo limit, so that a photo that is too large gets our message, not gRPC's."""


class ListenError(OSError):
    """The address can't be listened on."""


def build_server(config: Config) -> grpc.aio.Server:
    """Make a server with the limits of the configuration, and without a port."""
    options = [
        ("grpc.max_receive_message_length", config.max_image_bytes + _MESSAGE_ROOM),
        ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server that gets half the calls
    ]
    if config.max_connection_age_seconds:
        options.append(("grpc.max_connection_age_ms", int(config.max_connection_age_seconds * 1e3)))
        options.append(("grpc.max_connection_age_grace_ms", int(config.max_deadline_seconds * 1e3)))
    return grpc.aio.server(options=options)


def bind(server: grpc.aio.Server, listen: str, *, credentials: grpc.ServerCredentials | None = None) -> str:
    """Bind HOST:PORT and return it with the port that was got.

    Raises:
        ListenError: it is taken or wrong.
    """
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ListenError(f"can't listen on {listen}: is it taken, or not an address of this machine?") from error
    return f"{listen.rpartition(':')[0]}:{port}"


def read_credentials(config: Config) -> grpc.ServerCredentials | None:
    """Read the certificates; None without TLS. Once the files have changed, the next connection reads them anew.

    Raises:
        OSError: a file can't be read.
    """
    if not (config.tls_certificate and config.tls_key):
        return None
    files = _Certificates(config.tls_certificate, config.tls_key, config.tls_client_ca)
    return grpc.dynamic_ssl_server_credentials(
        files.read(),
        files.renew,  # type: ignore[arg-type]  # None keeps the old one, which the stubs do not know
        require_client_authentication=config.tls_client_ca is not None,
    )


class _Certificates:
    """The files of one server's certificate, as last read."""

    def __init__(self, certificate: pathlib.Path, key: pathlib.Path, client_ca: pathlib.Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._read = (b"", b"", b"")

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read all files."""
        authorities = self._client_ca.read_bytes() if self._client_ca else b""
        self._read = (self._key.read_bytes(), self._certificate.read_bytes(), authorities)
        return grpc.ssl_server_certificate_configuration([self._read[:2]], authorities or None)

    def renew(self) -> grpc.ServerCertificateConfiguration | None:
        """Return a new configuration if the files have changed; called by gRPC for each connection."""
        before = self._read
        try:
            renewed = self.read()
        except OSError as error:  # in the middle of being replaced: the old ones still hold
            self._read = before
            _log.warning("certificate not read again", fault=str(error))
            return None
        if self._read == before:
            return None
        _log.warning("certificate renewed")
        return renewed
