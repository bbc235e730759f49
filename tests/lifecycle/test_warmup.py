"""A version's warm-up has what the gateway will ask: TensorFlow prepares a graph for each set of inputs and outputs."""

import asyncio
import pathlib
from typing import TypeAlias

from dermserve.models.lifecycle.manifest import WARMUP, read_records
from dermserve.models.records import write_warmup_records
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import classifier_pb2
from tests.gateway.fake_tfserving import FakeTfServing, Version, make_card
from tests.gateway.gateways import ask, running

MODELS = ("resnet50", "mobilenet_v3_small")
# FULL first: where a model is known to be slow, and two are served, its views go in several calls without `tta`.
MODES = (classifier_pb2.TTA_MODE_FULL, classifier_pb2.TTA_MODE_NONE, classifier_pb2.TTA_MODE_ADAPTIVE)


_Kind: TypeAlias = tuple[str, str, tuple[tuple[str, int, tuple[int, ...]], ...], tuple[str, ...]]
"""Model, signature, name, dtype and sizes without the batch of each input, output_filter."""


def _kind(request: serving_pb2.PredictRequest) -> _Kind:
    spec = request.model_spec
    inputs = tuple(
        (name, tensor.dtype, tuple(dim.size for dim in tensor.tensor_shape.dim[1:]))
        for name, tensor in sorted(request.inputs.items())
    )
    return spec.name, spec.signature_name, inputs, tuple(sorted(request.output_filter))


async def _asked_by_the_gateway() -> set[_Kind]:
    models = {name: {1: Version(make_card(name, min_confidence=0.5, adaptive_margin=1.0))} for name in MODELS}
    fake = FakeTfServing(models=models)
    async with fake.serving() as address, running(tfs_address=address) as world:
        for model in MODELS:
            for mode in MODES:
                await world.stub.Classify(ask(model=model, tta=mode), timeout=100)
    # ADAPTIVE asks twice; on a busy machine a call may be retried.
    assert len(fake.predicts) >= len(MODELS) * (len(MODES) + 1)
    return {_kind(request) for request in (*fake.predicts, *fake.describe_requests)}


def _warmed(model: str, folder: pathlib.Path) -> set[_Kind]:
    folder.mkdir()
    write_warmup_records(folder, model=model, side=224)
    return {_kind(record.request) for record in read_records((folder / WARMUP).read_bytes(), where="here")}


def test_all_that_the_gateway_asks_is_warm(tmp_path: pathlib.Path) -> None:
    asked = asyncio.run(_asked_by_the_gateway())
    warmed = set().union(*(_warmed(model, tmp_path / model) for model in MODELS))
    assert {signature for _, signature, _, _ in asked} == {"serving_default", "tta", "describe"}
    assert asked <= warmed
