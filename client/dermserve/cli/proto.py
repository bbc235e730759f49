"""`dermserve proto`: what a client in another language is generated from."""

import pathlib
from importlib import resources

import click

_API = "dermserve.v1"
_PROTOS = {
    _API: ("card.proto", "classifier.proto"),
    "google.api": ("annotations.proto", "http.proto"),  # of googleapis-common-protos
    "google.rpc": ("error_details.proto", "status.proto"),
}
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
    files = {
        pathlib.PurePosixPath(*package.split("."), name): resources.files(package) / name
        for package, names in _PROTOS.items()
        for name in names
    }
    files[pathlib.PurePosixPath(_PROTOSET)] = resources.files(_API) / _PROTOSET
    try:
        for path, source in files.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(source.read_bytes())
    except OSError as error:
        raise click.ClickException(f"can't write to {out}: {error.strerror or error}") from error
    for path in files:
        click.echo(out / path)
