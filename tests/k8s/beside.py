"""What a container of the gateway's image runs beside the servers: a probe as the kubelet's, and callers under load.

beside.py probe ADDRESS SERVICE      returns when the service is SERVING
beside.py load FIRST SECOND PHOTO    calls the first gateway until it stops, then the second; prints JSON
"""

import json
import pathlib
import sys
import threading
import time
import uuid

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dermserve.client import Client, DermserveError, Unavailable

CALLERS = 4


def probe(address: str, service: str) -> None:
    """Ask as the kubelet does, with Check again and again: the stand-in has no Watch."""
    request = health_pb2.HealthCheckRequest(service=service)
    with grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 500)]) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        while check(request, wait_for_ready=True, timeout=300).status != health_pb2.HealthCheckResponse.SERVING:
            time.sleep(0.2)


def call(one: Client, two: Client, photo: bytes, found: dict[str, list[str]], loaded: threading.Semaphore) -> None:
    """Call until the first refuses, and have that photo answered by the second."""
    while True:
        name = uuid.uuid4().hex
        try:
            one.classify(photo, model="resnet50", tta="full", request_id=name)
            found["answered"].append(name)
            loaded.release()
        except Unavailable as error:
            found["refused"].append(name)
            found["reasons"].append(error.reason)
            break
        except DermserveError as error:
            found["lost"].append(f"{name} {error.status} {error}")
    try:
        two.classify(photo, model="resnet50", tta="full")
    except DermserveError as error:
        found["lost"].append(f"{name} {error.status} {error}")


def load(first: str, second: str, photo: str) -> None:
    found: dict[str, list[str]] = {"answered": [], "refused": [], "reasons": [], "lost": []}
    loaded = threading.Semaphore(0)
    with Client(first, attempts=1, deadline=30) as one, Client(second, attempts=1, deadline=30) as two:
        arguments = (one, two, pathlib.Path(photo).read_bytes(), found, loaded)
        threads = [threading.Thread(target=call, args=arguments) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        for _ in range(2 * CALLERS):
            loaded.acquire()
        say("under load")
        for thread in threads:
            thread.join()
    say(json.dumps(found))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    {"probe": probe, "load": load}[sys.argv[1]](*sys.argv[2:])
