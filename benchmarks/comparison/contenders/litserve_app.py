"""LitServe; with a number as argument, up to so many photos that wait go in one call."""

import base64
import sys

import litserve
from fastapi import Request

from benchmarks.comparison.contenders.shared import CORES, PORT, load_model


class Classifier(litserve.LitAPI):
    """One model a worker."""

    def setup(self, device: str) -> None:
        """Load it."""
        self.model = load_model()

    def decode_request(self, request: Request) -> tuple[bytes, int]:
        """Read the JSON that LitServe passes on; an upload, it would have to pickle for its worker."""
        return base64.b64decode(request["photo"]), int(request["views"])  # type: ignore[index]  # it is a dict by now

    def predict(self, x: tuple[bytes, int]) -> list[float]:
        """Classify."""
        return self.model.classify_all([x])[0]

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """Answer."""
        return {"probabilities": output}


class Batched(Classifier):
    """The same for several photos at once."""

    def batch(self, inputs: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Leave them a list."""
        return inputs

    def predict(self, x: list[tuple[bytes, int]]) -> list[list[float]]:  # type: ignore[override]
        """Classify them in one call."""
        return self.model.classify_all(x)

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        """Leave them a list."""
        return output


if __name__ == "__main__":
    together = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    api = Batched(max_batch_size=together, api_path="/classify") if together > 1 else Classifier(api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=CORES)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
