"""Check a gateway's settings and their files, without any network."""

import datetime
import functools
import pathlib
import stat
from collections import Counter
from collections.abc import Iterator, Mapping

from dermserve.cli.findings import Finding
from dermserve.gateway import tracing
from dermserve.gateway.certificates import is_key_of, read_certificates
from dermserve.gateway.config import Config, is_loopback

_SOON = datetime.timedelta(days=30)


error, warning, note = (functools.partial(Finding, severity) for severity in ("ERROR", "WARNING", "NOTE"))


def look_at_settings(config: Config, *, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Find what is unsafe, contradicts itself, or has no effect."""
    yield from _exposure(config)
    for name in ("tls_certificate", "tls_client_ca", "tfs_tls_ca", "tfs_tls_certificate"):
        if file := getattr(config, name):
            yield from _certificate(name, file)
    for certificate, key in (("tls_certificate", "tls_key"), ("tfs_tls_certificate", "tfs_tls_key")):
        yield from _key(config, certificate, key)
    yield from _addresses(config)
    yield from _limits(config)
    yield from _traces(environment)


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


def _certificate(name: str, file: pathlib.Path) -> Iterator[Finding]:
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
            days = (ends - now).days
            text = f"{whose}: expires on {ends:%Y-%m-%d}, in {days} days"
            yield warning("CERTIFICATE_EXPIRES", text, "renew it; the gateway needs no restart")
        if certificate.not_valid_before_utc > now:
            text = f"{whose}: not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            yield error("CERTIFICATE_NOT_YET_VALID", text, "check this machine's clock, or wait")


def _key(config: Config, certificate_name: str, key_name: str) -> Iterator[Finding]:
    certificate: pathlib.Path | None = getattr(config, certificate_name)
    key: pathlib.Path | None = getattr(config, key_name)
    if certificate is None or key is None:
        return
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        text = f"{key_name} {key} can be read by every user of this machine"
        yield warning("KEY_READABLE", text, f"chmod o= {key}; replace the key if others could have read it")
    try:
        fits = is_key_of(key.read_bytes(), read_certificates(certificate.read_bytes())[0])
    except (OSError, ValueError) as fault:
        yield error("KEY_UNREADABLE", f"{key_name} {key}: {fault}", "give its private key as PEM, unencrypted")
        return
    if not fits:
        text = f"{key_name} {key} is not the key of the first certificate in {certificate}: no connection will succeed"
        yield error("KEY_MISMATCH", text, "give the key that the certificate was made for, its own first")


def _addresses(config: Config) -> Iterator[Finding]:
    names = ("listen", "health_listen", "metrics_listen")
    taken = Counter(address for name in names if (address := getattr(config, name)) and not address.endswith(":0"))
    for address in [address for address, count in taken.items() if count > 1]:
        text = f"{address} is set for more than one of {', '.join(names)}: the gateway won't start"
        yield error("ADDRESS_TWICE", text, "give each a port of its own")
    if doubled := [address for address, count in Counter(config.tfs).items() if count > 1]:
        text = f"tfs names {', '.join(doubled)} more than once: it counts once"
        yield warning("TFS_TWICE", text, "name each address once")


def _limits(config: Config) -> Iterator[Finding]:
    """Find limits that contradict each other."""
    deadline, longest = config.default_deadline_seconds, config.max_deadline_seconds
    grace, age = config.grace_seconds, config.max_connection_age_seconds
    default = f"default_deadline_seconds ({deadline:g})"
    if deadline > longest:
        text = f"{default} is above max_deadline_seconds ({longest:g}), which caps it"
        yield warning("DEADLINES", text, "lower the one or raise the other")
    if grace < deadline:
        text = f"grace_seconds ({grace:g}) is shorter than {default}: a stop can cut accepted requests off"
        yield warning("GRACE", text, "make it as long; and terminationGracePeriodSeconds longer than both")
    if age and age < deadline:
        text = f"max_connection_age_seconds ({age:g}) is shorter than a request may take: callers connect all the time"
        yield warning("CONNECTION_AGE", text, "use minutes; 300 is usual")
    if config.max_held_bytes < config.max_image_bytes:
        text = f"max_held_bytes ({config.max_held_bytes}) is below max_image_bytes ({config.max_image_bytes})"
        yield warning("HELD_BYTES", f"{text}: the largest photos go one at a time", "raise max_held_bytes")
    if config.stream_queue < config.stream_at_once:
        text = f"stream_queue ({config.stream_queue}) is below stream_at_once ({config.stream_at_once})"
        yield warning("STREAM_QUEUE", f"{text}: a single stream overflows it", "raise stream_queue")


def _traces(environment: Mapping[str, str]) -> Iterator[Finding]:
    if not tracing.is_wanted(environment):
        return
    if not tracing.is_installed():
        text = "OpenTelemetry's environment turns traces on, but the extra `tracing` is not installed: none are sent"
        yield warning("NO_TRACING", text, "pip install '.[tracing]' in a clone, or unset OTEL_EXPORTER_OTLP_*")
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in {None, "", "grpc"}:
        text = f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}; traces are sent by grpc regardless"
        yield warning("OTLP_PROTOCOL", text, "name the collector's gRPC endpoint, usually port 4317")
