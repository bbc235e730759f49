"""A share of the callers who name no version gets the canary, always the same ones: nobody sees answers alternate."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from dermserve.gateway.target import Target

STABLE, CANARY = "stable", "canary"
CALLER_KEY = "x-caller-key"
"""Metadata key whose value tells callers apart; it is hashed and goes nowhere else."""


def read_caller(metadata: "Iterable[tuple[str, str | bytes]]", *, otherwise: str) -> str:
    """Return what tells this caller from others; without the metadata every request counts as a caller of its own."""
    return next((value for key, value in metadata if key == CALLER_KEY and isinstance(value, str)), otherwise)


def route(target: Target, *, share: float, caller: str, labels: Mapping[str, int]) -> Target:
    """Point a target that names neither version nor label at `canary` or `stable`.

    While the model server knows no canary, the target stays as it is: the newest version. With one, and no share, all
    get the stable version: a canary is usually the newest, and nobody asked for it.
    """
    if target.version is not None or target.label is not None or CANARY not in labels:
        return target
    if _draw(target.model, caller) < share:
        return replace(target, label=CANARY)
    return replace(target, label=STABLE) if STABLE in labels else target


def _draw(model: str, caller: str) -> float:
    """Give each caller a fixed number in [0, 1), spread evenly and independently for each model."""
    digest = hashlib.sha256(f"{model}\0{caller}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
