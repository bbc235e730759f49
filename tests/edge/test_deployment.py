"""What the Kubernetes component sets is what the command takes, and Envoy takes what the command writes."""

import pathlib
import subprocess

import pytest
import yaml
from click.testing import CliRunner

from dermserve.cli import main
from dermserve.local.edge import envoy
from tests.certificates import make_certificate
from tests.edge.envoys import write_keys

ENV = pathlib.Path(__file__).resolve().parents[2] / "k8s/components/edge/edge.env"


@pytest.mark.parametrize("plaintext", [False, True])
def test_the_settings_of_the_component_give_a_configuration_that_envoy_takes(
    tmp_path: pathlib.Path, plaintext: bool
) -> None:
    variables = dict(line.split("=", 1) for line in ENV.read_text().splitlines() if line and line[0] != "#")
    certificate = make_certificate(tmp_path)
    write_keys(tmp_path / "keys.json", clinic="one")
    places = {
        "/tls/tls.crt": certificate,
        "/tls/tls.key": certificate.with_suffix(".key"),
        "/gateway-tls/ca.crt": "" if plaintext else certificate,
        "/keys/keys.json": tmp_path / "keys.json",
        "/srv/edge/www": tmp_path / "www",
    }
    here = {name: str(places.get(value, value)) for name, value in variables.items()}
    assert CliRunner().invoke(main, ["edge", "files", str(tmp_path / "www")]).exit_code == 0
    out = tmp_path / "envoy.yaml"
    result = CliRunner(env=here).invoke(main, ["edge", "config", "--out", str(out)])
    assert result.exit_code == 0, result.output
    resources = yaml.load(out.read_text(), yaml.CSafeLoader)["static_resources"]
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    assert ("transport_socket" in clusters["gateway"]) != plaintext
    assert out.stat().st_mode & 0o007 == 0
    checked = subprocess.run([envoy(), "--mode", "validate", "-c", out], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr[-2000:]
