"""`dermserve doctor --target`: check a running gateway from outside, and the network on the way."""

import contextlib
import email.utils
import importlib.metadata
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import click
import grpc

from dermserve.cli.photos import shown
from dermserve.cli.root import Entry
from dermserve.cli.server import server_options
from dermserve.client import Client, DeadlineExceeded, DermserveError, Model, Overloaded, Unavailable
from dermserve.v1 import classifier_pb2

SETTINGS_DOCTOR = Entry("dermserve.doctor.cli:doctor", "Check the gateway's settings.", "gateway")
PICTURE = resources.files("dermserve.cli").joinpath("probe.png")  # a brown spot on a pale ground
_AT_ONCE = 8
_CLOCK_SECONDS = 60
_PORT = "correct HOST:PORT: the gateway's gRPC port is 50051 unless set otherwise"
_NAME = "ask by a name in the certificate, or name one by --tls-authority"
_CAUSES = (
    ("errors resolving", "NAME", "correct the name, or the DNS"),
    ("HTTP proxy returned", "PROXY_REFUSES", "the proxy must allow CONNECT to that port"),
    ("Failed to connect", "UNREACHABLE", "is the gateway running, the port right, and does a firewall let you pass?"),
    ("WRONG_VERSION_NUMBER", "NO_TLS", f"the other side does not speak TLS: leave --tls out, or {_PORT}"),
    ("Hostname Verification", "CERTIFICATE", _NAME),
    ("has expired", "CERTIFICATE", "renew the certificate; if it is valid still, set this machine's clock"),
    ("not yet valid", "CERTIFICATE", "set this machine's clock, or wait"),
    ("CERTIFICATE_VERIFY_FAILED", "CERTIFICATE", "name the authority that signed the certificate by --tls-ca"),
    ("ALPN", "NO_ALPN", "enable HTTP/2 where TLS ends there, without which gRPC does not connect"),
    ("Failed parsing HTTP/2", "NOT_GRPC", f"the other side is a web server or something else: {_PORT}"),
    ("in time", "SILENT", f"restart what hangs there, or {_PORT}"),
)
"""What gRPC's message has, the code for it, and what to do; the first that fits."""
_CLOSED = {
    False: f"if the port speaks TLS, use --tls; if a proxy has nothing behind it, start that; or {_PORT}",
    True: f"if it wants a client certificate, give one by --tls-cert and --tls-key; or {_PORT}",
}
"""What to do where the other side closes the connection, by whether TLS is used."""
COLOURS = {"ERROR": "red", "WARNING": "yellow", "NOTE": "cyan", "OK": "green"}  # by severity, the gravest first


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: severity, a stable code, what was found, and what to do."""

    severity: str  # ERROR: something does not work; WARNING: unsafe or unwise; NOTE: information; OK
    code: str
    what: str
    remedy: str = ""

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        severity = click.style(f"{self.severity.lower():8}", fg=COLOURS[self.severity], bold=True)
        remedy = f"\n         → {self.remedy}" if self.remedy else ""
        text = shown(f"{self.what} [{self.code}]{remedy}", keep="\n")
        click.echo(json.dumps(asdict(self)) if as_json else f"{severity} {text}")


class _Doctor(click.Command):
    """Checks a running gateway with --target, or where no gateway is installed; else the gateway's settings."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the command line with the options of one of the two commands."""
        if not any(argument.split("=")[0] in {"--target", "--server"} for argument in args):
            try:
                settings = SETTINGS_DOCTOR.load("dermserve doctor")
            except click.UsageError:
                pass
            else:
                return settings.make_context(info_name, args, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=_Doctor)
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a finding.")
@click.pass_context
def doctor(ctx: click.Context, /, *, client: Client, as_json: bool) -> None:
    """Check a running gateway from here: the address, proxies, TLS, the clock, time to an answer, models and load.

    Exit codes: 0 no errors, 1 errors, 2 wrong usage.
    """
    worst = 0
    for finding in examine(client):
        worst |= finding.severity == "ERROR"
        finding.show(as_json=as_json)
    ctx.exit(worst)


def examine(client: Client) -> Iterator[Finding]:
    """Check everything from the address to the answer; after a failure, skip what depends on it."""
    connection = client._connection
    if proxy := connection.way.proxy:
        text = f"calls to {connection.target} go through the proxy {proxy}: it must allow CONNECT to that port"
        yield Finding("WARNING", "PROXY", text, "list the host in no_proxy, if it can be reached without")
    if not (connection.tls or connection.target.startswith("unix:")):
        yield Finding("NOTE", "PLAINTEXT", "calls to the gateway are not encrypted", "use TLS beyond this machine")
    started = time.monotonic()
    try:
        models = client.models()
    except DermserveError as error:
        yield _diagnose(error, encrypted=connection.tls is not None)
        return
    yield Finding("OK", "ANSWERS", f"the gateway answers after {(time.monotonic() - started) * 1e3:.0f} ms")
    yield from _look_at_clock(client)
    yield from map(_look_at_model, models)
    if ready := [model.name for model in models if model.ready]:
        yield from _look_at_answers(client, ready[0])


def _diagnose(error: DermserveError, *, encrypted: bool) -> Finding:
    """Find the cause in the message of an error that gRPC made."""
    if isinstance(error, Unavailable | DeadlineExceeded) and error.reason == error.status:
        closed = [(words, "CLOSED", _CLOSED[encrypted]) for words in ("losed", "reset by peer")]
        for words, code, remedy in (*_CAUSES, *closed):
            if words in error.message:
                return Finding("ERROR", code, error.message, remedy)
    return Finding("ERROR", error.reason, error.message, f"see {error.help}")


def _look_at_clock(client: Client) -> Iterator[Finding]:
    """Compare this clock with the `date` that proxies such as Envoy add."""
    with contextlib.suppress(grpc.RpcError, KeyError, ValueError, TypeError):
        _, call = client._stub.ListModels.with_call(classifier_pb2.ListModelsRequest(), timeout=client._deadline)
        sent = dict(call.initial_metadata())
        off = time.time() - email.utils.parsedate_to_datetime(sent["date"]).timestamp()
        if abs(off) > _CLOCK_SECONDS:
            text = f"this clock and the gateway's differ by {off:.0f} s: certificates and tokens may look expired"
            yield Finding("WARNING", "CLOCK", text, "set both by NTP")


def _look_at_model(model: Model) -> Finding:
    told = ", ".join(f"version {one.version} {one.state} {'/'.join(one.labels)}".rstrip() for one in model.versions)
    if model.ready:
        return Finding("OK", "MODEL", f"{model.name}: {told}")
    remedy = "see the model server's log, and `model_unusable` in the gateway's"
    return Finding("ERROR", "MODEL_NOT_AVAILABLE", f"{model.name} can't answer: {told or 'no versions'}", remedy)


def _look_at_answers(client: Client, model: str) -> Iterator[Finding]:
    """Send a drawn picture: once to measure the time, then several at once to see whether any is refused."""
    picture, deadline = PICTURE.read_bytes(), client._deadline
    try:
        started = time.monotonic()
        theirs = client.classify(picture, model=model).gateway_version
        took = time.monotonic() - started
    except DermserveError as error:
        yield Finding("ERROR", error.reason, f"a picture is not classified: {error.message}", f"see {error.help}")
        return
    at_once = client.classify_many([picture] * _AT_ONCE, model=model, in_flight=_AT_ONCE, retry_overloaded=False)
    errors = [answer.error for answer in at_once if answer.error]
    text = f"{model} answers for one picture after {took * 1e3:.0f} ms, of {deadline:g} s allowed"
    late = ("WARNING", "ANSWER_TIME", text, "allow more time, or see docs/performance.md")
    yield Finding(*late) if took > deadline / 2 else Finding("OK", "ANSWER_TIME", text)
    if theirs != (ours := importlib.metadata.version("dermserve")):
        text = f"the gateway is version {theirs or 'unknown'}, this client {ours}"
        yield Finding("NOTE", "VERSIONS", text, "CHANGELOG.md says what changed between them")
    for one in {one.reason: one for one in errors}.values():
        yield _refused(one, [one.reason for one in errors].count(one.reason))


def _refused(error: DermserveError, count: int) -> Finding:
    text = f"of {_AT_ONCE} pictures at once, {count} got {error.reason}"
    if error.reason == "MODEL_SERVER_BUSY":
        remedy = "raise --grpc_max_threads of TensorFlow Serving above the gateways' calls in flight (64 suits most)"
        return Finding("WARNING", error.reason, f"{text}: TensorFlow Serving has fewer threads than calls", remedy)
    severity = "WARNING" if isinstance(error, Overloaded) else "ERROR"
    return Finding(severity, error.reason, f"{text}: {error.message}", f"see {error.help}")
