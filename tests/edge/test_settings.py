"""Settings that would be unsafe are refused, and the command writes what Envoy takes."""

import hashlib
import json
import pathlib
import subprocess

import pytest
import yaml
from click.testing import CliRunner

from dermserve.cli import main
from dermserve.edge import Settings, SettingsError, envoy_config, read_keys
from dermserve.local.edge import envoy
from tests.edge.envoys import write_keys

GATEWAY = {"gateway": "gateway:50051"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": "0.0.0.0:8080"}, "without keys or tokens"),
        ({"admin": "0.0.0.0:9901"}, "loopback"),
        ({"listen": "8080"}, "HOST:PORT"),
        ({"listen": "127.0.0.1:²"}, "HOST:PORT"),
        ({"tls_cert": pathlib.Path("cert.pem")}, "go together"),
        ({"gateway_tls_key": pathlib.Path("key.pem")}, "go together"),
        ({"issuer": "https://issuer.example"}, "go together"),
        ({"audience": ("https://api.example",)}, "give jwks and issuer"),
        ({"burst": 0}, "at least 1"),
        ({"requests_per_minute": -5}, "at least 1"),
    ],
)
def test_what_would_be_unsafe_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings(**{**GATEWAY, **settings})


DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": ["secret"]}', "never keys: replace what it has for a "),
        ('{"a": "secret"}', "dermserve edge key"),
        (f'{{"a": "{DIGEST}", "b": "sha256:secret"}}', "replace what it has for b "),
        (f'{{"a": "{DIGEST}", "b": "{DIGEST}"}}', "same API key"),
        (f'{{"": "{DIGEST}"}}', "JSON object"),
        ("{}", "JSON object"),
        ('["secret"]', "JSON object"),
        ("secret", "not JSON"),
    ],
)
def test_a_file_of_keys_holds_digests_alone_and_no_message_repeats_it(
    tmp_path: pathlib.Path, content: str, words: str
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match=words) as raised:
        Settings(**GATEWAY, keys=path)
    assert "secret" not in str(raised.value)


def test_a_made_key_is_shown_once_and_kept_as_its_digest(tmp_path: pathlib.Path) -> None:
    result = CliRunner().invoke(main, ["edge", "key", "clinic"])
    (tmp_path / "keys.json").write_text(result.stdout)
    (digest,) = read_keys(tmp_path / "keys.json").values()
    key = result.stderr.split()[-1]
    assert hashlib.sha256(key.encode()).hexdigest() == digest


@pytest.mark.parametrize("rate", [1, 7, 59, 60, 61, 90, 150, 1000, 60_000])
def test_the_rate_limit_is_exactly_what_was_asked_for(rate: int) -> None:
    config = yaml.load(envoy_config(Settings(**GATEWAY, requests_per_minute=rate))["envoy.yaml"], yaml.CSafeLoader)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (limit,) = (one for one in manager["http_filters"] if one["name"].endswith("local_ratelimit"))
    (bucket,) = (one["token_bucket"] for one in limit["typed_config"]["descriptors"])
    assert (bucket["tokens_per_fill"], bucket["fill_interval"]) == (rate, "60s")


def test_the_command_writes_a_configuration_that_envoy_takes(tmp_path: pathlib.Path) -> None:
    keys, www, config = tmp_path / "keys.json", tmp_path / "www", tmp_path / "envoy.yaml"
    write_keys(keys, clinic="secret-key")
    assert CliRunner().invoke(main, ["edge", "files", str(www)]).exit_code == 0
    arguments = ["--gateway", "gateway:50051", "--listen", "0.0.0.0:8443", "--keys", str(keys), "--www", str(www)]
    result = CliRunner().invoke(main, ["edge", "config", *arguments, "--metrics", "0.0.0.0:9102", "--out", str(config)])
    assert result.exit_code == 0, result.output
    assert "secret-key" not in config.read_text()
    checked = subprocess.run(
        [envoy(), "--mode", "validate", "-c", str(config)], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr[-2000:]
    assert "deprecated" not in checked.stderr.lower()


def test_a_folder_of_files_that_is_not_there_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["edge", "config", "--gateway", "g:1", "--www", "/nowhere"])
    assert (result.exit_code, "/nowhere is not a folder" in result.output) == (2, True)


def test_unsafe_options_are_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["edge", "config", *["--gateway", "g:1", "--listen", "0.0.0.0:80"]])
    assert result.exit_code == 2
    assert "without keys or tokens" in result.output


def test_files_are_written_beside_what_is_there_and_over_what_was_cut_off(tmp_path: pathlib.Path) -> None:
    (tmp_path / "thesis.doc").write_text("years of work")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/app.js").touch()
    assert CliRunner().invoke(main, ["edge", "files", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "thesis.doc").exists()
    assert (tmp_path / "app/app.js").stat().st_size


def test_files_may_be_written_into_a_folder_behind_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "www").symlink_to("volume")
    for _ in range(2):
        assert CliRunner().invoke(main, ["edge", "files", str(tmp_path / "www")]).exit_code == 0
    assert (tmp_path / "volume" / "openapi.json").exists()


def test_the_newest_on_device_model_is_served(tmp_path: pathlib.Path) -> None:
    for version in ("1", "9", "10"):
        folder = tmp_path / "store/mobilenet_v3_small" / version
        folder.mkdir(parents=True)
        if version != "10":
            (folder / "model.tflite").write_text(version)
    result = CliRunner().invoke(main, ["edge", "files", str(tmp_path / "www"), "--store", str(tmp_path / "store")])
    assert json.loads(result.output)["version"] == "9"
    assert (tmp_path / "www/device/mobilenet_v3_small/9/model.tflite").read_text() == "9"
    served = envoy_config(Settings(**GATEWAY, www=tmp_path / "www"))["envoy.yaml"]
    assert "/device/mobilenet_v3_small/9/model.tflite" in served
