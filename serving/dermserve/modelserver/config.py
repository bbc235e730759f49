"""models.config: reading it, and the rules a list of models must keep."""

import logging
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from dermserve.modelserver._protos import model_server_config_pb2
from dermserve.modelserver.errors import failed_precondition, invalid_argument, not_found

PLATFORM = "tensorflow"
_logger = logging.getLogger(__name__)


def read_text_proto(path: Path, *, into: Any) -> None:
    """Read a text-format file into a message.

    Raises:
        ServingError: NOT_FOUND or INVALID_ARGUMENT, it can't be read or parsed.
    """
    try:
        text_format.Parse(path.read_text("utf-8"), into)
    except OSError as error:
        raise not_found(f"{path}; {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        _logger.error("Error parsing text-format %s: %s", into.DESCRIPTOR.full_name, error)
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from error


def read_config(path: Path) -> Any:
    """Read a ModelServerConfig.

    Raises:
        ServingError: NOT_FOUND or INVALID_ARGUMENT, it can't be read or parsed.
    """
    config = model_server_config_pb2.ModelServerConfig()
    read_text_proto(path, into=config)
    return config


def listed_models(config: Any) -> Any:
    """Take the ModelConfigList out of a ModelServerConfig that is to follow another.

    Raises:
        ServingError: FAILED_PRECONDITION, it has none.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise failed_precondition(
            "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to another."
        )
    return config.model_config_list


def single_model_config(name: str, *, base_path: str) -> Any:
    """Build the ModelServerConfig that `--model_name` and `--model_base_path` stand for."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=PLATFORM)
    return config


def check_models(models: Any) -> None:
    """Check a ModelConfigList by itself.

    Raises:
        ServingError: INVALID_ARGUMENT, a model is listed twice or its base path is relative.
    """
    names = set()
    for model in models.config:
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    for model in models.config:
        if not model.base_path.startswith("/") and "://" not in model.base_path:
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )


def check_transition(old: Any, *, new: Any) -> None:
    """Check that no model changes its platform between two ModelConfigLists.

    Raises:
        ServingError: INVALID_ARGUMENT, one does, or one that is compared (or any of the old) has none.
    """
    platforms = {model.name: platform_of(model) for model in old.config}
    for model in new.config:
        if model.name not in platforms:
            continue
        platform = platform_of(model)
        if platform != platforms[model.name]:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {model.name} platform was "
                f"{platforms[model.name]} and new platform requested is {platform}"
            )


def check_platforms(models: Any) -> None:
    """Check that every model's platform is one that can be served.

    Raises:
        ServingError: INVALID_ARGUMENT, one is not.
    """
    for model in models.config:
        platform = platform_of(model)
        if platform != PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")


def platform_of(model: Any) -> str:
    """Name a model's platform, given by `model_platform` or by the deprecated `model_type`.

    Raises:
        ServingError: INVALID_ARGUMENT, both are given, or neither, or a type that is not TensorFlow.
    """
    deprecated = "ModelServerConfig::model_type (deprecated)"
    if model.model_type == model_server_config_pb2.MODEL_TYPE_UNSPECIFIED:
        if not model.model_platform:
            raise invalid_argument(
                f"Illegal setting neither {deprecated} nor ModelServerConfig::model_platform, "
                f"model name is {model.name}"
            )
        return str(model.model_platform)
    if model.model_platform:
        raise invalid_argument(f"Illegal setting both {deprecated} and ModelServerConfig::model_platform.")
    if model.model_type != model_server_config_pb2.TENSORFLOW:
        raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    return PLATFORM
