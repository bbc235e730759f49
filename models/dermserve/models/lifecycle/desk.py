"""Where the state of labels and pins is kept: models.config, the gateway's shares, and the servers themselves."""

import json
import pathlib
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass

from dermserve.models.lifecycle.errors import ConfigError, StoreError
from dermserve.models.lifecycle.server_config import CONFIG, ServerConfig
from dermserve.models.lifecycle.servers import Servers
from dermserve.models.lifecycle.stores import Store
from dermserve.models.store import write_durably

_KUBECTL = 60.0
"""Seconds for one call of it."""
CANARY_FILE = "canary.toml"
"""Name in a store: the gateway's `canary_shares`, as its --config reads it and `dermserve up` passes it on."""


@dataclass(frozen=True, slots=True)
class ConfigMap:
    """A ConfigMap with models.config and canary.toml, read and written by kubectl."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Write it as --config has it."""
        return f"configmap:{self.base}"

    @property
    def base(self) -> str:
        """NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"

    def read_text(self, name: str) -> str:
        """Read a key.

        Raises:
            FileNotFoundError: it has none of that name.
            StoreError: kubectl can't read it.
        """
        data = json.loads(self._kubectl("get", "--output=json")).get("data") or {}
        if name not in data:
            raise FileNotFoundError(f"{self} has no {name}")
        return str(data[name])

    def write_text(self, name: str, text: str) -> None:
        """Write a key.

        Raises:
            StoreError: kubectl can't write it.
        """
        patch = json.dumps({"data": {name: text}})
        self._kubectl("patch", "--type=merge", "--field-manager=dermserve-model", f"--patch={patch}")

    def _kubectl(self, verb: str, *flags: str) -> str:
        command = ["kubectl", verb, "configmap", self.name, f"--namespace={self.namespace}", *flags]
        try:
            done = subprocess.run(  # noqa: S603 - names were checked, and no shell reads them
                command, capture_output=True, text=True, check=False, timeout=_KUBECTL
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StoreError(f"{self} needs kubectl: {error}") from error
        if done.returncode:
            raise StoreError(f"{self}: kubectl {verb} failed: {done.stderr.strip()}")
        return done.stdout


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """What the commands that move labels work with."""

    store: Store
    servers: Servers
    config_file: pathlib.Path | ConfigMap | None = None
    """models.config, where it does not lie in the store."""
    public_key: pathlib.Path | None = None
    """PEM file of the key that a version must be signed with to get callers; None to check none."""
    timeout: float = 120.0
    """Seconds for a version to load."""
    say: Callable[[str], None] = lambda line: None
    """Takes what people should know besides the result."""

    @property
    def led(self) -> bool:
        """Whether servers read models.config by themselves, as pods do with a ConfigMap, and are not told of it."""
        return isinstance(self.config_file, ConfigMap)

    @property
    def config_name(self) -> str:
        """Where models.config is, for people."""
        return str(self.config_file or f"{self.store.base}/{CONFIG}")

    @property
    def place(self) -> "Store | ConfigMap":
        """Where canary.toml is."""
        return self.config_file if isinstance(self.config_file, ConfigMap) else self.store

    def read_config(self) -> ServerConfig:
        """Read models.config.

        Raises:
            ConfigError: there is none, or it can't be understood.
        """
        try:
            file = self.config_file
            text = file.read_text("utf-8") if isinstance(file, pathlib.Path) else self.place.read_text(CONFIG)
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
            if isinstance(self.config_file, pathlib.Path):
                write_durably(self.config_file, config.render())
            else:
                self.place.write_text(CONFIG, config.render())
        except OSError as error:
            raise StoreError(f"{self.config_name} can't be written: {error}") from error

    def read_shares(self) -> dict[str, float]:
        """Read the share of callers that gets each model's canary.

        Raises:
            ConfigError: the file is not what `dermserve model canary` writes.
        """
        return read_shares(self.place)

    def write_share(self, model: str, share: float) -> None:
        """Write a model's share; models without one are left out."""
        shares = self.read_shares()
        kept = {name: one for name, one in sorted({**shares, model: share}.items()) if one}
        if kept != shares:
            lines = "".join(f'"{name}" = {one!r}\n' for name, one in kept.items())
            self.place.write_text(CANARY_FILE, f"# Written by `dermserve model`.\n[canary_shares]\n{lines}")


def read_shares(store: "Store | ConfigMap") -> dict[str, float]:
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
