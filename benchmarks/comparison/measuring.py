"""One contender in one round: its start, its answers checked, closed loops of callers, its memory."""

import base64
import http.client
import itertools
import json
import pathlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.comparison.field import DIRECT, OURS, Contender
from benchmarks.comparison.running import ContenderError, Running, running
from benchmarks.serving import Loop, closed_loop, direct_caller, gateway_caller
from dermserve.models.catalogue import SPECS

Answer = Callable[[bytes], list[float]]
VIEWS = {"1": 1, "10": 10, "adaptive": 10}
"""How many views each kind of call asks for at most."""
_MODES = {"1": "none", "10": "full", "adaptive": "adaptive"}
_FIRST = 180.0
_TIMEOUT = 120.0
_LOOK = 0.1
TOLERANCE = 2e-3
"""Between a contender's probabilities and the reference's: networks are compiled differently, not alike to the bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much to measure."""

    callers: tuple[int, ...]
    kinds: tuple[str, ...]
    """Keys of VIEWS."""
    seconds: float
    """Of each loop."""
    warm_up: float
    """Seconds of calls before each loop, not counted."""
    photos: tuple[bytes, ...]
    weights: pathlib.Path
    environments: pathlib.Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One contender, one model, one round."""

    contender: str
    model: str
    start_seconds: float
    """From its start to its first answer."""
    idle_mb: float
    """After the first answers."""
    loaded_mb: float
    """After the loops."""
    loops: Mapping[str, Loop] = field(default_factory=dict)
    """By "KIND/CALLERS", for example "10/8"."""


Reference = Mapping[tuple[str, str], Sequence[Sequence[float]]]
"""Each photo's probabilities by model and kind."""


def kinds_of(contender: Contender, kinds: Sequence[str]) -> list[str]:
    """Return what a contender can be asked: ADAPTIVE is ours alone, and so are the views of those as documented."""
    if _ours(contender):
        return list(kinds)
    return [kind for kind in kinds if kind == "1" or (kind == "10" and not contender.documented)]


def _ours(contender: Contender) -> bool:
    return contender.name == OURS


def visit(contender: Contender, model: str, plan: Plan, reference: Reference, say: Callable[[str], None]) -> Visit:
    """Start a contender, check it, measure it, stop it.

    Raises:
        ContenderError: it does not start, or answers something else than the reference.
    """
    with running(contender, model, weights=plan.weights, environments=plan.environments) as server:
        _answer_first(contender, server, model, plan.photos[0])
        start = time.monotonic() - server.started
        for kind in kinds_of(contender, ("1", "10")):
            _check(contender, server, model, kind, plan, reference)
        idle, loops = server.megabytes(), {}
        for kind, callers in itertools.product(kinds_of(contender, plan.kinds), plan.callers):
            calls = [caller(contender, server.address, model, kind) for _ in range(callers)]
            loop = closed_loop(calls, plan.photos, seconds=plan.seconds, warm_up=plan.warm_up)
            loops[f"{kind}/{callers}"] = loop
            say(
                f"    {kind} view(s), {callers} callers: {loop.answers:.1f}/s, p50 {loop.p50:.0f} ms, "
                f"p99 {loop.p99:.0f} ms"
            )
        return Visit(
            contender=contender.name, model=model, start_seconds=start, idle_mb=idle, loaded_mb=server.megabytes(),
            loops=loops,
        )  # fmt: skip


def _answer_first(contender: Contender, server: Running, model: str, photo: bytes) -> None:
    """Wait for the first answer; some listen before their model is there, and refuse calls until then."""
    while True:
        try:
            caller(contender, server.address, model, "1")(photo)
            return
        except ContenderError:
            if time.monotonic() - server.started > _FIRST:
                raise
            time.sleep(_LOOK)


def _check(contender: Contender, server: Running, model: str, kind: str, plan: Plan, reference: Reference) -> None:
    """Compare answers with the reference; one with a decoder of its own must give probabilities, not the same ones."""
    call = caller(contender, server.address, model, kind)
    for index, (photo, expected) in enumerate(zip(plan.photos, reference[model, kind], strict=True)):
        found = call(photo)
        off = abs(sum(found) - 1) if contender.documented else float(np.abs(np.subtract(found, expected)).max())
        if off > TOLERANCE or len(found) != len(expected):
            raise ContenderError(
                f"{contender.title} answers something else for {model}, {kind} view(s), photo {index}: "
                f"a probability is off by {off:.4f}; nothing it does can be compared"
            )


def references(plan: Plan, contender: Contender, models: Sequence[str]) -> Reference:
    """Ask the reference, which is dermserve itself, for every photo's probabilities.

    Raises:
        ContenderError: its answers don't tell photos apart, so that they could not tell contenders apart either.
    """
    found: dict[tuple[str, str], list[list[float]]] = {}
    for model in models:
        with running(contender, model, weights=plan.weights, environments=plan.environments) as server:
            for kind in ("1", "10"):
                call = caller(contender, server.address, model, kind)
                found[model, kind] = [call(photo) for photo in plan.photos]
            if float(np.ptp(np.array(found[model, "1"]), axis=0).max()) < TOLERANCE:
                raise ContenderError(f"{model} says the same of all photos: take others, or weights that were trained")
    return found


def caller(contender: Contender, address: str, model: str, kind: str) -> Answer:
    """Make a caller with a connection of its own: photo bytes in, probabilities in the model's own order out."""
    if contender.name == DIRECT:
        return direct_caller(address, model, VIEWS[kind])
    if not _ours(contender):
        return _http(contender, address, VIEWS[kind])
    call, codes = gateway_caller(address, model, _MODES[kind]), [each.code for each in SPECS[model].classes]

    def ask(photo: bytes) -> list[float]:
        found = {each.code: each.probability for each in call(photo).classes}
        return [found[code] for code in codes]

    return ask


def _http(contender: Contender, address: str, views: int) -> Answer:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT)
    prepare = {"raw": _raw, "multipart": _multipart, "json": _json}[contender.upload]
    made: dict[bytes, tuple[str, bytes, dict[str, str]]] = {}

    def call(photo: bytes) -> list[float]:
        if photo not in made:
            made[photo] = prepare(photo, views)
        path, body, headers = made[photo]
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise ContenderError(f"{contender.title} answered {response.status}: {answer[:300]!r}")
        return [float(value) for value in json.loads(answer)["probabilities"]]

    return call


def _raw(photo: bytes, views: int) -> tuple[str, bytes, dict[str, str]]:
    return f"/classify?views={views}", photo, {"Content-Type": "image/jpeg"}


def _json(photo: bytes, views: int) -> tuple[str, bytes, dict[str, str]]:
    body = json.dumps({"photo": base64.b64encode(photo).decode(), "views": views})
    return "/classify", body.encode(), {"Content-Type": "application/json"}


def _multipart(photo: bytes, views: int) -> tuple[str, bytes, dict[str, str]]:
    mark = uuid.uuid4().hex
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="views"\r\n\r\n{views}\r\n'
        f'--{mark}\r\nContent-Disposition: form-data; name="photo"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + photo + f"\r\n--{mark}--\r\n".encode()
    return "/classify", body, {"Content-Type": f"multipart/form-data; boundary={mark}"}
