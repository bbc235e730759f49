"""What the options of several commands share."""

import functools
import math
from collections.abc import Callable
from typing import Any

import click

store_option = click.option(
    "--store", "base", metavar="BASE", default=".dermserve/store", envvar="DERMSERVE_STORE", show_default=True,
    show_envvar=True, help="The versioned store: a folder, or s3://… or gs://….",
)  # fmt: skip


def add_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make one decorator of several, in the order in which --help is to list them."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


class Number(click.FloatRange):
    """A number within bounds; click's own takes NaN, too, with which no threshold is ever exceeded."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it; fail unless it is a number within the bounds."""
        found: float = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number", param, ctx)
        return found
