"""Check a version before it serves: files and signature as published, required figures, answers as at export."""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dermserve.contract import CardError, parse_card
from dermserve.models.lifecycle.errors import GateError, NoServerError, ServerError, StoreError
from dermserve.models.lifecycle.manifest import GOLDEN, MANIFEST, WARMUP, problems, read_records
from dermserve.models.lifecycle.server_config import Desk
from dermserve.models.lifecycle.servers import Server, state_name
from dermserve.models.lifecycle.stores import Store, known_version
from dermserve.models.rounding import comparable
from dermserve.tfserving.v1 import management_pb2, serving_pb2, tensor_pb2
from dermserve.v1 import card_pb2

_COMPARED: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_SPLITS = ("_grouped", "_by_image")  # how an evaluation split its photos: suffixes of the names in a card
_KINDS = {WARMUP: "warm-up", GOLDEN: "golden"}
_TOLERANCE = 1e-3  # relative to the largest value of a tensor, or 1: processors and thread counts round differently


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    server: str  # address; empty for the store
    what: str  # for people: the record and its signature key
    problem: str  # empty when all is well


def verify_files(
    store: Store, public_key: Path | None, model: str | None = None, version: int | None = None
) -> Iterator[Check]:
    """Check the files of all versions, or of one model or version, by manifests and, with a key, signatures."""
    if model is not None:
        known_version(store, model, version)
    models = store.models() if model is None else [model]
    if not models:
        raise StoreError(f"{store.base} has no version of any model")
    for name in models:
        for one in store.versions(name) if version is None else [version]:
            where = f"{store.base}/{name}/{one}"
            try:
                _read(store, name, one, MANIFEST)
                with store.opened(name, one) as folder:
                    problem = "; ".join(problems(folder, public_key, model=name, where=where))
            except StoreError as error:
                problem = str(error)
            yield Check("", f"files {'and signature ' * bool(public_key)}of {where}", problem)


def verify_answers(store: Store, servers: Sequence[Server], model: str, version: int) -> Iterator[Check]:
    """Replay a version's warm-up and golden predictions on every server; a StoreError if it has none."""
    records = list[tuple[str, management_pb2.PredictLog]]()
    for name in (WARMUP, GOLDEN):
        where = f"{store.base}/{model}/{version}/{name}"
        found = list(read_records(_read(store, model, version, name), where=where))
        if not found:
            raise StoreError(f"{where} is empty")
        records += [(name, record) for record in found]
    for server in servers:
        states = {state.version: state_name(state.state) for state in server.states(model)}
        if (state := states.get(version, "not known to this server")) != "AVAILABLE":
            yield Check(server.address, f"version {version} of {model}", f"{state}: promote it first, or canary it")
            continue
        for name, record in records:
            request = serving_pb2.PredictRequest()
            request.CopyFrom(record.request)
            request.model_spec.name = model
            request.model_spec.version.value = version
            sizes = [size for tensor in request.inputs.values() for size in _shape(tensor)[:1]]
            images = f", {sizes[0]} images" if sizes else ""
            what = f"{_KINDS[name]}: {request.model_spec.signature_name}{images}"
            yield Check(server.address, what, _replay(server, request, record.response if name == GOLDEN else None))


def _read(store: Store, model: str, version: int, name: str) -> bytes:
    data = store.read(model, version, name)
    if data is None:
        why = "it was exported by an older dermserve or by something else, and can't be verified; export it again"
        raise StoreError(f"version {version} of {model} has no {name}: {why}")
    return data


def _replay(server: Server, request: serving_pb2.PredictRequest, golden: serving_pb2.PredictResponse | None) -> str:
    """Return the problem, if any; the answer must be the golden one, if there is one."""
    try:
        answer = server.predict(request)
    except NoServerError:
        raise
    except ServerError as error:
        return str(error)
    if answer.model_spec.version.value != request.model_spec.version.value:
        return f"version {answer.model_spec.version.value} answered"
    if golden is None:
        return "" if answer.outputs else "the answer is empty"
    if answer.outputs.keys() != golden.outputs.keys():
        return f"outputs are {sorted(answer.outputs)}, not {sorted(golden.outputs)}"
    differences = {name: _difference(name, answer.outputs[name], value) for name, value in golden.outputs.items()}
    worst = max(differences, key=lambda name: differences[name])
    if differences[worst] <= _TOLERANCE:
        return ""
    how = "" if math.isinf(differences[worst]) else f" by {differences[worst]:.2g}, more than {_TOLERANCE:g}"
    return f"{worst} differs{how}"


def _difference(name: str, actual: tensor_pb2.TensorProto, expected: tensor_pb2.TensorProto) -> float:
    """Largest difference, relative to the largest expected value or 1; infinite when they can't be compared."""
    if actual.dtype != expected.dtype or _shape(actual) != _shape(expected):
        return math.inf
    if expected.dtype == tensor_pb2.DATA_TYPE_STRING:
        return 0.0 if list(actual.string_val) == list(expected.string_val) else math.inf
    ours, theirs = (comparable(name, _floats(tensor)) for tensor in (actual, expected))
    if ours.shape != theirs.shape or not (np.isfinite(ours) & np.isfinite(theirs)).all():
        return math.inf
    return float(np.abs(ours - theirs).max(initial=0.0) / max(1.0, np.abs(theirs).max(initial=0.0)))


def _floats(tensor: tensor_pb2.TensorProto) -> NDArray[np.float32]:
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4")
    values = np.asarray(tensor.float_val, np.float32)
    lacking = math.prod(_shape(tensor)) - len(values)
    # The last value of a short list is repeated: TensorFlow shortens tensors of equal values.
    return np.pad(values, (0, lacking), mode="edge") if len(values) and lacking > 0 else values


def _shape(tensor: tensor_pb2.TensorProto) -> Sequence[int]:
    return [dim.size for dim in tensor.tensor_shape.dim]


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bound on a figure of the evaluation."""

    name: str
    comparison: str
    bound: float

    def problem(self, figures: dict[str, float]) -> str:
        """Say why a version with these figures does not meet the requirement; nothing if it does."""
        named = [figures[name] for name in (self.name, *(self.name + split for split in _SPLITS)) if name in figures]
        if not named:
            return f"its evaluation has no {self.name}; it has {', '.join(sorted(figures)) or 'no figures at all'}"
        if _COMPARED[self.comparison](named[0], self.bound):
            return ""
        return f"{self.name} is {named[0]:.12g}, not {self.comparison} {self.bound:.12g}"


def check_figures(store: Store, model: str, version: int, requirements: Sequence[Requirement]) -> None:
    """Check the figures in the card of a version's golden predictions; a GateError or, without a card, StoreError."""
    if not requirements:
        return
    where = f"{store.base}/{model}/{version}/{GOLDEN}"
    try:
        records = list(read_records(store.read(model, version, GOLDEN) or b"", where=where))
        texts = [record.response.outputs["card"].string_val for record in records if "card" in record.response.outputs]
        card = parse_card(texts[0][0])
    except (IndexError, CardError) as error:
        raise StoreError(f"{where} holds no card, so nothing is known of the version's evaluation") from error
    found = dict(card.provenance.metrics)
    for point in ("rule_out", "rule_in"):
        measured: card_pb2.OperatingPoint = getattr(card.calibration, point)
        for name, share in (("sensitivity", measured.sensitivity), ("specificity", measured.specificity)):
            if measured.HasField(name):
                ends = {"": share.value, "_low": share.low, "_high": share.high}
                found |= {f"{point}_{name}{end}": value for end, value in ends.items()}
    if problems := [problem for one in requirements if (problem := one.problem(found))]:
        raise GateError(f"version {version} of {model} is not good enough: {'; '.join(problems)}")


def check_version(desk: Desk, model: str, version: int, *, answers: bool) -> None:
    """Check a loaded version's files and signature, and on every server its answers. Raises GateError: a check failed.

    Without `answers` only its files and signature are checked, and only with a public key.
    """
    if answers and desk.store.read(model, version, GOLDEN) is None:
        desk.say(f"version {version} of {model} has no golden predictions: its answers were not checked")
        answers = False
    checks: list[Check] = []
    if answers or desk.public_key is not None:
        checks += verify_files(desk.store, desk.public_key, model, version)
    if answers:
        checks += verify_answers(desk.store, desk.servers, model, version)
    if wrong := [f"{check.server or 'store'}: {check.what}: {check.problem}" for check in checks if check.problem]:
        raise GateError(f"version {version} of {model} is not what was exported: {'; '.join(wrong)}")
