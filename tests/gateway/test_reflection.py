"""What reflection tells a client that has no protos, such as grpcurl."""

from collections.abc import Awaitable, Callable

import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2 as wire

from dermserve.gateway.reflection import V1, V1ALPHA, add_reflection
from dermserve.v1 import classifier_pb2_grpc  # noqa: F401 - brings the API into the process

SERVICES = ("dermserve.v1.Classifier", "grpc.health.v1.Health")


@pytest.fixture(params=[V1, V1ALPHA])
def ask(request: pytest.FixtureRequest) -> Callable[..., Awaitable[wire.ServerReflectionResponse]]:
    async def answer(**question: object) -> wire.ServerReflectionResponse:
        server = grpc.aio.server()
        add_reflection(SERVICES, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            call = channel.stream_stream(
                f"/{request.param}/ServerReflectionInfo",
                request_serializer=wire.ServerReflectionRequest.SerializeToString,
                response_deserializer=wire.ServerReflectionResponse.FromString,
            )
            response = await anext(aiter(call(iter([wire.ServerReflectionRequest(**question)]), timeout=100)))
        await server.stop(None)
        return response

    return answer


def _files(response):
    given = response.file_descriptor_response.file_descriptor_proto
    return {file.name: file for file in map(descriptor_pb2.FileDescriptorProto.FromString, given)}


async def test_every_service_is_listed(ask):
    listed = (await ask(list_services="")).list_services_response.service
    assert {service.name for service in listed} == {*SERVICES, V1, V1ALPHA}


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("dermserve.v1.Classifier", "dermserve/v1/classifier.proto"),
        ("dermserve.v1.Classifier.Classify", "dermserve/v1/classifier.proto"),
        ("dermserve.v1.Classifier.ClassifyStream", "dermserve/v1/classifier.proto"),
        ("dermserve.v1.Card", "dermserve/v1/card.proto"),
        ("dermserve.v1.TTA_MODE_FULL", "dermserve/v1/classifier.proto"),
        ("google.rpc.RetryInfo", "google/rpc/error_details.proto"),
        (V1, "grpc_reflection/v1/reflection.proto"),
        (f"{V1}.ServerReflectionInfo", "grpc_reflection/v1/reflection.proto"),
        (V1ALPHA, "grpc_reflection/v1alpha/reflection.proto"),
    ],
)
async def test_a_symbol_leads_to_its_file_and_all_that_it_imports(ask, symbol, name):
    files = _files(await ask(file_containing_symbol=symbol))
    assert name in files
    pool = descriptor_pool.DescriptorPool()

    def add(file):
        for dependency in file.dependency:
            add(files[dependency])
        pool.Add(file)

    add(files[name])  # builds from what was given alone


async def test_what_is_unknown_is_not_found(ask):
    for symbol in ("dermserve.v1.Classifier.Guess", "no.such.Thing", ""):
        assert (await ask(file_containing_symbol=symbol)).error_response.error_code == 5
    assert (await ask(file_by_filename="no/such.proto")).error_response.error_code == 5


async def test_fields_have_their_json_names(ask):
    file = _files(await ask(file_by_filename="dermserve/v1/classifier.proto"))["dermserve/v1/classifier.proto"]
    response = next(message for message in file.message_type if message.name == "ClassifyResponse")
    assert {field.name: field.json_name for field in response.field}["request_id"] == "requestId"
