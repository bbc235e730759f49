"""models.config, TensorFlow Serving's list of models: its content, and where it is stored."""

import json
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.servers import Server
from dermserve.models.lifecycle.stores import Store
from dermserve.tfserving.v1 import management_pb2

CONFIG = "models.config"  # name in a store
CANARY_FILE = "canary.toml"  # name in a store: the file with `canary_shares` for the gateway's setting `canary_file`
_KUBECTL = 60.0  # timeout of one call of kubectl, in seconds


class ServerConfig:
    """The models that a server serves. Immutable: every change returns another one."""

    def __init__(self, models: Iterable[management_pb2.ModelConfig] = ()) -> None:
        self.models = {model.name: model for model in models}  # in the file's order; of two entries, the last

    @classmethod
    def parse(cls, text: str, *, where: str = CONFIG) -> "ServerConfig":
        """Read the file's text. Raises StoreError: it is not valid."""
        config = management_pb2.ModelServerConfig()
        try:
            text_format.Parse(text, config)
        except text_format.ParseError as error:
            raise StoreError(f"{where} can't be understood: {error}") from error
        if config.HasField("custom_model_config"):
            raise StoreError(f"{where} has a custom_model_config, not a model_config_list")
        names = [model.name for model in config.model_config_list.config]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise StoreError(f"{where} lists {', '.join(twice)} twice")
        return cls(config.model_config_list.config)

    def render(self) -> str:
        """Return the file's text."""
        return text_format.MessageToString(self.message(), as_utf8=True)

    def message(self) -> management_pb2.ModelServerConfig:
        """Return the message for a reload."""
        listed = management_pb2.ModelConfigList(config=self.models.values())
        return management_pb2.ModelServerConfig(model_config_list=listed)

    def labels(self, model: str) -> dict[str, int]:
        """Versions by label."""
        return dict(self._entry(model).version_labels)

    def pins(self, model: str) -> list[int]:
        """The versions that are pinned; none if the server follows the latest, which is the default."""
        return sorted(self._entry(model).model_version_policy.specific.versions)

    def needed(self, model: str) -> set[int]:
        """The versions that are labelled or pinned; none of a model that is not listed."""
        return {*self.labels(model).values(), *self.pins(model)} if model in self.models else set()

    def policy(self, model: str) -> str:
        """Text of the rule by which versions are chosen; empty for the default."""
        return text_format.MessageToString(self._entry(model).model_version_policy, as_one_line=True)

    def changed(
        self,
        model: str,
        *,
        labels: Mapping[str, int] | None = None,
        pins: Iterable[int] | None = None,
        policy: str = "",
    ) -> "ServerConfig":
        """Replace a model's labels, or its pins, or both; with no pins at all `policy` chooses."""
        entry = management_pb2.ModelConfig()
        entry.CopyFrom(self._entry(model))
        if labels is not None:
            entry.version_labels.clear()
            entry.version_labels.update(labels)
        if pins is not None:
            entry.ClearField("model_version_policy")
            if versions := sorted(set(pins)):
                entry.model_version_policy.specific.versions.extend(versions)
            elif policy:
                text_format.Parse(policy, entry.model_version_policy)
        return ServerConfig((self.models | {model: entry}).values())

    def served_from(self, base_paths: Mapping[str, str]) -> "ServerConfig":
        """Serve these models from these paths, and no others; keep their labels and pins."""
        entries = []
        for name, path in base_paths.items():
            entry = management_pb2.ModelConfig(name=name, model_platform="tensorflow")
            if name in self.models:
                entry.MergeFrom(self.models[name])
            entry.base_path = path
            entries.append(entry)
        return ServerConfig(entries)

    def _entry(self, model: str) -> management_pb2.ModelConfig:
        if model not in self.models:
            raise StoreError(f"the list of models has no {model}: it has {', '.join(self.models) or 'none'}")
        return self.models[model]


@dataclass(frozen=True, slots=True)
class ConfigMap:
    """A ConfigMap with models.config and canary.toml, read and written with kubectl."""

    namespace: str
    name: str

    @property
    def base(self) -> str:
        """Its name in messages."""
        return f"ConfigMap {self.namespace}/{self.name}"

    def read_text(self, name: str) -> str | None:
        """Read a key, if it has one of that name. Raises StoreError: kubectl can't read it."""
        data: dict[str, str] = json.loads(self._kubectl("get", "--output=json")).get("data") or {}
        return data.get(name)

    def write_text(self, name: str, text: str) -> None:
        """Write a key. Raises StoreError: kubectl can't write it."""
        patch = json.dumps({"data": {name: text}})
        self._kubectl("patch", "--type=merge", "--field-manager=dermserve-model", f"--patch={patch}")

    def _kubectl(self, verb: str, *flags: str) -> str:
        command = ["kubectl", verb, "configmap", self.name, f"--namespace={self.namespace}", *flags]
        try:
            done = subprocess.run(  # noqa: S603 - names were checked, and no shell reads them
                command, capture_output=True, encoding="utf-8", check=False, timeout=_KUBECTL
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StoreError(f"{self.base} needs kubectl: {error}") from error
        if done.returncode:
            raise StoreError(f"{self.base}: kubectl {verb} failed: {done.stderr.strip()}")
        return done.stdout


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """What the commands that move labels need."""

    store: Store
    servers: Sequence[Server]  # all that serve the store
    config_map: ConfigMap | None = None  # has models.config and canary.toml in place of the store
    public_key: Path | None = None  # PEM file; versions must be signed with its private key
    timeout: float = 120.0  # seconds in which a version must load
    say: Callable[[str], None] = lambda line: None  # takes messages for people, besides the result

    @property
    def place(self) -> Store | ConfigMap:
        """Where models.config and canary.toml are."""
        return self.config_map or self.store

    def available(self, model: str) -> set[int]:
        """Return the versions that can answer on any server. Calls every server, so that a dead one raises here."""
        return set[int]().union(*(server.available(model) for server in self.servers))

    def read_config(self, *, needed: bool = True) -> ServerConfig:
        """Read models.config; a store may lack it, unless `needed`. Raises StoreError: it is absent, or not valid."""
        text, called = self.place.read_text(CONFIG), f"{self.place.base}/{CONFIG}"
        if text is None and (needed or self.config_map):
            how = "`dermserve up` writes it; for a TensorFlow Serving of yours write it as docs/versions.md shows"
            raise StoreError(f"there is no {called}: {how}")
        return ServerConfig.parse(text or "", where=called)

    def read_shares(self) -> dict[str, float]:
        """Read the share of callers that gets each model's canary."""
        text = self.place.read_text(CANARY_FILE)
        if text is None:
            return {}
        try:
            return {str(model): float(share) for model, share in tomllib.loads(text)["canary_shares"].items()}
        except Exception as error:  # whatever the file has in it
            raise StoreError(f"{self.place.base}/{CANARY_FILE} can't be understood: {error!r}") from error

    def write_share(self, model: str, share: float) -> None:
        """Write a model's share; the file lists only models with a share."""
        shares = self.read_shares()
        kept = {name: one for name, one in sorted({**shares, model: share}.items()) if one}
        if kept != shares:
            lines = "".join(f"{json.dumps(name)} = {one!r}\n" for name, one in kept.items())
            self.place.write_text(CANARY_FILE, f"# Written by `dermserve model`.\n[canary_shares]\n{lines}")
