"""`dermserve proto`: write the files from which clients in other languages are generated."""

import pathlib
from importlib import resources

import click
from google.protobuf.descriptor_pb2 import FileDescriptorSet

_PROTOSET = "dermserve.protoset"


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=pathlib.Path), required=True, metavar="DIR",
    help="Folder to write to; made when there is none.",
)  # fmt: skip
def proto(*, out: pathlib.Path) -> None:
    """Write the API's .proto files, all that they import, and dermserve.protoset.

    DIR is the one import path that compilers need: `protoc -I DIR`, `grpcurl -import-path DIR -proto
    dermserve/v1/classifier.proto`, Node's `includeDirs: [DIR]`. The protoset is a FileDescriptorSet of the same files:
    `grpcurl -protoset DIR/dermserve.protoset`. google's files are googleapis' own, under the Apache License 2.0.
    """
    files = {_PROTOSET: resources.files("dermserve.v1").joinpath(_PROTOSET).read_bytes()}
    for path in (file.name for file in FileDescriptorSet.FromString(files[_PROTOSET]).file):
        if not path.startswith("google/protobuf/"):  # which every compiler has
            package, _, name = path.rpartition("/")
            files[path] = resources.files(package.replace("/", ".")).joinpath(name).read_bytes()
    for path, content in files.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(content)
        click.echo(out / path)
