"""Small stand-ins for the two servers: `python programs.py NAME MODE FLAGS...`. They speak the start-up lines alone."""

# ruff: noqa: T201 - printing is what they do

import os
import signal
import sys


def block_sigterm() -> None:
    """Have SIGTERM wait for `wait_for_sigterm`, so that none that comes early is lost; call it before any thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def wait_for_sigterm() -> None:
    signal.sigwait({signal.SIGTERM})
    print("asked to stop", flush=True)


def modelserver(mode: str) -> None:
    print("loading", *sys.argv[3:], flush=True)
    if mode == "broken":
        sys.exit("no version can be loaded")
    block_sigterm()
    print("Running gRPC ModelServer at 127.0.0.1:1 ...", flush=True)
    if mode == "stubborn":
        while signal.sigwait({signal.SIGTERM}):
            print("not yet", flush=True)
    if mode == "fleeting":
        sys.exit(7)
    wait_for_sigterm()


def gateway(mode: str) -> None:
    if mode == "broken":
        sys.exit("wrong configuration")
    print("canary file", os.environ.get("DERMSERVE_CANARY_FILE"), flush=True)
    block_sigterm()
    print('{"event": "listening", "address": "127.0.0.1:2"}', flush=True)
    if mode == "unusable":
        print('{"model": "m", "faults": {"1": "an old card"}, "event": "model_unusable"}', flush=True)
    elif mode != "unready":
        print('{"event": "health_changed", "serving": true, "address": "127.0.0.1:2"}', flush=True)
    print("E0000 00:00:1795943812.062548   19455 cuda_platform.cc:52] failed call to cuInit", flush=True)
    wait_for_sigterm()


if __name__ == "__main__":
    {"modelserver": modelserver, "gateway": gateway}[sys.argv[1]](sys.argv[2])
