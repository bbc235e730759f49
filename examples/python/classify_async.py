"""Classify photos with dermserve's asyncio client: several at once, an error by its reason, and many photos.

    pip install .                                          # in a clone of dermserve: the client alone
    python examples/python/classify_async.py a.jpg b.jpg   # DERMSERVE_SERVER=HOST:PORT names the gateway

Environment: as for classify.py.
"""

import asyncio
import os
import pathlib
import sys

from dermserve.client import TLS, AsyncClient, DermserveError, InvalidPhoto, Prediction

SERVER = os.environ.get("DERMSERVE_SERVER", "127.0.0.1:50051")
MODEL = os.environ.get("DERMSERVE_MODEL", "mobilenet_v3_small")
CA = os.environ.get("DERMSERVE_CA")
TLS_OPTIONS = TLS(root_certificates=pathlib.Path(CA).read_bytes()) if CA else None


def show(prediction: Prediction) -> None:
    """Print an answer in the order in which a person should read it: docs/answers.md."""
    level = prediction.malignancy.level if prediction.malignancy else ""
    print(prediction.verdict, level, *prediction.reasons)
    if prediction.named:  # the class that may be named, if any
        print(prediction.named.common_name or prediction.named.name, f"{prediction.named.probability:.0%}")
    print(prediction.notice)  # the disclaimer is part of the answer: always show it


async def main(photos: list[str]) -> None:
    """Ask for all photos at once, for bytes that are no photo, and for all photos again, several in flight."""
    async with AsyncClient(SERVER, tls=TLS_OPTIONS, deadline=20) as client:
        # An overloaded gateway says when to try again (RetryInfo): the client waits and does, within the deadline.
        calls = (client.classify(photo, model=MODEL, tta="full", retry_overloaded=True) for photo in photos)
        for prediction in await asyncio.gather(*calls):
            show(prediction)
        try:
            await client.classify(b"this is no photo", model=MODEL)
        except InvalidPhoto as error:  # or by `error.reason`, which never changes: docs/errors.md
            print("refused:", error.reason)
        async for answer in client.classify_many([*photos, b"this is no photo"], model=MODEL):
            print("stream:", answer.id, answer.prediction.verdict if answer.prediction else answer.error.reason)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: classify_async.py PHOTO...")
    try:
        asyncio.run(main(sys.argv[1:]))
    except DermserveError as error:
        sys.exit(f"{error.status} {error.reason}: {error.message} (request {error.request_id})")
