"""Command-line options for `Settings`: one for each field, with its help and its default."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from dermserve.edge.settings import SITE, Settings

_F = TypeVar("_F", bound=Callable[..., Any])


def setting_options(*, prefix: str = "", only: Iterable[str] | None = None, exists: bool = False) -> Callable[[_F], _F]:
    """Add options for the fields of `Settings` to a command, which gets them under the fields' names with the prefix.

    Args:
        prefix: of the options' names, for example "edge-". Options without one have environment variables.
        only: names of the fields; all when None.
        exists: whether files must exist on this machine.
    """
    chosen = [one for one in dataclasses.fields(Settings) if only is None or one.name in only]

    def add(command: _F) -> _F:
        for one in reversed(chosen):
            command = _option(one, prefix, exists=exists)(command)
        return command

    return add


def _option(setting: "dataclasses.Field[Any]", prefix: str, *, exists: bool) -> Callable[[_F], _F]:
    more: dict[str, Any] = {"help": setting.metadata["help"]}
    if setting.default is dataclasses.MISSING:
        more |= {"required": True}
    elif setting.type is bool:
        more |= {"is_flag": True}
    elif setting.type == tuple[str, ...]:
        more |= {"multiple": True}
    elif setting.default is not SITE:
        more |= {"default": setting.default, "show_default": True}
    if setting.type is int:
        more |= {"type": click.IntRange(1)}
    elif setting.type in (pathlib.Path, pathlib.Path | None):
        more |= {"type": click.Path(exists=exists, dir_okay=not exists, resolve_path=exists, path_type=pathlib.Path)}
    if not prefix:
        more |= {"envvar": f"DERMSERVE_EDGE_{setting.name.upper()}", "show_envvar": True}
    name = prefix + setting.name.replace("_", "-")
    return click.option(f"--{name}", name.replace("-", "_"), **more)
