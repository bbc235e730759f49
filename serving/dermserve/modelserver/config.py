"""Read models.config, and check the rules that a list of models must keep."""

import logging
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from dermserve.modelserver.errors import failed_precondition, invalid_argument, not_found
from dermserve.modelserver.protos import model_server_config_pb2

_PLATFORM = "tensorflow"
_logger = logging.getLogger(__name__)


def read_models(path: Path) -> Any:
    """Read the ModelConfigList out of a ModelServerConfig in text format."""
    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text("utf-8"), config)
    except OSError as error:
        raise not_found(f"{path}; {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        _logger.error("Error parsing text-format %s: %s", config.DESCRIPTOR.full_name, error)
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from error
    if config.WhichOneof("config") == "custom_model_config":
        raise failed_precondition("custom_model_config is not served by this stand-in; use model_config_list")
    return config.model_config_list


def list_models(**base_paths: str) -> Any:
    """Build a ModelConfigList from names and base paths."""
    entries = [{"name": name, "base_path": base, "model_platform": _PLATFORM} for name, base in base_paths.items()]
    return model_server_config_pb2.ModelConfigList(config=entries)


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
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {model.name} platform was "
                f"{platforms[model.name]} and new platform requested is {_platform_of(model)}"
            )


def check_platforms(models: Any) -> None:
    """Raise INVALID_ARGUMENT where a model's platform is not TensorFlow."""
    for model in models.config:
        if _platform_of(model) != _PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {_platform_of(model)}")


def _platform_of(model: Any) -> str:
    if model.model_platform:
        return str(model.model_platform)
    if model.model_type == model_server_config_pb2.TENSORFLOW:
        return _PLATFORM
    either = "neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform"
    raise invalid_argument(f"Illegal setting {either}, model name is {model.name}")
