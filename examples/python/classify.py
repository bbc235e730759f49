"""Classify photos with dermserve's Python client: one photo, an error by its reason, and many photos.

    pip install .                                    # in a clone of dermserve: the client alone
    python examples/python/classify.py photo.jpg     # DERMSERVE_SERVER=HOST:PORT names the gateway

Environment: DERMSERVE_SERVER (127.0.0.1:50051), DERMSERVE_MODEL (mobilenet_v3_small), DERMSERVE_CA (PEM file, for TLS).
"""

import os
import pathlib
import sys

from dermserve.client import TLS, Client, DermserveError, InvalidPhoto, Prediction

SERVER = os.environ.get("DERMSERVE_SERVER", "127.0.0.1:50051")
MODEL = os.environ.get("DERMSERVE_MODEL", "mobilenet_v3_small")
CA = os.environ.get("DERMSERVE_CA")


def show(prediction: Prediction) -> None:
    """Print an answer in the order in which a person should read it: docs/answers.md."""
    level = prediction.malignancy.level if prediction.malignancy else ""
    print(prediction.verdict, level, *prediction.reasons)
    if prediction.named:  # the class that may be named, if any
        print(prediction.named.common_name or prediction.named.name, f"{prediction.named.probability:.0%}")
    print(prediction.notice)  # the disclaimer is part of the answer: always show it


def main(photos: list[str]) -> None:
    """Ask for one photo, for bytes that are no photo, and for all photos again, several in flight."""
    tls = TLS(root_certificates=pathlib.Path(CA).read_bytes()) if CA else None
    with Client(SERVER, tls=tls, deadline=20) as client:
        # An overloaded gateway says when to try again (RetryInfo): the client waits and does, within the deadline.
        show(client.classify(photos[0], model=MODEL, tta="full", retry_overloaded=True))
        try:
            client.classify(b"this is no photo", model=MODEL)
        except InvalidPhoto as error:  # or by `error.reason`, which never changes: docs/errors.md
            print("refused:", error.reason)
        for answer in client.classify_many([*photos, b"this is no photo"], model=MODEL):
            print("stream:", answer.id, answer.prediction.verdict if answer.prediction else answer.error.reason)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: classify.py PHOTO...")
    try:
        main(sys.argv[1:])
    except DermserveError as error:
        sys.exit(f"{error.status} {error.reason}: {error.message} (request {error.request_id})")
