"""Models of a gateway with their versions, labels, states and cards, as frozen values."""

from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from dermserve.client._enums import OpenEnum
from dermserve.v1 import card_pb2, classifier_pb2


class VersionState(OpenEnum):
    """State of a version in the model server. A state this client does not know reads `UNKNOWN_<number>`."""

    START = "START"
    """Known to the model server, not loading yet."""
    LOADING = "LOADING"
    """Being loaded."""
    AVAILABLE = "AVAILABLE"
    """Can answer."""
    UNLOADING = "UNLOADING"
    """Being unloaded."""
    END = "END"
    """Unloaded, or failed to load."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model."""

    version: int
    """The number of its directory in the store."""
    state: VersionState
    """State in the model server."""
    labels: tuple[str, ...]
    """Labels that point to it."""
    ready: bool
    """Whether the gateway has read its card, so that it can answer."""
    card: card_pb2.Card | None
    """The card; None from `models()`, and for versions that can't answer."""

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values; `card` is the card's proto3 JSON, absent when there is none."""
        values: dict[str, Any] = {
            "version": self.version,
            "state": str(self.state),
            "labels": list(self.labels),
            "ready": self.ready,
        }
        if self.card is not None:
            values["card"] = json_format.MessageToDict(self.card, preserving_proto_field_name=True)
        return values


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its versions."""

    name: str
    """For example "resnet50"."""
    versions: tuple[ModelVersion, ...]
    """Versions the model server knows, newest first."""

    @property
    def ready(self) -> bool:
        """Whether any version can answer."""
        return any(version.ready for version in self.versions)

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON values, with the keys that `dermserve models --json` prints."""
        return {
            "name": self.name,
            "ready": self.ready,
            "versions": [version.to_dict() for version in self.versions],
        }


def read_model(message: classifier_pb2.Model) -> Model:
    """Make a model from the wire's."""
    return Model(message.name, tuple(_read_version(version) for version in message.versions))


def _read_version(message: classifier_pb2.ModelVersion) -> ModelVersion:
    state = VersionState.from_number(message.state, names=classifier_pb2.VersionState, prefix="VERSION_STATE_")
    card = message.card if message.HasField("card") else None
    return ModelVersion(message.version, state, tuple(message.labels), message.ready, card)
