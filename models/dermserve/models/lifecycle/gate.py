"""What a version must meet before it is given callers: figures of its evaluation, and its golden predictions."""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dermserve.contract import CardError, parse_card
from dermserve.models.lifecycle.desk import Desk
from dermserve.models.lifecycle.errors import GateError, StoreError
from dermserve.models.lifecycle.records import GOLDEN, read_records
from dermserve.models.lifecycle.replay import Check, check_files, verify_version
from dermserve.models.lifecycle.stores import Store
from dermserve.v1 import card_pb2

_COMPARED: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_REQUIREMENT = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([-+.\deE]+)(%?)\s*")
_SPLITS = ("_grouped", "_by_image")
"""How an evaluation kept training and test photos apart: ends of the names in a card."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bound on a figure of the evaluation."""

    name: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Read `accuracy>=0.8` or `accuracy>=80%`.

        Raises:
            ValueError: it is something else.
        """
        found = _REQUIREMENT.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no requirement: write one like accuracy>=0.8, with >=, <=, > or <")
        return cls(found[1], found[2], float(found[3]) / (100 if found[4] else 1))

    def problem(self, figures: dict[str, float]) -> str:
        """Say what is wrong with a version that has these figures; nothing when it meets the requirement."""
        named = [figures[name] for name in (self.name, *(self.name + split for split in _SPLITS)) if name in figures]
        if not named:
            return f"its evaluation has no {self.name}; it has {', '.join(sorted(figures)) or 'no figures at all'}"
        if _COMPARED[self.comparison](named[0], self.bound):
            return ""
        return f"{self.name} is {named[0]:.4g}, not {self.comparison} {self.bound:g}"


def figures(store: Store, model: str, version: int) -> dict[str, float]:
    """Read what the evaluation of a version came to, by name, from the card that its golden predictions hold.

    Besides the card's figures: `rule_out_sensitivity`, `rule_in_specificity` and their `_low` and `_high` bounds.

    Raises:
        StoreError: the version has no golden predictions, or no card in them.
    """
    where = f"{store.base}/{model}/{version}/{GOLDEN}"
    try:
        records = list(read_records(store.read(model, version, GOLDEN), where=where))
        texts = [record.response.outputs["card"].string_val for record in records if "card" in record.response.outputs]
        card = parse_card(texts[0][0])
    except (FileNotFoundError, IndexError, CardError) as error:
        raise StoreError(f"{where} holds no card, so nothing is known of the version's evaluation") from error
    found = dict(card.provenance.metrics)
    for point in ("rule_out", "rule_in"):
        measured: card_pb2.OperatingPoint = getattr(card.calibration, point)
        for name, share in (("sensitivity", measured.sensitivity), ("specificity", measured.specificity)):
            if measured.HasField(name):
                ends = {"": share.value, "_low": share.low, "_high": share.high}
                found |= {f"{point}_{name}{end}": value for end, value in ends.items()}
    return found


def check_figures(store: Store, model: str, version: int, requirements: Sequence[Requirement]) -> None:
    """Check a version's evaluation.

    Raises:
        GateError: it does not meet a requirement.
        StoreError: nothing is known of its evaluation.
    """
    known = figures(store, model, version) if requirements else {}
    if problems := [problem for one in requirements if (problem := one.problem(known))]:
        raise GateError(f"version {version} of {model} is not good enough: {'; '.join(problems)}")


def check_version(desk: Desk, model: str, version: int, *, answers: bool) -> None:
    """Check a version's files and signature, and on every server that it answers as it did when it was exported.

    Args:
        desk: the store, its servers and the public key.
        model: which.
        version: it must be loaded.
        answers: without, only the signature is checked, and only with a public key.

    Raises:
        GateError: something is wrong.
        NoServerError: a server does not answer.
    """
    checks: Iterator[Check] = iter(())
    if answers and _has_golden(desk, model, version):
        checks = verify_version(desk.store, desk.servers, model, version, public_key=desk.public_key)
    elif desk.public_key is not None:
        checks = check_files(desk.store, model, version, desk.public_key)
    if wrong := [f"{check.server or 'store'}: {check.what}: {check.problem}" for check in checks if not check.ok]:
        raise GateError(f"version {version} of {model} is not what was exported: {'; '.join(wrong)}")


def _has_golden(desk: Desk, model: str, version: int) -> bool:
    try:
        desk.store.read(model, version, GOLDEN)
    except FileNotFoundError:
        desk.say(f"version {version} of {model} has no golden predictions: its answers were not checked")
        return False
    return True
