"""Small stand-ins for the two servers: `python programs.py NAME MODE FLAGS...`. They speak the start-up lines alone."""

# ruff: noqa: T201 - printing is what they do

import signal
import sys
import threading
from concurrent import futures


def wait_for_sigterm() -> None:
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    asked.wait()
    print("asked to stop", flush=True)


def modelserver(mode: str) -> None:
    print("loading", *sys.argv[3:], flush=True)
    if mode == "broken":
        sys.exit("no version can be loaded")
    print("Running gRPC ModelServer at 127.0.0.1:1 ...", flush=True)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, lambda *_: print("not yet", flush=True))
        threading.Event().wait()
    if mode == "fleeting":
        sys.exit(7)
    wait_for_sigterm()


def gateway(mode: str) -> None:
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    if mode == "broken":
        sys.exit("wrong configuration")
    status = health_pb2.HealthCheckResponse.NOT_SERVING if mode == "unready" else health_pb2.HealthCheckResponse.SERVING
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        servicer = health.HealthServicer()
        servicer.set("", status)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        print(f'{{"event": "listening", "address": "127.0.0.1:{port}"}}', flush=True)
        wait_for_sigterm()
        server.stop(None).wait()


if __name__ == "__main__":
    {"modelserver": modelserver, "gateway": gateway}[sys.argv[1]](sys.argv[2])
