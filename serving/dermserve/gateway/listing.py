"""The catalog in the API's words."""

from dermserve.gateway.catalog import KnownModel, KnownVersion
from dermserve.v1 import classifier_pb2


def write_model(model: KnownModel, *, cards: bool) -> classifier_pb2.Model:
    """Write a model as last seen, with or without the cards of its versions."""
    versions = [_version(model, version, card=cards) for version in model.versions]
    return classifier_pb2.Model(name=model.name, versions=versions)


def _version(model: KnownModel, version: KnownVersion, *, card: bool) -> classifier_pb2.ModelVersion:
    return classifier_pb2.ModelVersion(
        version=version.number,
        state=version.state,
        labels=sorted(label for label, number in model.labels.items() if number == version.number),
        card=version.card if card else None,
        ready=version.ready,
    )
