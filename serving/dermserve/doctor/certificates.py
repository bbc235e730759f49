"""Read PEM files of certificates and keys. Never shows or logs a key."""

import pathlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key


def read_certificates(file: pathlib.Path) -> list[x509.Certificate]:
    """Read all certificates of a PEM file, the first being the server's or client's own.

    Raises:
        OSError: it can't be read.
        ValueError: it holds none.
    """
    return x509.load_pem_x509_certificates(file.read_bytes())


def is_key_of(key: pathlib.Path, certificate: x509.Certificate) -> bool:
    """Tell whether a PEM file holds the private key of a certificate.

    Raises:
        OSError: it can't be read.
        ValueError: it holds no key, or one with a passphrase.
    """
    try:
        public = load_pem_private_key(key.read_bytes(), password=None).public_key()
    except TypeError as error:  # what the library raises for a passphrase it was not given
        raise ValueError("the key has a passphrase: use a key without one") from error
    plain = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*plain) == certificate.public_key().public_bytes(*plain)
