"""The doctor: what is unsafe or will not work is found, named, and comes with what to do; what is well is not."""

import datetime
import json
import pathlib

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dermserve.doctor.cli import doctor, look_at_settings
from dermserve.gateway.cli import config as config_command
from dermserve.gateway.config import Config

DAY = datetime.timedelta(days=1)


def _certificate(folder: pathlib.Path, name: str, *, begins: int = -1, ends: int = 365) -> pathlib.Path:
    """Make NAME.pem and NAME.key, valid from and until so many days from now."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now + begins * DAY).not_valid_after(now + ends * DAY)
    certificate = builder.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(pem, *plain))
    (folder / f"{name}.key").chmod(0o600)
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    return folder / f"{name}.pem"


def _codes(**settings: object) -> dict[str, str]:
    found = list(look_at_settings(Config(**settings)))
    assert all(finding.what and finding.remedy for finding in found)
    return {finding.code: finding.severity for finding in found}


def _tls(certificate: pathlib.Path, key: pathlib.Path | None = None, **settings: object) -> dict[str, str]:
    return _codes(tls_certificate=certificate, tls_key=key or certificate.with_suffix(".key"), **settings)


def test_the_defaults_and_a_whole_mtls_configuration_are_well(tmp_path):
    assert _codes() == {}
    server, tfs = _certificate(tmp_path, "server"), _certificate(tmp_path, "tfs")
    encrypted = {"listen": "0.0.0.0:1", "tls_client_ca": server, "tfs": "tfs:8500", "tfs_tls_ca": tfs}
    assert _tls(server, metrics_listen="127.0.0.1:9", health_listen="0.0.0.0:2", **encrypted) == {}


@pytest.mark.parametrize(
    ("settings", "code", "severity"),
    [
        ({"listen": "0.0.0.0:1", "insecure": True}, "NO_TLS", "WARNING"),
        ({"listen": "0.0.0.0:1", "insecure": True}, "NO_CLIENT_CA", "WARNING"),
        ({"reflection": True}, "REFLECTION", "NOTE"),
        ({"listen": "0.0.0.0:1", "insecure": True, "reflection": True}, "REFLECTION", "WARNING"),
        ({"metrics_listen": "0.0.0.0:9090"}, "METRICS_EXPOSED", "NOTE"),
        ({"tfs": "models.example:8500"}, "TFS_NOT_ENCRYPTED", "WARNING"),
        ({"grace_seconds": 1}, "GRACE", "WARNING"),
    ],
)
def test_a_setting_that_is_unsafe_or_contradicts_another_is_found(settings, code, severity):
    assert _codes(**settings).get(code) is severity


def test_certificates_that_are_over_or_nearly_so_or_not_yet_valid_are_found(tmp_path):
    assert "CERTIFICATE_EXPIRED" in _tls(_certificate(tmp_path, "old", begins=-9, ends=-1))
    assert _tls(_certificate(tmp_path, "soon", ends=20))["CERTIFICATE_EXPIRES"] == "WARNING"
    assert "CERTIFICATE_NOT_YET_VALID" in _tls(_certificate(tmp_path, "early", begins=1))
    good = _certificate(tmp_path, "good")
    assert "CERTIFICATE_EXPIRED" in _codes(tfs_tls_ca=tmp_path / "old.pem")
    assert "CERTIFICATE_EXPIRED" in _tls(good, tls_client_ca=tmp_path / "old.pem")


def test_keys_that_do_not_fit_can_not_be_read_or_can_be_by_others_are_found(tmp_path):
    one, two = _certificate(tmp_path, "one"), _certificate(tmp_path, "two")
    assert _tls(one, two.with_suffix(".key"))["KEY_UNUSABLE"] == "ERROR"
    junk = tmp_path / "junk.pem"
    junk.write_text("no PEM")
    assert "KEY_UNUSABLE" in _tls(one, junk)
    assert _tls(junk, one.with_suffix(".key")) == {"CERTIFICATE_UNREADABLE": "ERROR"}  # the key is not to blame
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(one.with_suffix(".key").read_bytes(), None)
    sealed = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed))
    assert "KEY_UNUSABLE" in _tls(one, locked)
    one.with_suffix(".key").chmod(0o644)
    assert _tls(one)["KEY_READABLE"] == "WARNING"


def _run(*options: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(doctor, [*options], env=environment)
    return result.exit_code, result.output


def test_the_exit_code_tells_errors_from_warnings_and_json_is_one_object_a_finding(tmp_path):
    assert _run() == (0, "0 errors, 0 warnings, 0 notes\n")
    warned = ("--listen", "0.0.0.0:1", "--insecure")
    assert _run(*warned)[0] == 0
    code, text = _run(*warned, "--json")
    assert [set(json.loads(line)) for line in text.splitlines()] == [{"severity", "code", "what", "remedy"}] * 2
    code, text = _run(environment={"DERMSERVE_QUEUE": "-1", "DERMSERVE_GRACE_SECONDS": "soon"})
    assert (code, text.count("[SETTING]")) == (1, 2)
    assert "queue" in text
    assert _run("--config", str(tmp_path / "none.toml"))[0] == 1
    assert _run("--nonsense")[0] == 2


def test_config_prints_every_setting_with_its_source(tmp_path):
    file = tmp_path / "gateway.toml"
    file.write_text("queue = 3\n")
    environment = {"DERMSERVE_GRACE_SECONDS": "7"}
    result = CliRunner().invoke(config_command, ["--config", str(file), "--listen", "127.0.0.1:1"], env=environment)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == len(Config.model_fields)
    assert {f"queue = 3  # {file}", "grace_seconds = 7.0  # DERMSERVE_GRACE_SECONDS"} <= set(lines)
    assert "listen = 127.0.0.1:1  # option" in lines
    refused = CliRunner().invoke(config_command, [], env={"DERMSERVE_QUEUE": "-1"})
    assert (refused.exit_code, "queue" in refused.output) == (2, True)
