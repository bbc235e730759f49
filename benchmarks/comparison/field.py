"""Who is compared, how each is started, and how each is configured."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
OURS = "dermserve"
DIRECT = "direct"
MODELS = ("resnet50", "mobilenet_v3_small")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way to serve."""

    name: str
    title: str
    """What tables call it."""
    configuration: str
    """How it is set up, in a sentence; CORES stands for the machine's."""
    environment: str
    """Name of its environment, and of its file in requirements/."""
    command: tuple[str, ...] = ()
    """Its server's, in its environment's bin; PORT and CORES are filled in. Empty for the local stack."""
    upload: str = "raw"
    """How photos are sent: "raw" bodies, "multipart" forms or base64 in "json" over HTTP, or "grpc"."""
    versions: tuple[str, ...] = ()
    """Packages whose versions are worth a mention."""

    def arguments(self, environments: pathlib.Path, *, port: int, cores: int) -> list[str]:
        """Give its server's command line."""
        filled = [part.replace("PORT", str(port)).replace("CORES", str(cores)) for part in self.command]
        return [str(environments / self.environment / "bin" / filled[0]), *filled[1:]]


_APPS = "benchmarks.comparison.contenders"

FIELD: Sequence[Contender] = (
    Contender(
        name=DIRECT,
        title="direct Predict (the floor)",
        configuration="pixels made beforehand, straight to dermserve's stand-in for TensorFlow Serving, with"
        " --grpc_max_threads=64: no photo is decoded",
        environment=OURS,
        upload="grpc",
        versions=("tensorflow", "grpcio"),
    ),
    Contender(
        name=OURS,
        title="dermserve",
        configuration="the gateway with its defaults before its stand-in for TensorFlow Serving, as `dermserve up`"
        " starts them",
        environment=OURS,
        upload="grpc",
        versions=("tensorflow", "grpcio"),
    ),
    Contender(
        name="flask",
        title="Flask + Keras",
        configuration="model.predict on the .h5 under gunicorn, CORES gthread workers of 4 threads, one TensorFlow"
        " thread an operation",
        environment="flask",
        command=(
            "gunicorn", "--bind", "127.0.0.1:PORT", "--workers", "CORES", "--worker-class", "gthread",
            "--threads", "4", "--timeout", "180", f"{_APPS}.flask_app:app",
        ),
        versions=("flask", "gunicorn", "keras", "tensorflow-cpu"),
    ),
    Contender(
        name="fastapi",
        title="FastAPI",
        configuration="the SavedModel in CORES uvicorn workers (uvloop, httptools), one TensorFlow thread an operation",
        environment="fastapi",
        command=("uvicorn", "--host", "127.0.0.1", "--port", "PORT", "--workers", "CORES", "--log-level", "warning",
                 f"{_APPS}.fastapi_app:app"),
        versions=("fastapi", "uvicorn", "tensorflow-cpu"),
    ),
    Contender(
        name="litserve",
        title="LitServe",
        configuration="the SavedModel in CORES workers of the CPU, photos as base64 in JSON, one TensorFlow thread an"
        " operation",
        environment="litserve",
        command=("python", "-m", f"{_APPS}.litserve_app"),
        upload="json",
        versions=("litserve", "tensorflow-cpu"),
    ),
    Contender(
        name="litserve-batching",
        title="LitServe, batching",
        configuration="the same, and up to 10 photos that wait go in one call",
        environment="litserve",
        command=("python", "-m", f"{_APPS}.litserve_app", "10"),
        upload="json",
        versions=("litserve", "tensorflow-cpu"),
    ),
    Contender(
        name="bentoml",
        title="BentoML",
        configuration="the SavedModel in CORES workers, one TensorFlow thread an operation",
        environment="bentoml",
        command=("bentoml", "serve", f"{_APPS}.bentoml_app:Classifier", "--host", "127.0.0.1", "--port", "PORT"),
        upload="multipart",
        versions=("bentoml", "tensorflow-cpu"),
    ),
    Contender(
        name="ray",
        title="Ray Serve",
        configuration="the SavedModel in CORES replicas of one processor each, one TensorFlow thread an operation",
        environment="ray",
        command=("python", "-m", f"{_APPS}.ray_app"),
        versions=("ray", "tensorflow-cpu"),
    ),
)  # fmt: skip
