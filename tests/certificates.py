"""Certificates for tests of TLS."""

import datetime
import ipaddress
import pathlib

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def make_certificate(
    folder: pathlib.Path, name: str = "cert", *, host: str = "localhost", days: tuple[int, int] = (-1, 2)
) -> pathlib.Path:
    """Make NAME.pem and NAME.key: its own authority, good for a host, between so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if host == "localhost" else []
    start, end = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(day) for day in days)
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, start, end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host), *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    file = folder / f"{name}.pem"
    file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return file


def server_credentials(certificate: pathlib.Path, *, client_ca: pathlib.Path | None = None) -> grpc.ServerCredentials:
    """Let a gRPC server show a certificate, and ask for one where an authority for that is named."""
    pair = (certificate.with_suffix(".key").read_bytes(), certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], client_ca and client_ca.read_bytes(), client_ca is not None)
