"""Check the settings and the files that they name, without any network."""

import datetime
import pathlib
import stat
from collections import Counter
from collections.abc import Iterator, Mapping

from dermserve.doctor.findings import Finding, Severity
from dermserve.gateway import tracing
from dermserve.gateway.canary import CANARY
from dermserve.gateway.certificates import is_key_of, read_certificates
from dermserve.gateway.config import Config, is_loopback

_SOON = datetime.timedelta(days=30)
_ERROR, _WARNING, _NOTE = Severity


def look_at_settings(config: Config, *, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Find what is unsafe, contradicts itself, or has no effect."""
    yield from _exposure(config)
    for name in config.certificates:
        yield from _certificate(name, config.certificates[name])
    for certificate, key in (("tls_certificate", "tls_key"), ("tfs_tls_certificate", "tfs_tls_key")):
        yield from _key(config, certificate, key)
    yield from _addresses(config)
    yield from _time(config)
    yield from _load(config)
    yield from _canary(config)
    yield from _traces(environment)


def _exposure(config: Config) -> Iterator[Finding]:
    exposed = not is_loopback(config.listen)
    if exposed and not config.tls_certificate:
        yield Finding(
            _WARNING,
            "NO_TLS",
            f"listen is {config.listen}, which others can reach, without TLS: photos travel in plain text",
            "set tls_certificate and tls_key, unless something in front of it encrypts and nothing else can reach it",
        )
    if exposed and not config.tls_client_ca:
        yield Finding(
            _WARNING,
            "NO_CLIENT_CA",
            f"whoever can reach {config.listen} may ask: the gateway knows no users and trusts its callers",
            "set tls_client_ca, so that callers must show a certificate; or let only the edge reach it",
        )
    if config.reflection:
        yield Finding(
            _WARNING if exposed else _NOTE,
            "REFLECTION",
            "reflection shows the whole API to anyone who connects",
            "set reflection to false outside development",
        )
    if config.metrics_listen and not is_loopback(config.metrics_listen):
        yield Finding(
            _NOTE,
            "METRICS_EXPOSED",
            f"metrics are served in plain text on {config.metrics_listen}: model names, versions and load",
            "let only Prometheus reach that port, for example by a NetworkPolicy",
        )
    if plain := [address for address in config.tfs if not (config.tfs_tls_ca or is_loopback(address))]:
        yield Finding(
            _WARNING,
            "TFS_NOT_ENCRYPTED",
            f"calls to {', '.join(plain)} are not encrypted, and its answers are trusted",
            "set tfs_tls_ca, put TensorFlow Serving into the same pod, or have the cluster encrypt",
        )


def _certificate(name: str, file: pathlib.Path) -> Iterator[Finding]:
    try:
        certificates = read_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        yield Finding(_ERROR, "CERTIFICATE_UNREADABLE", f"{name} {file}: {error}", "give a PEM file of certificates")
        return
    now = datetime.datetime.now(datetime.UTC)
    for certificate in certificates:
        whose = f"{name} {file}, {certificate.subject.rfc4514_string() or 'without a subject'}"
        ends = certificate.not_valid_after_utc
        if ends <= now:
            yield Finding(_ERROR, "CERTIFICATE_EXPIRED", f"{whose}: expired on {ends:%Y-%m-%d}", "renew it")
        elif ends - now < _SOON:
            days = (ends - now).days
            text = f"{whose}: expires on {ends:%Y-%m-%d}, in {days} days"
            yield Finding(_WARNING, "CERTIFICATE_EXPIRES", text, "renew it; the gateway needs no restart")
        if certificate.not_valid_before_utc > now:
            text = f"{whose}: not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            yield Finding(_ERROR, "CERTIFICATE_NOT_YET_VALID", text, "check this machine's clock, or wait")


def _key(config: Config, certificate_name: str, key_name: str) -> Iterator[Finding]:
    certificate: pathlib.Path | None = getattr(config, certificate_name)
    key: pathlib.Path | None = getattr(config, key_name)
    if certificate is None or key is None:
        return
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        text = f"{key_name} {key} can be read by every user of this machine"
        yield Finding(_WARNING, "KEY_READABLE", text, f"chmod o= {key}; replace the key if others could have read it")
    try:
        fits = is_key_of(key.read_bytes(), read_certificates(certificate.read_bytes())[0])
    except (OSError, ValueError) as error:
        yield Finding(
            _ERROR, "KEY_UNREADABLE", f"{key_name} {key}: {error}", "give its private key as PEM, unencrypted"
        )
        return
    if not fits:
        text = f"{key_name} {key} is not the key of the first certificate in {certificate}: no connection will succeed"
        yield Finding(_ERROR, "KEY_MISMATCH", text, "give the key that the certificate was made for, its own first")


def _addresses(config: Config) -> Iterator[Finding]:
    names = ("listen", "health_listen", "metrics_listen")
    taken = Counter(address for name in names if (address := getattr(config, name)) and not address.endswith(":0"))
    for address in [address for address, count in taken.items() if count > 1]:
        text = f"{address} is set for more than one of {', '.join(names)}: the gateway won't start"
        yield Finding(_ERROR, "ADDRESS_TWICE", text, "give each a port of its own")
    if doubled := [address for address, count in Counter(config.tfs).items() if count > 1]:
        text = f"tfs names {', '.join(doubled)} more than once: it gets twice its calls in flight"
        yield Finding(_WARNING, "TFS_TWICE", text, "name each address once")


def _time(config: Config) -> Iterator[Finding]:
    if config.default_deadline_seconds > config.max_deadline_seconds:
        text = (
            f"default_deadline_seconds ({config.default_deadline_seconds:g}) is above max_deadline_seconds "
            f"({config.max_deadline_seconds:g}), which caps it"
        )
        yield Finding(_WARNING, "DEADLINES", text, "lower the one or raise the other")
    if config.grace_seconds < config.default_deadline_seconds:
        text = (
            f"grace_seconds ({config.grace_seconds:g}) is shorter than default_deadline_seconds "
            f"({config.default_deadline_seconds:g}): a stop can cut accepted requests off"
        )
        yield Finding(_WARNING, "GRACE", text, "make it as long; and terminationGracePeriodSeconds longer than both")
    age = config.max_connection_age_seconds
    if age and age < config.default_deadline_seconds:
        text = f"max_connection_age_seconds ({age:g}) is shorter than a request may take: callers connect all the time"
        yield Finding(_WARNING, "CONNECTION_AGE", text, "use minutes; 300 is usual")
    if config.decoder_stuck_seconds < config.default_deadline_seconds:
        text = (
            f"decoder_stuck_seconds ({config.decoder_stuck_seconds:g}) is shorter than default_deadline_seconds "
            f"({config.default_deadline_seconds:g}): threads that are only slow are replaced by more"
        )
        yield Finding(_WARNING, "DECODER_STUCK", text, "make it longer than any photo takes to decode")


def _load(config: Config) -> Iterator[Finding]:
    in_flight = config.tfs_in_flight * len(config.tfs)
    if config.at_once is not None and config.at_once < in_flight:
        text = f"at_once ({config.at_once}) is below the {in_flight} calls the model servers may have in flight"
        yield Finding(_WARNING, "AT_ONCE", f"{text}: they are never all used", "leave at_once out")
    if config.queue > 3 * in_flight:
        text = (
            f"queue ({config.queue}) is over three times the {in_flight} calls in flight: under overload, accepted "
            "requests take as many times as long"
        )
        yield Finding(_WARNING, "LONG_QUEUE", text, "leave queue out; clients are told when to try again")
    if config.max_held_bytes < config.max_image_bytes:
        text = f"max_held_bytes ({config.max_held_bytes}) is below max_image_bytes ({config.max_image_bytes})"
        yield Finding(_WARNING, "HELD_BYTES", f"{text}: the largest photos go one at a time", "raise max_held_bytes")
    if config.stream_queue < config.stream_at_once:
        text = f"stream_queue ({config.stream_queue}) is below stream_at_once ({config.stream_at_once})"
        yield Finding(_WARNING, "STREAM_QUEUE", f"{text}: a single stream overflows it", "raise stream_queue")


def _canary(config: Config) -> Iterator[Finding]:
    if (config.canary_file or any(config.canary_shares.values())) and CANARY not in config.labels:
        text = f"a canary's share is set, but labels does not name {CANARY}: it is not looked up, and nobody gets it"
        yield Finding(_ERROR, "CANARY_LABEL", text, f"add {CANARY} to labels")


def _traces(environment: Mapping[str, str]) -> Iterator[Finding]:
    if not tracing.is_wanted(environment):
        return
    if not tracing.is_installed():
        text = "OpenTelemetry's environment turns traces on, but the extra `tracing` is not installed: none are sent"
        yield Finding(_WARNING, "NO_TRACING", text, "pip install 'dermserve[tracing]', or unset OTEL_EXPORTER_OTLP_*")
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in {None, "", "grpc"}:
        text = f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}; traces are sent by grpc regardless"
        yield Finding(_WARNING, "OTLP_PROTOCOL", text, "name the collector's gRPC endpoint, usually port 4317")
