"""models.config, TensorFlow Serving's list of models: reading it, and changing labels and pins in it.

Everything else in the file stays as it was; comments don't.
"""

from collections.abc import Iterable, Mapping

from google.protobuf import text_format

from dermserve.models.lifecycle.errors import ConfigError
from dermserve.tfserving.v1 import management_pb2

CONFIG = "models.config"
"""Name in a store."""


class ServerConfig:
    """The models a server serves. Values: every change makes another one."""

    def __init__(self, models: Iterable[management_pb2.ModelConfig] = ()) -> None:
        self._models = {model.name: model for model in models}

    @classmethod
    def parse(cls, text: str, *, where: str = CONFIG) -> "ServerConfig":
        """Read the file's text.

        Raises:
            ConfigError: it is not what this dermserve understands.
        """
        config = management_pb2.ModelServerConfig()
        try:
            text_format.Parse(text, config)
        except text_format.ParseError as error:
            raise ConfigError(f"{where} can't be understood: {error}") from error
        if config.HasField("custom_model_config"):
            raise ConfigError(f"{where} has a custom_model_config, not a model_config_list")
        return cls(config.model_config_list.config)

    def render(self) -> str:
        """Give the file's text."""
        return text_format.MessageToString(self.message(), as_utf8=True)

    def message(self) -> management_pb2.ModelServerConfig:
        """Give the message that a reload sends."""
        listed = management_pb2.ModelConfigList(config=self._models.values())
        return management_pb2.ModelServerConfig(model_config_list=listed)

    @property
    def models(self) -> list[str]:
        """Names, in the file's order."""
        return list(self._models)

    def base_path(self, model: str) -> str:
        """Where the server finds a model's versions."""
        return self._entry(model).base_path

    def labels(self, model: str) -> dict[str, int]:
        """Versions by label."""
        return dict(self._entry(model).version_labels)

    def pins(self, model: str) -> list[int] | None:
        """The versions that are loaded whatever comes; None when the server chooses, as by default: the latest."""
        policy = self._entry(model).model_version_policy
        return list(policy.specific.versions) if policy.HasField("specific") else None

    def labelled(self, model: str, labels: Mapping[str, int]) -> "ServerConfig":
        """Replace a model's labels."""
        entry = self._copy(model)
        entry.version_labels.clear()
        entry.version_labels.update(labels)
        return self._with(entry)

    def pinned(self, model: str, versions: Iterable[int]) -> "ServerConfig":
        """Have a server load these versions and no others; with none, the latest."""
        entry = self._copy(model)
        entry.ClearField("model_version_policy")
        entry.model_version_policy.specific.versions.extend(sorted(set(versions)))
        if not entry.model_version_policy.specific.versions:
            entry.ClearField("model_version_policy")
        return self._with(entry)

    def served_from(self, base_paths: Mapping[str, str]) -> "ServerConfig":
        """Serve these models from these paths, and no others; what is known of them is kept."""
        entries = []
        for name, path in base_paths.items():
            entry = self._copy(name) if name in self._models else management_pb2.ModelConfig(name=name)
            entry.base_path = path
            entry.model_platform = entry.model_platform or "tensorflow"
            entries.append(entry)
        return ServerConfig(entries)

    def without(self, models: Iterable[str]) -> "ServerConfig":
        """Leave models out."""
        gone = set(models)
        return ServerConfig(entry for name, entry in self._models.items() if name not in gone)

    def joined(self, other: "ServerConfig") -> "ServerConfig":
        """Add the models of another list that this one lacks."""
        return ServerConfig([*self._models.values(), *other.without(self._models)._models.values()])

    def _with(self, entry: management_pb2.ModelConfig) -> "ServerConfig":
        return ServerConfig({**self._models, entry.name: entry}.values())

    def _copy(self, model: str) -> management_pb2.ModelConfig:
        entry = management_pb2.ModelConfig()
        entry.CopyFrom(self._entry(model))
        return entry

    def _entry(self, model: str) -> management_pb2.ModelConfig:
        if model not in self._models:
            listed = ", ".join(self._models) or "none"
            raise ConfigError(f"the list of models has no {model}: it has {listed}")
        return self._models[model]
