"""The model server goes and comes back; the gateway stays."""

import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

from dermserve.client import Client, DeadlineExceeded, Unavailable
from dermserve.local import Stack

MODEL = "mobilenet_v3_small"


def test_an_absent_model_server_is_unavailable_in_time_and_its_return_is_noticed(
    small_store: pathlib.Path, photo: bytes, tmp_path: pathlib.Path
) -> None:
    with (
        Stack(store=small_store, models=(MODEL,), port=0, tfs_port=0) as stack,
        Client(stack.gateway_address) as client,
    ):
        assert client.classify(photo, model=MODEL).classes
        _, port = stack.tfs_address.rsplit(":", 1)
        psutil.Process(stack.pids["modelserver"]).kill()
        with pytest.raises(Unavailable):  # and not that the deadline is over
            client.classify(photo, model=MODEL, deadline=100)
        config = tmp_path / "models.config"
        model = f'name: "{MODEL}" base_path: "{small_store / MODEL}" model_platform: "tensorflow"'
        config.write_text(f"model_config_list {{ config {{ {model} }} }}")
        command = [sys.executable, "-m", "dermserve.modelserver", f"--port={port}", f"--model_config_file={config}"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as restarted:
            try:
                assert _answers_within(client, photo, seconds=300)
            finally:
                restarted.send_signal(signal.SIGTERM)


def _answers_within(client: Client, photo: bytes, *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return bool(client.classify(photo, model=MODEL, deadline=60).classes)
        except (DeadlineExceeded, Unavailable):
            time.sleep(0.05)
    return False
