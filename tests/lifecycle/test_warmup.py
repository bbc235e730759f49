"""A version's warm-up has what the gateway will ask: TensorFlow prepares a graph for each set of inputs and outputs."""

import asyncio
import pathlib

import pytest

from dermserve.models.lifecycle.records import WARMUP, read_records
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import classifier_pb2
from tests.gateway.fake_tfserving import FakeTfServing, Version, make_card
from tests.gateway.gateways import ask, running

MODELS = ("resnet50", "mobilenet_v3_small")
MODES = (classifier_pb2.TTA_MODE_NONE, classifier_pb2.TTA_MODE_FULL, classifier_pb2.TTA_MODE_ADAPTIVE)


def _kind(request: serving_pb2.PredictRequest) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    spec = request.model_spec
    # What describe is asked is ignored by the graph.
    inputs = () if spec.signature_name == "describe" else tuple(sorted(request.inputs))
    return spec.name, spec.signature_name, inputs, tuple(sorted(request.output_filter))


async def _asked_by_the_gateway() -> set[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    models = {name: {1: Version(make_card(name, min_confidence=0.5, adaptive_margin=1.0))} for name in MODELS}
    fake = FakeTfServing(models=models)
    async with fake.serving() as address, running(tfs_address=address) as world:
        for model in MODELS:
            for mode in MODES:
                await world.stub.Classify(ask(model=model, tta=mode), timeout=30)
    assert len(fake.predicts) == len(MODELS) * (len(MODES) + 1)  # ADAPTIVE asks twice
    described = {(model, "describe", (), ()) for model, _ in fake.describes}
    return {_kind(request) for request in fake.predicts} | described


@pytest.fixture(scope="module")
def warmed(store: pathlib.Path) -> set[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    files = {model: (store / model / "1" / WARMUP).read_bytes() for model in MODELS}
    return {_kind(record.request) for data in files.values() for record in read_records(data, where="here")}


def test_all_that_the_gateway_asks_is_warm(warmed: set[tuple[str, str, tuple[str, ...], tuple[str, ...]]]) -> None:
    assert asyncio.run(_asked_by_the_gateway()) <= warmed
