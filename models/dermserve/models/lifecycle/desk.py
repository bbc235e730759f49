"""Where the state of labels and pins is kept: models.config, the gateway's shares, and the servers themselves."""

import pathlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dermserve.models.lifecycle.errors import ConfigError, StoreError
from dermserve.models.lifecycle.server_config import CONFIG, ServerConfig
from dermserve.models.lifecycle.servers import Servers
from dermserve.models.lifecycle.stores import Store
from dermserve.models.store import write_durably

CANARY_FILE = "canary.toml"
"""Name in a store: the gateway's `canary_shares`, as its --config reads it and `dermserve up` passes it on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """What the commands that move labels work with."""

    store: Store
    servers: Servers
    config_file: pathlib.Path | None = None
    """models.config, where it does not lie in the store."""
    timeout: float = 120.0
    """Seconds for a version to load."""
    say: Callable[[str], None] = lambda line: None
    """Takes what people should know besides the result."""

    @property
    def config_name(self) -> str:
        """Where models.config is, for people."""
        return str(self.config_file or f"{self.store.base}/{CONFIG}")

    def read_config(self) -> ServerConfig:
        """Read models.config.

        Raises:
            ConfigError: there is none, or it can't be understood.
        """
        try:
            text = self.config_file.read_text("utf-8") if self.config_file else self.store.read_text(CONFIG)
        except FileNotFoundError as error:
            raise ConfigError(
                f"there is no {self.config_name}: `dermserve up` writes it; for a TensorFlow Serving of yours write it"
                " as docs/versions.md shows, or say where it is with --config"
            ) from error
        return ServerConfig.parse(text, where=self.config_name)

    def write_config(self, config: ServerConfig) -> None:
        """Write models.config, whole or not at all.

        Raises:
            StoreError: it can't be written.
        """
        try:
            if self.config_file is None:
                self.store.write_text(CONFIG, config.render())
            else:
                write_durably(self.config_file, config.render())
        except OSError as error:
            raise StoreError(f"{self.config_name} can't be written: {error}") from error


def read_shares(store: Store) -> dict[str, float]:
    """Read the share of callers that gets each model's canary.

    Raises:
        ConfigError: the file is not what `dermserve model canary` writes.
    """
    try:
        content = tomllib.loads(store.read_text(CANARY_FILE))
        return {str(model): float(share) for model, share in content["canary_shares"].items()}
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{store.base}/{CANARY_FILE} can't be understood: {error}") from error


def write_shares(store: Store, shares: Mapping[str, float]) -> None:
    """Write the shares; models without one are left out."""
    kept = {model: share for model, share in sorted(shares.items()) if share}
    if kept == read_shares(store):
        return
    lines = "".join(f'"{model}" = {share!r}\n' for model, share in kept.items())
    store.write_text(CANARY_FILE, f"# Written by `dermserve model`.\n[canary_shares]\n{lines}")
