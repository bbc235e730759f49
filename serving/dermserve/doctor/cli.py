"""`dermserve doctor`: check a gateway's settings and their files."""

import datetime
import functools
import pathlib
import stat
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from dermserve.cli.reachable import COLOURS, Finding
from dermserve.gateway.certificates import check_key, read_certificates
from dermserve.gateway.cli import config_options
from dermserve.gateway.config import Config, is_loopback, load_config

_SOON = datetime.timedelta(days=30)
_SEVERITIES = list(COLOURS)[:3]

error, warning, note = (functools.partial(Finding, severity) for severity in ("ERROR", "WARNING", "NOTE"))


def look_at_settings(config: Config) -> Iterator[Finding]:
    """Find what is unsafe, contradicts itself, or has no effect."""
    yield from _exposure(config)
    for name in ("tls_certificate", "tls_client_ca", "tfs_tls_ca", "tfs_tls_certificate"):
        if file := getattr(config, name):
            yield from _certificate(config, name, file)
    if config.grace_seconds < config.default_deadline_seconds:
        text = f"grace_seconds ({config.grace_seconds:g}) is shorter than default_deadline_seconds"
        text += f" ({config.default_deadline_seconds:g}): a stop can cut accepted requests off"
        yield warning("GRACE", text, "make it as long; and terminationGracePeriodSeconds longer than both")


def _exposure(config: Config) -> Iterator[Finding]:
    exposed = not is_loopback(config.listen)
    if exposed and not config.tls_certificate:
        text = f"listen is {config.listen}, which others can reach, without TLS: photos travel in plain text"
        remedy = "unless something in front of it encrypts and nothing else can reach it"
        yield warning("NO_TLS", text, f"set tls_certificate and tls_key, {remedy}")
    if exposed and not config.tls_client_ca:
        text = f"whoever can reach {config.listen} may ask: the gateway has no users and trusts every caller"
        remedy = "set tls_client_ca, so that callers must show a certificate; or let only the edge reach it"
        yield warning("NO_CLIENT_CA", text, remedy)
    if config.reflection:
        text = "reflection shows the whole API to anyone who connects"
        yield (warning if exposed else note)("REFLECTION", text, "set reflection to false outside development")
    if config.metrics_listen and not is_loopback(config.metrics_listen):
        text = f"metrics are served in plain text on {config.metrics_listen}: model names, versions and load"
        yield note("METRICS_EXPOSED", text, "let only Prometheus reach that port, for example by a NetworkPolicy")
    if plain := [address for address in config.tfs if not (config.tfs_tls_ca or is_loopback(address))]:
        text = f"calls to {', '.join(plain)} are not encrypted, and its answers are trusted"
        remedy = "set tfs_tls_ca, put TensorFlow Serving into the same pod, or have the cluster encrypt"
        yield warning("TFS_NOT_ENCRYPTED", text, remedy)


def _certificate(config: Config, name: str, file: pathlib.Path) -> Iterator[Finding]:
    try:
        certificates = read_certificates(file.read_bytes())
    except (OSError, ValueError) as fault:
        yield error("CERTIFICATE_UNREADABLE", f"{name} {file}: {fault}", "give a PEM file of certificates")
        return
    now = datetime.datetime.now(datetime.UTC)
    for certificate in certificates:
        whose = f"{name} {file}, {certificate.subject.rfc4514_string() or 'without a subject'}"
        ends = certificate.not_valid_after_utc
        if ends <= now:
            yield error("CERTIFICATE_EXPIRED", f"{whose}: expired on {ends:%Y-%m-%d}", "renew it")
        elif ends - now < _SOON:
            text = f"{whose}: expires on {ends:%Y-%m-%d}, in {(ends - now).days} days"
            yield warning("CERTIFICATE_EXPIRES", text, "renew it; the gateway needs no restart")
        if certificate.not_valid_before_utc > now:
            text = f"{whose}: not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            yield error("CERTIFICATE_NOT_YET_VALID", text, "check this machine's clock, or wait")
    if name.endswith("certificate"):
        key_name = name.replace("certificate", "key")
        yield from _key(key_name, getattr(config, key_name), of=file)


def _key(key_name: str, key: pathlib.Path, *, of: pathlib.Path) -> Iterator[Finding]:
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        text = f"{key_name} {key} can be read by every user of this machine"
        yield warning("KEY_READABLE", text, f"chmod o= {key}; replace the key if others could have read it")
    try:
        check_key(key, of=of)
    except OSError as fault:
        text = f"{key_name} {key} is not the key of the first certificate in {of}: {fault}"
        yield error("KEY_UNUSABLE", text, "give the private key that it was made for, as PEM and unencrypted")


@click.command()
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a finding.")
@click.pass_context
def doctor(context: click.Context, /, *, as_json: bool, **options: Any) -> None:
    """Check a gateway's settings: what is unsafe, what does not work, and what to do.

    Takes the options of `dermserve gateway`, and reads the same file and environment. An error prevents the gateway or
    some of its answers; a warning is unsafe or unwise; a note is information.

    With --target HOST:PORT, check a running gateway from here instead: `dermserve doctor --target HOST:PORT --help`.

    Exit codes: 0 no errors, 1 errors, 2 wrong usage.
    """
    try:
        config, _ = load_config(options, file=options.pop("file"))
    except (ValueError, OSError) as fault:
        remedy = "correct it; `dermserve config` shows where each setting comes from, docs/settings.md describes them"
        found = [error("SETTING", line, remedy) for line in str(fault).splitlines()]
    else:
        found = list(look_at_settings(config))
    for finding in sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity)):
        finding.show(as_json=as_json)
    counts = Counter(finding.severity for finding in found)
    if not as_json:
        told = (f"{counts[severity]} {severity.lower()}{'s' * (counts[severity] != 1)}" for severity in _SEVERITIES)
        click.echo(", ".join(told))
    context.exit(1 if counts["ERROR"] else 0)
