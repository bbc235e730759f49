"""LitServe and the SavedModel."""

import base64

import litserve
from fastapi import Request

from benchmarks.comparison.contenders.shared import CORES, PORT, Model


class Classifier(litserve.LitAPI):
    """One model a worker."""

    def setup(self, device: str) -> None:
        """Load it."""
        self.model = Model()

    def decode_request(self, request: Request) -> tuple[bytes, int]:
        """Read the JSON that LitServe passes on; an upload, it would have to pickle for its worker."""
        return base64.b64decode(request["photo"]), int(request["views"])  # type: ignore[index]  # it is a dict by now

    def predict(self, x: tuple[bytes, int]) -> list[float]:
        """Classify."""
        return self.model.classify(*x)

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """Answer."""
        return {"probabilities": output}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(api_path="/classify"), accelerator="cpu", workers_per_device=CORES)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
