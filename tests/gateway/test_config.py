"""Where settings come from, which are refused, and that the docs name every one."""

import pathlib
import re

import pytest

from dermserve.gateway.config import Config, is_loopback, load_config
from dermserve.gateway.errors import STATUSES
from dermserve.imaging import Limits

DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs"


def test_options_go_before_the_environment_and_that_before_the_file(tmp_path, monkeypatch):
    file = tmp_path / "gateway.toml"
    file.write_text('listen = "127.0.0.1:1"\ngrace_seconds = 1\nqueue = 1\nmodels = ["a", "b"]\n')
    monkeypatch.setenv("DERMSERVE_GRACE_SECONDS", "2")
    monkeypatch.setenv("DERMSERVE_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("DERMSERVE_TFS", "x:1, y:2")
    config, sources = load_config({"listen": "127.0.0.1:3"}, file=file)
    assert (config.listen, config.grace_seconds, config.queue) == ("127.0.0.1:3", 2.0, 1)
    assert (config.models, config.tfs) == (("a", "b"), ("x:1", "y:2"))
    assert sources["listen"] == "option"
    assert sources["grace_seconds"] == "DERMSERVE_GRACE_SECONDS"
    assert sources["queue"] == str(file)
    assert sources["poll_seconds"] == "default"
    assert set(sources) == set(Config.model_fields)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listne = 1", "listne"),
        ("queue = -1", "queue"),
        ("queue = ", "gateway.toml is not TOML: Invalid value"),
        ("queue = 1  # \udcff", "gateway.toml is not TOML: 'utf-8' codec"),
        ('tls_certificate = "/nonexistent.pem"', "tls_certificate"),
        ("poll_seconds = 0", "poll_seconds"),
        ("models = 3", "models"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_and_the_reason(tmp_path, text, words):
    file = tmp_path / "gateway.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=words) as refused:
        load_config({}, file=file)
    assert "pydantic" not in str(refused.value)


@pytest.mark.parametrize("name", ["listen", "health_listen", "metrics_listen", "tfs"])
@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:http", "http://127.0.0.1:1", ""],
)
def test_what_is_no_address_is_refused_before_anything_starts(name, address):
    with pytest.raises(ValueError, match=name):
        load_config({name: (address,) if name == "tfs" else address})


def test_every_kind_of_address_is_taken():
    for address in ("127.0.0.1:1", "[::1]:8500", "pods.ns.svc:8500", "dns:///pods:8500", "unix:/run/tfs"):
        assert load_config({"tfs": (address,)})[0].tfs == (address,)
    with pytest.raises(ValueError, match="tfs"):
        load_config({"tfs": ("127.0.0.1:0",)})


@pytest.mark.parametrize(
    "name",
    [name for name, field in Config.model_fields.items() if field.annotation in (int, float) or "_seconds" in name],
)
@pytest.mark.parametrize("value", ["inf", "nan", "1e300", "1" + "0" * 30])
def test_no_number_is_so_large_that_something_fails_on_it_later(name, value):
    with pytest.raises(ValueError, match=name):
        load_config({name: value})


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="nonsense"):
        load_config({"nonsense": 1})


def test_variables_of_other_parts_and_of_kubernetes_are_left_alone(monkeypatch):
    for key in ("DERMSERVE_STORE", "DERMSERVE_SERVICE_HOST", "DERMSERVE_PORT_50051_TCP_ADDR", "DERMSERVE_SHARED"):
        monkeypatch.setenv(key, "x")
    assert load_config({})[0] == Config()


@pytest.mark.parametrize(
    ("listen", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.1.2.3:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.7:1", False),
        ("gateway.example:1", False),
        (":1", False),
    ],
)
def test_beyond_the_loopback_it_listens_only_with_tls_or_when_told(listen, loopback):
    assert is_loopback(listen) == loopback
    assert load_config({"listen": listen, "insecure": True})[0].listen == listen
    if loopback:
        assert load_config({"listen": listen})[0].listen == listen
    else:
        with pytest.raises(ValueError, match="without TLS"):
            load_config({"listen": listen})


def test_half_a_tls_setting_is_refused(tmp_path):
    file = tmp_path / "x.pem"
    file.touch()
    for half in ("tls_certificate", "tls_key", "tls_client_ca"):
        with pytest.raises(ValueError, match=r"need(s)? "):
            load_config({half: file})


def test_a_configuration_can_not_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Config().queue = 7


def test_the_docs_name_every_setting_and_every_reason():
    settings = (DOCS / "settings.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", settings, re.MULTILINE) == list(Config.model_fields)

    page = (DOCS / "gateway.md").read_text()
    for status in set(STATUSES.values()):
        (row,) = re.findall(rf"^\| {status.name} \| (.*) \|$", page, re.MULTILINE)
        assert {reason for reason in STATUSES if STATUSES[reason] is status} == set(re.findall(r"`(\w+)`", row))


@pytest.mark.parametrize("decoders", [1, 2, 8, 64])
def test_all_decoders_together_keep_within_their_memory(decoders):
    assert decoders * Config(decoders=decoders).small_photo + Limits().max_memory <= 220_000_000
