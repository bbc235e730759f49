"""TLS from PEM files that may change while the gateway runs, and the expiry of certificates."""

import pathlib
import ssl
from typing import TYPE_CHECKING, Literal

import grpc
import structlog

from dermserve.gateway.config import Config

if TYPE_CHECKING:
    from cryptography import x509

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
            if changed := self._read():
                _log.warning("certificate_renewed", use=self._use)
            return changed
        except OSError as error:  # a file may just be being replaced
            _log.warning("certificate_not_read", use=self._use, fault=str(error))
            return False

    @property
    def client(self) -> grpc.ChannelCredentials:
        """Credentials for a channel."""
        return grpc.ssl_channel_credentials(*self.loaded)

    @property
    def server(self) -> grpc.ServerCredentials:
        """Credentials for a server, which reads the files again for each connection."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(*self.loaded),  # and later what this returns; None keeps the former
            lambda: _configuration(*self.loaded) if self.renew() else None,  # type: ignore[arg-type,return-value]
            require_client_authentication=self.loaded[0] is not None,
        )

    def _pems(self) -> dict[str, bytes | None]:
        return {name: file.read_bytes() if file else None for name, file in self._files.items()}

    def _read(self) -> bool:
        """Read the files; return whether they changed."""
        found = self._pems()
        if [*found.values()] == self.loaded:
            return False
        _, key, certificate = self._files
        try:
            if (own := self._files[certificate]) and (private := self._files[key]):
                check_key(private, of=own)
                if self._pems() != found:  # others were checked than were read
                    raise OSError("they are being replaced")
            expiry = {use: _expiry(pem) for use, pem in found.items() if pem is not None and use != key}
        except (OSError, ValueError) as error:
            shown = ", ".join(str(file) for file in self._files.values() if file)
            raise OSError(f"can't use {shown}: {error}; `dermserve doctor` looks at each") from error
        self.loaded, self.expiry = [*found.values()], expiry
        return True


def model_server_files(config: Config) -> TlsFiles | None:
    """Read the files of the TLS towards model servers; None without. Raises what `TlsFiles` raises."""
    return TlsFiles(config, "tfs_tls") if config.tfs_tls_ca else None


def read_peer_expiry(address: str) -> float:
    """Connect to HOST:PORT and return when the certificate that it shows expires, in seconds since 1970.

    Raises:
        OSError, ValueError: it shows none.
    """
    host, _, port = address.rpartition(":")
    shown = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=_HANDSHAKE_SECONDS)
    return _expiry(shown.encode())


def _expiry(pem: bytes) -> float:
    return min(each.not_valid_after_utc.timestamp() for each in read_certificates(pem))


def _configuration(authorities: bytes | None, *own: bytes | None) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([own], authorities)  # type: ignore[list-item]  # a server has both


def read_certificates(pem: bytes) -> "list[x509.Certificate]":
    """Read all certificates of PEM, the first being the server's or client's own.

    Raises:
        ValueError: it holds no certificate.
    """
    from cryptography import x509  # imported only with TLS: it takes 10 MB

    return x509.load_pem_x509_certificates(pem)


def check_key(key: pathlib.Path, *, of: pathlib.Path) -> None:
    """Check that a PEM file has the private key of the first certificate of another, without a passphrase.

    Raises:
        OSError: a file can't be read, or is no such file.
        ssl.SSLError: likewise; the reason is KEY_VALUES_MISMATCH if it is the key of another certificate.
    """
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(of, key, password=lambda: "")
