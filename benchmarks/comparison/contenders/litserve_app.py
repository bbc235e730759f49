"""LitServe and the SavedModel."""

import litserve
from fastapi import Request

from benchmarks.comparison.contenders.shared import CORES, PORT, Model


class Classifier(litserve.LitAPI):
    """One model a worker."""

    def setup(self, device: str) -> None:
        """Load it."""
        self.model = Model()

    def decode_request(self, request: Request) -> tuple[bytes, int]:
        """Read the upload."""
        return request["photo"].file.read(), int(request["views"])  # type: ignore[index]  # LitServe hands over the form

    def predict(self, x: tuple[bytes, int]) -> list[float]:
        """Classify."""
        return self.model.classify(*x)

    def encode_response(self, output: list[float]) -> dict[str, list[float]]:
        """Answer."""
        return {"probabilities": output}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(api_path="/classify"), accelerator="cpu", workers_per_device=CORES)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
