"""What can go wrong in the life of a version."""


class LifecycleError(Exception):
    """Base. Each message says what is wrong and what to do."""

    exit_code = 1


class ExportError(LifecycleError):
    """A version could not be made; the store is as it was."""


class ExportError(LifecycleError):
    """A version could not be made; the store is as it was."""


class StoreError(LifecycleError):
    """The store can't be used, or doesn't hold what was asked for."""


class SignatureError(StoreError):
    """A version is not what was signed, or a key can't be used."""


class ConfigError(LifecycleError):
    """models.config is missing or can't be understood."""


class RefusedError(LifecycleError):
    """What was asked for would break something; nothing was changed."""


class GateError(LifecycleError):
    """A version does not meet what is required of it."""

    exit_code = 4


class ServerError(LifecycleError):
    """A model server refused or failed."""


class NoServerError(ServerError):
    """A model server or gateway does not answer."""

    exit_code = 3
