"""Errors of the commands that change or check versions; click prints them, and ends with their `exit_code`."""

import click


class LifecycleError(click.ClickException):
    """Base class, and a change that is refused. Each message says what is wrong and what to do."""


class StoreError(LifecycleError):
    """The store or its models.config can't be used, or does not have what was requested."""


class GateError(LifecycleError):
    """A version failed a check or a requirement."""

    exit_code = 4


class ServerError(LifecycleError):
    """A model server refused or failed."""


class NoServerError(ServerError):
    """A model server or gateway does not answer."""

    exit_code = 3
