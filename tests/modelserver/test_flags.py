import pytest

from dermserve.modelserver.errors import ServingError
from dermserve.modelserver.flags import REFUSED, SERVED, parse_flags


def test_the_defaults_are_those_of_tensorflow_serving() -> None:
    flags = parse_flags([])
    assert (flags.port, flags.model_name, flags.file_system_poll_wait_seconds) == (8500, "default", 1)
    assert (flags.max_num_load_retries, flags.load_retry_interval_micros) == (5, 60_000_000)
    assert (flags.enable_model_warmup, flags.enable_grpc_healthcheck_service) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "flag", "value"),
    [
        (["--port=1"], "port", 1),
        (["--port", "1"], "port", 1),
        (["--enable_grpc_healthcheck_service"], "enable_grpc_healthcheck_service", True),
        (["--enable_grpc_healthcheck_service=true"], "enable_grpc_healthcheck_service", True),
        (["--enable_model_warmup=0"], "enable_model_warmup", False),
        (["--model_name=a=b"], "model_name", "a=b"),
        (["--model_name="], "model_name", ""),
    ],
)
def test_flags_are_read_as_tensorflow_serving_reads_them(arguments: list[str], flag: str, value: object) -> None:
    assert getattr(parse_flags(arguments), flag) == value


def test_an_unknown_flag_is_logged_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_flags(["--nope=1", "stray", "--port=2"]).port == 2
    assert "unknown argument: --nope=1" in caplog.text
    assert "unknown argument: stray" in caplog.text


@pytest.mark.parametrize("flag", ["--num_unload_threads=2", "--enable_batching=false", "--enable_profiler"])
def test_a_real_flag_that_changes_no_answer_is_logged(flag: str, caplog: pytest.LogCaptureFixture) -> None:
    assert parse_flags([flag]) == parse_flags([])
    assert f"unknown argument: {flag} (it changes nothing in this stand-in)" in caplog.text


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.parametrize("value", ["", "=x"])
def test_a_flag_that_would_be_missed_is_refused_and_points_to_the_real_server(name: str, value: str) -> None:
    with pytest.raises(ServingError, match=rf"--{name} is not supported by .*stand-in\..* tensorflow/serving"):
        parse_flags([f"--{name}{value}"])


@pytest.mark.parametrize(
    "argument",
    [
        "--port=abc",
        "--enable_model_warmup=maybe",
        "--port",
        "--port=",
        "--port=65536",
        "--port=-1",
        "--grpc_max_threads=0",
        "--tensorflow_intra_op_parallelism=-1",
        "--tensorflow_intra_op_parallelism=99999999999",
        "--load_retry_interval_micros=99999999999999999999",
    ],
)
def test_a_wrong_value_is_refused_by_the_flags_name(argument: str) -> None:
    with pytest.raises(ServingError, match=argument.partition("=")[0]):
        parse_flags([argument])


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_flags(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in SERVED)
