"""Certificates for tests of TLS, made by the openssl command."""

import pathlib
import subprocess


def make_certificate(folder: pathlib.Path, name: str, *, host: str = "localhost") -> pathlib.Path:
    """Make NAME.pem and NAME.key: its own authority, good for a host."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{host}"]
    files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return folder / f"{name}.pem"
