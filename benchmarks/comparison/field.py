"""Who is compared, how each is started, and how each is configured."""

import dataclasses
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
OURS = "dermserve"
DIRECT = "direct"
DOCUMENTED, GIVEN = "as documented", "given our graph and decoder"
_APPS = "benchmarks.comparison.contenders"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way to serve."""

    name: str
    title: str
    """What tables call it."""
    configuration: str
    """How it is set up, in a sentence; CORES stands for the machine's."""
    environment: str = ""
    """Name of its environment, and of its file in requirements/; empty for this project's own."""
    command: tuple[str, ...] = ()
    """Its server's, in its environment's bin; PORT and CORES are filled in. Empty for the local stack."""
    upload: str = "raw"
    """How photos are sent: "raw" bodies, "multipart" forms or base64 in "json" over HTTP, or "grpc"."""
    versions: tuple[str, ...] = ()
    """Packages whose versions are worth a mention."""
    documented: bool = False
    """Whether it runs without anything of ours: its own decoding, and Keras's own export with variables."""

    def arguments(self, environments: pathlib.Path, *, port: int, cores: int) -> list[str]:
        """Return its server's command line."""
        filled = [part.replace("PORT", str(port)).replace("CORES", str(cores)) for part in self.command]
        return [str(environments / self.environment / "bin" / filled[0]), *filled[1:]]


def _both(peer: Contender) -> tuple[Contender, Contender]:
    """Make the two rows of a peer."""
    documented = "Pillow open, convert, resize; Keras model.export with variables; TensorFlow's own defaults"
    given = "dermserve.imaging; the frozen SavedModel; one TensorFlow thread an operation, oneDNN, one malloc arena"
    return (
        dataclasses.replace(
            peer, documented=True, title=f"{peer.title}, {DOCUMENTED}",
            configuration=f"{peer.configuration}; {documented}",
        ),
        dataclasses.replace(
            peer, name=f"{peer.name}-given", title=f"{peer.title}, {GIVEN}",
            configuration=f"{peer.configuration}; {given}",
        ),
    )  # fmt: skip


_PEERS = (
    Contender(
        name="flask", title="Flask", environment="flask",
        configuration="gunicorn, CORES gthread workers of 4 threads; as documented, model.predict on the .h5",
        command=("gunicorn", "--bind", "127.0.0.1:PORT", "--workers", "CORES", "--worker-class", "gthread",
                 "--threads", "4", "--timeout", "180", f"{_APPS}.flask_app:app"),
        versions=("flask", "gunicorn", "keras", "tensorflow-cpu"),
    ),
    Contender(
        name="fastapi", title="FastAPI", environment="fastapi",
        configuration="CORES uvicorn workers (uvloop, httptools)",
        command=("uvicorn", "--host", "127.0.0.1", "--port", "PORT", "--workers", "CORES", "--log-level", "warning",
                 f"{_APPS}.fastapi_app:app"),
        versions=("fastapi", "uvicorn", "tensorflow-cpu"),
    ),
    Contender(
        name="litserve", title="LitServe", environment="litserve",
        configuration="CORES workers of the CPU, photos as base64 in JSON",
        command=("python", "-m", f"{_APPS}.litserve_app"), upload="json", versions=("litserve", "tensorflow-cpu"),
    ),
    Contender(
        name="litserve-batching", title="LitServe, batching", environment="litserve",
        configuration="CORES workers of the CPU, photos as base64 in JSON, up to 10 that wait in one call",
        command=("python", "-m", f"{_APPS}.litserve_app", "10"), upload="json", versions=("litserve", "tensorflow-cpu"),
    ),
    Contender(
        name="bentoml", title="BentoML", environment="bentoml",
        configuration="CORES workers",
        command=("bentoml", "serve", f"{_APPS}.bentoml_app:Classifier", "--host", "127.0.0.1", "--port", "PORT"),
        upload="multipart", versions=("bentoml", "tensorflow-cpu"),
    ),
    Contender(
        name="ray", title="Ray Serve", environment="ray",
        configuration="CORES replicas of one processor each",
        command=("python", "-m", f"{_APPS}.ray_app"), versions=("ray", "tensorflow-cpu"),
    ),
)  # fmt: skip

FIELD: Sequence[Contender] = (
    Contender(
        name=DIRECT, title="direct Predict (the floor)", upload="grpc", versions=("tensorflow", "grpcio"),
        configuration="pixels made beforehand, straight to the stand-in for TensorFlow Serving: no photo is decoded",
    ),
    Contender(
        name=OURS, title="dermserve", upload="grpc", versions=("tensorflow", "grpcio"),
        configuration="the gateway with its defaults before the stand-in for TensorFlow Serving, as `dermserve up`",
    ),
    *(row for peer in _PEERS for row in _both(peer)),
)  # fmt: skip
