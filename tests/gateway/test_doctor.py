"""The doctor: what is unsafe or will not work is found, named, and comes with what to do; what is well is not."""

import asyncio
import datetime
import json
import pathlib

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dermserve.doctor.cli import doctor, look_at_models, look_at_settings
from dermserve.gateway.cli import config as config_command
from dermserve.gateway.config import Config
from dermserve.v1 import card_pb2
from tests.gateway.fake_tfserving import CODES, Version, make_card

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
    assert _tls(one, two.with_suffix(".key"))["KEY_MISMATCH"] == "ERROR"
    junk = tmp_path / "junk.pem"
    junk.write_text("no PEM")
    assert "KEY_UNREADABLE" in _tls(one, junk)
    assert _tls(junk, one.with_suffix(".key")) == {"CERTIFICATE_UNREADABLE": "ERROR"}  # the key is not to blame
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(one.with_suffix(".key").read_bytes(), None)
    sealed = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed))
    assert "KEY_UNREADABLE" in _tls(one, locked)
    one.with_suffix(".key").chmod(0o644)
    assert _tls(one)["KEY_READABLE"] == "WARNING"


async def _seen(address: str, **settings: object) -> dict[str, str]:
    found = await look_at_models(Config(tfs=address, **settings), seconds=100)
    return {finding.code: finding.severity for finding in found}


async def test_models_that_are_well_give_no_finding_but_that_they_have_no_profile(tfs):
    async with tfs.serving() as address:
        assert await _seen(address) == {"NO_PROFILE": "NOTE"}
        histogram = card_pb2.Histogram(shares=[1], mean=1)
        for model, versions in tfs.models.items():
            shares = [1 / len(CODES[model])] * len(CODES[model])
            profile = card_pb2.Profile(class_shares=shares, confidence=histogram)
            profile.brightness.CopyFrom(histogram)
            profile.sharpness.CopyFrom(histogram)
            versions[1].card.profile.CopyFrom(profile)
        assert await _seen(address) == {}


async def test_what_the_model_server_lacks_is_found(tfs, unused_port):
    tfs.models["resnet50"] = {1: Version(make_card(trained=False)), 2: Version("no card")}
    tfs.models["mobilenet_v3_small"] = {1: Version(make_card("mobilenet_v3_small"))}
    async with tfs.serving() as address:
        seen = await _seen(address)
        assert seen == {"UNTRAINED_MODEL": "WARNING", "INVALID_CARD": "ERROR", "UNCALIBRATED_MODEL": "WARNING"}
        del tfs.models["resnet50"][1]
        assert {"INVALID_CARD", "MODEL_NOT_READY"} <= set(await _seen(address))
        assert "MODEL_MISSING" in await _seen(address, models="other")
    assert await _seen(f"127.0.0.1:{unused_port}") == {"TFS_UNREACHABLE": "ERROR"}


async def test_a_certificate_that_does_not_fit_the_model_server_is_found(tfs, tmp_path):
    async with tfs.serving() as address:
        assert await _seen(address, tfs_tls_ca=_certificate(tmp_path, "ca")) == {"TFS_UNREACHABLE": "ERROR"}


def _run(*options: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(doctor, [*options], env=environment)
    return result.exit_code, result.output


def test_the_exit_code_tells_errors_from_warnings_and_json_is_one_object_a_finding(tmp_path):
    assert _run("--offline") == (0, "0 errors, 0 warnings, 0 notes (model servers not asked)\n")
    warned = ("--offline", "--listen", "0.0.0.0:1", "--insecure")
    assert _run(*warned)[0] == 0
    code, text = _run(*warned, "--json")
    assert [set(json.loads(line)) for line in text.splitlines()] == [{"severity", "code", "what", "remedy"}] * 2
    code, text = _run("--offline", environment={"DERMSERVE_QUEUE": "-1", "DERMSERVE_GRACE_SECONDS": "soon"})
    assert (code, text.count("[SETTING]")) == (1, 2)
    assert "queue" in text
    assert _run("--offline", "--config", str(tmp_path / "none.toml"))[0] == 1
    assert _run("--nonsense")[0] == 2


def test_the_command_asks_the_model_servers(tfs):
    async def ask() -> tuple[int, str]:
        async with tfs.serving() as address:
            return await asyncio.to_thread(_run, "--tfs", address, "--timeout", "100")

    code, text = asyncio.run(ask())
    assert (code, "NO_PROFILE" in text) == (0, True)


@pytest.mark.parametrize(
    ("address", "what"),
    [("127.0.0.1:{port}", "does not answer"), ("nowhere.invalid:8500", "nowhere.invalid:8500 can't be resolved")],
)
def test_json_is_all_it_prints_of_a_model_server_that_does_not_answer(unused_port, address, what):
    code, text = _run("--json", "--tfs", address.format(port=unused_port))
    found = {each["code"]: each["what"] for each in map(json.loads, text.splitlines())}
    assert (code, what in found["TFS_UNREACHABLE"]) == (1, True)


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


def test_a_timeout_that_is_no_number_is_wrong_usage():
    code, said = _run("--timeout", "nan")
    assert (code, "'nan' is not a number" in said) == (2, True)
