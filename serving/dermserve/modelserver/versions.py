"""Rules over a snapshot: models.config, versions to serve, what to load or unload next, where a label may point."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format

from dermserve.modelserver.errors import ServingError, failed_precondition, invalid_argument, not_found
from dermserve.tfserving.v1 import management_pb2
from dermserve.tfserving.v1.serving_pb2 import ModelVersionStatus as Status

if TYPE_CHECKING:
    from dermserve.modelserver.session import Session

_NUMBER = re.compile(r"\s*-?[0-9]+\s*", re.ASCII)
_PLATFORM = "tensorflow"
_logger = logging.getLogger(__name__)
_INT64 = range(-(2**63), 2**63)


@dataclass(eq=False)
class Version:
    """One version that is or was managed. The manager's lock guards it."""

    model: str
    number: int
    path: Path
    state: Status.State = Status.STATE_START
    aspired: bool = True  # one that has ENDed and is aspired failed to load, and is not tried again
    error: ServingError | None = None
    failures: int = 0  # attempts to load it
    session: "Session | None" = None
    calls: int = 0  # calls in flight, which must end before it is unloaded

    def __str__(self) -> str:
        """Render as TensorFlow Serving's log does."""
        return f"{{name: {self.model} version: {self.number}}}"


def index_versions(children: Iterable[str]) -> dict[int, str]:
    """Map each version number to its directory's name.

    A name that is a whole number in int64 is a version, also with leading zeros (`007` is 7). If two names have one
    number, the last in byte order counts.
    """
    return {int(name): name for name in sorted(children) if _NUMBER.fullmatch(name) and int(name) in _INT64}


def aspired_versions(versions: Mapping[int, str], *, policy: Any) -> dict[int, str]:
    """Choose the versions to serve under a `ServableVersionPolicy`.

    `latest`, the default, chooses the highest `num_versions`, at least one; `all` every version; `specific` the listed
    ones that exist.
    """
    wanted = sorted(versions, reverse=True)
    if policy.WhichOneof("policy_choice") == "specific":
        wanted = [version for version in policy.specific.versions if version in versions]
    elif policy.WhichOneof("policy_choice") != "all":
        wanted = wanted[: max(policy.latest.num_versions, 1)]
    return {version: versions[version] for version in wanted}


def find_versions(model: Any) -> dict[int, Path]:
    """Return the path of each version of a ModelConfig to serve; an unreadable base path is an error, not empty."""
    base = Path(model.base_path)
    try:
        versions = index_versions(child.name for child in base.iterdir())
    except (OSError, ValueError) as error:  # ValueError: no path can be called so, at least in this locale
        why = not_found(f"{model.base_path} not found") if isinstance(error, FileNotFoundError) else error
        where = f"{model.base_path} for servable {model.name}"
        raise invalid_argument(f"Could not find base path {where} with error {why}") from error
    aspired = aspired_versions(versions, policy=model.model_version_policy)
    return {version: base / name for version, name in aspired.items()}


def next_change(versions: Sequence[Version]) -> Version | None:
    """Choose the version of one model to load (it is at START) or unload (it is AVAILABLE) next, if any.

    Rule: a model is not left without a version while there is one to serve. A version that is no longer aspired is
    unloaded, the lowest first, once an aspired one is AVAILABLE, or when none is aspired at all, or while two of them
    are AVAILABLE. Otherwise the highest aspired version at START is loaded.
    """
    aspired = [one for one in versions if one.aspired]
    surplus = [one for one in versions if one.state == Status.STATE_AVAILABLE and not one.aspired]
    replaced = not aspired or any(one.state == Status.STATE_AVAILABLE for one in aspired)
    if surplus and (replaced or len(surplus) > 1):
        return min(surplus, key=lambda one: one.number)
    new = [one for one in aspired if one.state == Status.STATE_START]
    return max(new, key=lambda one: one.number, default=None)


def settled(versions: Iterable[Version]) -> Version | None:
    """Return the version that decides a model's start, or None while that is open.

    Rule: the highest aspired version that has not failed, once it is AVAILABLE; the highest when all have ENDed.
    """
    aspired = sorted((one for one in versions if one.aspired), key=lambda one: -one.number)
    hopeful = next((one for one in aspired if not one.failures), None)
    if hopeful is None and all(one.state == Status.STATE_END for one in aspired):
        return aspired[0] if aspired else None
    return hopeful if hopeful and hopeful.state == Status.STATE_AVAILABLE else None


def check_labels(model: Any, *, current: Mapping[str, int], available: set[int], allow_unavailable: bool) -> None:
    """Raise FAILED_PRECONDITION where a label of a ModelConfig may not point to its version yet.

    Rule: a label may only point to a version that is AVAILABLE. With `allow_unavailable` a label that is new, or stays
    where it is, may point anywhere; one that moves may not.
    """
    for label, version in model.version_labels.items():
        free = allow_unavailable and current.get(label, version) == version
        if not free and version not in available:
            asked = f"Request to assign label to version {version} of model {model.name}"
            raise failed_precondition(f"{asked}, which is not currently available for inference")


def read_models(path: Path) -> Any:
    """Read the ModelConfigList out of a ModelServerConfig in text format."""
    config = management_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text("utf-8"), config)
    except OSError as error:
        raise not_found(f"{path}; {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        _logger.error("Error parsing text-format tensorflow.serving.ModelServerConfig: %s", error)
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from error
    if config.WhichOneof("config") == "custom_model_config":
        raise failed_precondition("custom_model_config is not served by this stand-in; use model_config_list")
    return config.model_config_list


def list_models(**base_paths: str) -> Any:
    """Build a ModelConfigList from names and base paths."""
    entries = [{"name": name, "base_path": base, "model_platform": _PLATFORM} for name, base in base_paths.items()]
    return management_pb2.ModelConfigList(config=entries)


def check_models(models: Any, *, before: Any) -> None:
    """Raise INVALID_ARGUMENT where a list breaks a rule, or a model changes its platform from the list before."""
    names = [model.name for model in models.config]
    for model in models.config:
        if names.count(model.name) > 1:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
    for model in models.config:
        if not model.base_path.startswith("/") and "://" not in model.base_path:
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
    platforms = {model.name: _platform_of(model) for model in before.config}
    for model in models.config:
        if model.name in platforms and _platform_of(model) != platforms[model.name]:
            change = f"{platforms[model.name]} and new platform requested is {_platform_of(model)}"
            what = "Illegal to change a model's platform"
            raise invalid_argument(f"{what}. For model {model.name} platform was {change}")


def check_platforms(models: Any) -> None:
    """Raise INVALID_ARGUMENT where a model's platform is not TensorFlow."""
    for model in models.config:
        if _platform_of(model) != _PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {_platform_of(model)}")


def _platform_of(model: Any) -> str:
    if model.model_platform:
        return str(model.model_platform)
    if model.model_type == management_pb2.TENSORFLOW:
        return _PLATFORM
    either = "neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform"
    raise invalid_argument(f"Illegal setting {either}, model name is {model.name}")
