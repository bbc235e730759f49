"""`dermserve up` and `dermserve demo`."""

import contextlib
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable

import click

from dermserve.client import Client, DermserveError, TtaMode, render_text
from dermserve.edge import Settings
from dermserve.local import DEFAULT_MODELS, DEFAULT_PORT, DEFAULT_STORE, DEFAULT_TFS_PORT, DRAWN, Stack
from dermserve.local.child import HOST
from dermserve.local.edge import Edge

_PORT = click.IntRange(0, 65535)
_EDGE_PORT = 8080
_store_option = click.option(
    "--store", type=click.Path(file_okay=False, path_type=pathlib.Path), default=DEFAULT_STORE,
    envvar="DERMSERVE_STORE", show_envvar=True, help="Folder of the store; models that it lacks are exported into it.",
)  # fmt: skip


@click.command(context_settings={"show_default": True})
@_store_option
@click.option("--port", type=_PORT, default=DEFAULT_PORT, help="Gateway's port; 0 takes a free one.")
@click.option("--tfs-port", type=_PORT, default=DEFAULT_TFS_PORT, help="Model server's; 0 takes a free one.")
@click.option("--model", "models", multiple=True, default=DEFAULT_MODELS, help="Model to serve; repeatable.")
@click.option("--reflection", is_flag=True, help="Let grpcurl and the like ask the gateway for the API.")
@click.option("--edge", "with_edge", is_flag=True, help="Start Envoy, too: HTTP, JSON, gRPC-Web and the page.")
@click.option("--edge-port", type=_PORT, help=f"Envoy's port; 0 takes a free one. [default: {_EDGE_PORT}]")
def up(
    store: pathlib.Path, port: int, tfs_port: int, models: tuple[str, ...], reflection: bool, with_edge: bool,
    edge_port: int | None,
) -> None:  # fmt: skip
    """Serve the models on this machine until Ctrl-C: the local model server, and the gateway in front of it.

    With --edge, Envoy listens in front of the gateway: plain HTTP, JSON and the page. All listen only on the loopback.
    Ctrl-C and SIGTERM let requests in flight finish; a second one stops at once.
    """
    if not with_edge and edge_port is not None:
        raise click.UsageError("--edge-port needs --edge")
    ports = {"--port": port, "--tfs-port": tfs_port}
    if with_edge:
        ports["--edge-port"] = _EDGE_PORT if edge_port is None else edge_port
    for (one, number), (other, same) in itertools.combinations(ports.items(), 2):
        if number == same != 0:
            raise click.UsageError(f"{one} and {other} must differ")
    say, edge = _progress(), None
    if with_edge:
        listen = f"{HOST}:{ports['--edge-port']}"
        # The rate is high: the only client is this machine.
        settings = Settings(gateway=f"{HOST}:1", listen=listen, requests_per_minute=60_000, burst=1_000)
        edge = Edge(settings, store=store, say=say)
    flags = ("--reflection",) if reflection else ()
    stack = Stack(store=store, models=models, port=port, tfs_port=tfs_port, gateway_flags=flags, owner=True, say=say)
    _serve(stack, models[0], edge)


def _serve(stack: Stack, model: str, edge: Edge | None) -> None:
    """Run until a signal, or until a child ends. A signal before the servers are ready is an interruption."""
    ready = False
    try:
        with contextlib.ExitStack() as running:
            if edge is not None:
                edge.check()
            running.enter_context(stack)
            if edge is not None:
                edge.settings = dataclasses.replace(edge.settings, gateway=stack.gateway_address)
                running.enter_context(edge)
                click.echo(f"page:  {edge.url}/app/, API: {edge.url}{edge.api}")
            ready = True
            click.echo(f"ready: dermserve classify PHOTO --model {model} --server {stack.gateway_address}")
            click.echo("Ctrl-C stops it")
            stack.wait(*([edge.child] if edge else []))
    except KeyboardInterrupt:
        if not ready:
            raise


@click.command(context_settings={"show_default": True})
@click.argument("image", required=False, type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@_store_option
@click.option("--model", "models", multiple=True, default=DEFAULT_MODELS, help="Model to ask; repeatable.")
def demo(image: pathlib.Path | None, store: pathlib.Path, models: tuple[str, ...]) -> None:
    """Classify one picture with each model, with one view and with ten, then stop everything.

    IMAGE is a JPEG, PNG or WebP file. Without it, a drawn lesion is sent.
    """
    from dermserve.imaging import PhotoError, decode

    try:
        photo = (image or DRAWN / "0.jpg").read_bytes()
        decode(photo, height=224, width=224)  # before anything starts
    except (OSError, PhotoError) as error:
        raise click.BadParameter(f"{image}: {error}", param_hint="IMAGE") from error
    drawn = "a drawn lesion, no photo of anyone's skin"
    click.echo(f"picture: {image or drawn}")
    try:
        with (
            Stack(store=store, models=models, port=0, tfs_port=0, say=_progress()) as stack,
            Client(stack.gateway_address, deadline=60.0) as client,
        ):
            for model, tta in itertools.product(models, (TtaMode.NONE, TtaMode.FULL)):
                click.echo(f"\n{render_text(client.classify(photo, model=model, tta=tta))}")
            click.echo()
    except DermserveError as error:
        raise click.ClickException(str(error)) from error


def _progress() -> Callable[[str], None]:
    """Return a function that prints lines on stderr, each after the seconds since now."""
    started = time.monotonic()
    return lambda line: click.echo(f"[{time.monotonic() - started:5.1f} s] {line}", err=True)
