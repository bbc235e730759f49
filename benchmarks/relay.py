"""A gateway without features, with which ours is compared: decode in a pool of threads, one Predict, the probabilities.

It has the same RPC, decoder, event loop and gRPC. `python -m benchmarks.relay MODEL_SERVER` prints its address.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio
import uvloop

from benchmarks.serving import CHANNEL, PREDICT, pixels_of, predict_request, probabilities
from dermserve.modelserver.flags import usable_cores
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc


class Relay(classifier_pb2_grpc.ClassifierServicer):
    """Answers Classify with the first standard view, or ten for FULL."""

    def __init__(self, tfs: str) -> None:
        self._pool = ThreadPoolExecutor(usable_cores())
        self._predict = grpc.aio.insecure_channel(tfs, options=CHANNEL).unary_unary(
            PREDICT, serving_pb2.PredictRequest.SerializeToString, serving_pb2.PredictResponse.FromString
        )

    async def Classify(self, request: classifier_pb2.ClassifyRequest, context: Any) -> classifier_pb2.ClassifyResponse:  # noqa: N802
        """Decode, predict, answer."""
        views = 10 if request.tta == classifier_pb2.TTA_MODE_FULL else 1
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._pool, pixels_of, request.image, views)
        answer = await self._predict(predict_request(request.model.name, pixels))
        response = classifier_pb2.ClassifyResponse()
        for index, probability in enumerate(probabilities(answer, views).mean(axis=0)):
            response.classes.add(code=str(index), probability=float(probability))
        return response


async def _serve(tfs: str) -> None:
    server = grpc.aio.server(options=CHANNEL)
    classifier_pb2_grpc.add_ClassifierServicer_to_server(Relay(tfs), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"Running the relay at 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:]))
