"""Check the model servers: whether they answer, and whether their versions can give good answers."""

import asyncio
from collections.abc import Iterator

from dermserve.cli.findings import Finding
from dermserve.doctor.settings import error, note, warning
from dermserve.gateway.catalog import Catalog, KnownModel, KnownVersion
from dermserve.gateway.certificates import model_server_files
from dermserve.gateway.config import Config
from dermserve.gateway.errors import GatewayError
from dermserve.gateway.server import connect
from dermserve.gateway.tracing import Tracing
from dermserve.v1 import card_pb2


async def look_at_models(config: Config, *, seconds: float) -> list[Finding]:
    """Ask every model server, with `seconds` for a call, and find what prevents answers or makes them useless."""
    found = await asyncio.gather(*(_look_at(config, address, seconds) for address in config.tfs))
    return [finding for findings in found for finding in findings]


async def _look_at(config: Config, name: str, seconds: float) -> list[Finding]:
    alone = config.model_copy(update={"tfs": (name,), "poll_timeout_seconds": seconds})
    try:
        servers = await connect(alone, Tracing(), model_server_files(alone))
    except (OSError, ValueError) as fault:
        return [error("TFS_TLS", f"the TLS to {name} can't be set up: {fault}", "check the tfs_tls files")]
    try:
        try:
            await servers.versions(config.models[0], seconds=seconds)
        except GatewayError as fault:
            return [_unreachable(config, name, fault)]
        catalog = Catalog(servers, alone)
        await catalog.poll()
    finally:
        await servers.close()
    return [finding for model in catalog.models.values() for finding in _look_at_model(name, model)]


def _unreachable(config: Config, address: str, fault: GatewayError) -> Finding:
    details = getattr(fault.__cause__, "details", lambda: None)() or str(fault)
    remedy = "start it, or correct tfs; it speaks gRPC on --port, not REST on --rest_api_port"
    if config.tfs_tls_ca:
        remedy += "; a TLS error looks the same: check tfs_tls_ca, and tfs_tls_name against its certificate"
    return error("TFS_UNREACHABLE", f"{address} does not answer: {details}", remedy)


def _look_at_model(address: str, model: KnownModel) -> Iterator[Finding]:
    here = f"{model.name} at {address}"
    if not model.versions:
        remedy = "add it to the model server's models.config, or correct models"
        yield error("MODEL_MISSING", f"{here}: there is no such model", remedy)
        return
    for version in model.available:
        yield from _look_at_version(here, version)
    if not model.ready:
        text = f"{here}: none of its versions is available with a valid card"
        yield error("MODEL_NOT_READY", text, "see the model server's log; export it again")


def _look_at_version(here: str, version: KnownVersion) -> Iterator[Finding]:
    name = f"{here}, version {version.number}"
    if version.card is None:
        text = f"{name}: {version.fault}; it answers nothing"
        yield error("INVALID_CARD", text, "export it by `dermserve export`, which writes and checks the card")
        return
    if version.card.provenance.training != card_pb2.TRAINING_TRAINED:
        text = f"{name} was never trained on skin lesions: every answer is UNCERTAIN"
        yield warning("UNTRAINED_MODEL", text, "train one (docs/training.md) and export it")
    elif not version.card.calibration.HasField("min_confidence"):
        text = f"{name} has no fitted confidence threshold: every answer is UNCERTAIN"
        yield warning("UNCALIBRATED_MODEL", text, "run `dermserve evaluate` on its run and export it again")
    elif not version.card.HasField("profile"):
        text = f"{name} has no profile: there are no drift metrics for it"
        yield note("NO_PROFILE", text, "run `dermserve evaluate` on its run and export it again")
