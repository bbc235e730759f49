import pytest

from dermserve.modelserver.errors import StartError
from dermserve.modelserver.flags import Flags, channel_arguments, parse_flags


def test_the_defaults_are_those_of_tensorflow_serving() -> None:
    flags = parse_flags([])
    assert (flags.port, flags.model_name, flags.file_system_poll_wait_seconds) == (8500, "default", 1)
    assert (flags.max_num_load_retries, flags.load_retry_interval_micros) == (5, 60_000_000)
    assert (flags.enable_model_warmup, flags.enable_batching, flags.enable_grpc_healthcheck_service) == (
        True,
        False,
        False,
    )
    assert flags.saved_model_tags == "serve"


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["--port=1"], Flags(port=1)),
        (["--port", "1"], Flags(port=1)),
        (["--enable_batching"], Flags(enable_batching=True)),
        (["--enable_batching=true"], Flags(enable_batching=True)),
        (["--enable_model_warmup=0"], Flags(enable_model_warmup=False)),
        (["--model_name=a=b"], Flags(model_name="a=b")),
        (["--model_name="], Flags(model_name="")),
    ],
)
def test_flags_are_read_as_tensorflow_serving_reads_them(arguments: list[str], flags: Flags) -> None:
    assert parse_flags(arguments) == flags


def test_an_unknown_flag_is_logged_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_flags(["--nope=1", "stray", "--port=2"]) == Flags(port=2)
    assert "unknown argument: --nope=1" in caplog.text
    assert "unknown argument: stray" in caplog.text


def test_a_real_flag_without_a_meaning_here_is_said_to_do_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_flags(["--rest_api_port=8501"]) == Flags()
    assert "--rest_api_port is accepted and changes nothing" in caplog.text


@pytest.mark.parametrize("flag", ["--ssl_config_file=x", "--grpc_socket_path=y", "--use_alts_credentials"])
def test_a_flag_that_would_be_missed_is_refused(flag: str) -> None:
    with pytest.raises(StartError, match="remove it"):
        parse_flags([flag])


@pytest.mark.parametrize("argument", ["--port=abc", "--enable_batching=maybe", "--port"])
def test_a_value_of_the_wrong_type_is_refused(argument: str) -> None:
    with pytest.raises(StartError):
        parse_flags([argument])


def test_channel_arguments_are_numbers_where_they_can_be() -> None:
    text = "grpc.max_connection_age_ms=2000,grpc.primary_user_agent=me,"
    assert channel_arguments(text) == [("grpc.max_connection_age_ms", 2000), ("grpc.primary_user_agent", "me")]
    with pytest.raises(StartError, match="name=value"):
        channel_arguments("grpc.nonsense")
