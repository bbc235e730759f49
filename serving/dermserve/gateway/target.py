"""Which model is to answer: what the caller chose, checked."""

from dataclasses import dataclass

from dermserve.gateway.errors import InvalidLabelError, InvalidVersionError, MissingModelError
from dermserve.v1 import classifier_pb2

_MAX_LABEL = 128


@dataclass(frozen=True, slots=True)
class Target:
    """A model and, if not its latest version, which one."""

    model: str
    version: int | None = None
    label: str | None = None


def read_target(selector: classifier_pb2.ModelSelector) -> Target:
    """Check a caller's choice.

    Raises:
        InvalidRequestError: no model, a version below 1, or a label empty or too long.
    """
    if not selector.name:
        raise MissingModelError
    choice = selector.WhichOneof("choice")
    if choice == "version":
        if selector.version < 1:
            raise InvalidVersionError(selector.version)
        return Target(selector.name, version=selector.version)
    if choice == "label":
        if not 0 < len(selector.label) <= _MAX_LABEL:  # TF Serving would send it back in a header too large to arrive
            raise InvalidLabelError
        return Target(selector.name, label=selector.label)
    return Target(selector.name)
