"""Settings that would be unsafe are refused, and the command writes what Envoy takes."""

import json
import pathlib
import subprocess

import pytest
from click.testing import CliRunner

from dermserve.cli import main
from dermserve.edge import Settings, SettingsError, bootstrap, read_keys
from dermserve.local.edge import envoy

GATEWAY = {"gateway": "gateway:50051"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": "0.0.0.0:8080"}, "anyone could ask"),
        ({"admin": "0.0.0.0:9901"}, "loopback"),
        ({"listen": "8080"}, "HOST:PORT"),
        ({"certificate": pathlib.Path("cert.pem")}, "needs its key"),
        ({"keys": (("a", "same"), ("b", "same"))}, "same API key"),
        ({"keys": (("a", ""),)}, "empty"),
        ({"burst": 0}, "more than 0"),
    ],
)
def test_what_would_be_unsafe_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings(**{**GATEWAY, **settings})


def test_keys_are_in_no_message(tmp_path: pathlib.Path) -> None:
    assert "secret" not in repr(Settings(**GATEWAY, keys=(("a", "secret"),)))
    path = tmp_path / "keys.json"
    path.write_text('{"a": ["secret"]}')
    with pytest.raises(SettingsError) as raised:
        read_keys(path)
    assert "secret" not in str(raised.value)


def test_the_command_writes_a_configuration_that_envoy_takes(tmp_path: pathlib.Path) -> None:
    keys, www, config = tmp_path / "keys.json", tmp_path / "www", tmp_path / "envoy.json"
    keys.write_text('{"clinic": "key"}')
    assert CliRunner().invoke(main, ["edge", "files", str(www)]).exit_code == 0
    arguments = ["--gateway", "gateway:50051", "--listen", "0.0.0.0:8443", "--keys", str(keys), "--www", str(www)]
    result = CliRunner().invoke(main, ["edge", "config", *arguments, "--metrics", "0.0.0.0:9102", "--out", str(config)])
    assert result.exit_code == 0, result.output
    checked = subprocess.run(
        [envoy(), "--mode", "validate", "-c", str(config)], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr[-2000:]


def test_unsafe_options_are_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["edge", "config", *["--gateway", "g:1", "--listen", "0.0.0.0:80"]])
    assert result.exit_code == 2
    assert "anyone could ask" in result.output


def test_a_folder_with_something_else_is_not_emptied(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.doc").write_text("years of work")
    assert CliRunner().invoke(main, ["edge", "files", str(tmp_path)]).exit_code == 2
    assert (tmp_path / "thesis.doc").exists()


def test_the_newest_on_device_model_is_served(tmp_path: pathlib.Path) -> None:
    for version in ("1", "9", "10"):
        folder = tmp_path / "store/mobilenet_v3_small" / version
        folder.mkdir(parents=True)
        if version != "10":
            (folder / "model.tflite").write_text(version)
    result = CliRunner().invoke(main, ["edge", "files", str(tmp_path / "www"), "--store", str(tmp_path / "store")])
    assert json.loads(result.output)["version"] == "9"
    assert (tmp_path / "www/device/mobilenet_v3_small/9/model.tflite").read_text() == "9"
    served = json.dumps(bootstrap(Settings(**GATEWAY, www=tmp_path / "www")))
    assert "/device/mobilenet_v3_small/9/model.tflite" in served
