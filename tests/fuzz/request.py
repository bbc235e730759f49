"""Fuzz target: whatever arrives as a request or its metadata is read, or refused by an error meant for the caller."""

from collections.abc import Iterator

from tests.fuzz import fuzzing

with fuzzing.instrumented():
    from dermserve.gateway.catalog import KnownModel, check_target, route
    from dermserve.gateway.errors import GatewayError
    from dermserve.gateway.plan import read_mode
    from dermserve.gateway.rpc import read_request_id, read_trace_id, to_status
    from dermserve.gateway.service import parse, read_photo
    from dermserve.v1 import classifier_pb2


_MOST_STATUS = 4096
"""Bytes of an error's details; it travels in a header, which has room for 8 kB in all."""
_MESSAGES = (
    classifier_pb2.ClassifyRequest,
    classifier_pb2.ClassifyStreamRequest,
    classifier_pb2.ListModelsRequest,
    classifier_pb2.GetModelRequest,
)


def target(data: bytes) -> None:
    """Read it as each method's message, and its text as metadata."""
    for kind in _MESSAGES:
        try:
            message = parse(kind, data)
        except GatewayError:
            continue
        if isinstance(message, classifier_pb2.ClassifyStreamRequest):
            message = message.request
        if isinstance(message, classifier_pb2.ClassifyRequest):
            _read(message)
    _read_metadata(data.decode("latin-1"))


def _read(request: classifier_pb2.ClassifyRequest) -> None:
    try:
        photo = read_photo(request)
        found = check_target(photo.target)
        assert read_mode(request.tta) in classifier_pb2.TtaMode.values()
    except GatewayError as error:
        _write(error)
        return
    routed = route(found, share=0.5, caller=found.model, labels={"canary": 2, "stable": 1})
    assert routed.model == found.model
    _write(KnownModel(found.model, labels={str(number): number for number in range(1000)}).absent(found))


def _write(error: GatewayError) -> None:
    assert len(to_status(error, request_id="x" * 64).SerializeToString()) < _MOST_STATUS


def _read_metadata(text: str) -> None:
    for value in (text, b"\xff", None):
        assert 1 <= len(read_request_id(value)) <= 64
        trace_id = read_trace_id(value)
        assert trace_id is None or len(trace_id) == 32


def seeds() -> Iterator[bytes]:
    """Make requests of every kind, and metadata."""
    for choice in ({}, {"version": 3}, {"label": "stable"}, {"version": -1}, {"label": "é" * 200}):
        for mode in (0, 1, 3, 77):
            selector = classifier_pb2.ModelSelector(name="resnet50", **choice)
            request = classifier_pb2.ClassifyRequest(model=selector, image=b"\xff\xd8photo", tta=mode)
            yield request.SerializeToString()
            yield classifier_pb2.ClassifyStreamRequest(id="1", request=request).SerializeToString()
    yield classifier_pb2.GetModelRequest(name="resnet50").SerializeToString()
    yield b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    yield from (b"", b"\xff", b"request-1")


if __name__ == "__main__":
    fuzzing.run(target, seeds())
