"""Ray Serve."""

import os
import signal
import threading

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.comparison.contenders.shared import CORES, PORT, load_model


@serve.deployment(num_replicas=CORES, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=32)
class Classifier:
    """One model a replica."""

    def __init__(self) -> None:
        self._model = load_model()

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """Classify one photo."""
        photo = await request.body()
        views = int(request.query_params.get("views", "1"))
        return {"probabilities": self._model.classify_all([(photo, views)])[0]}


def main() -> None:
    """Serve until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    # The proxy and the controller want processors, too.
    ray.init(
        num_cpus=CORES + 2, include_dashboard=False, _temp_dir=os.environ["COMPARISON_SCRATCH"], log_to_driver=False
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Classifier.bind(), route_prefix="/classify")
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
