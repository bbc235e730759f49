"""Which versions should be loaded: what the file system holds and the version policy says, as pure functions.

Rule: a child of the base path whose name is a whole number is a version (leading zeros count as nothing, a plain file
counts too, and fails when it is loaded). `latest` wants the highest `num_versions` of them, at least one, and is the
default; `all` wants every one; `specific` wants the listed ones that exist.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dermserve.modelserver.errors import ServingError, invalid_argument, not_found

_logger = logging.getLogger(__name__)
_NUMBER = re.compile(r"\s*-?[0-9]+\s*", re.ASCII)
_INT64 = range(-(2**63), 2**63)


def index_versions(children: Iterable[str]) -> dict[int, str]:
    """Map each version number to its directory's name. Of two names for one number the last in byte order wins."""
    versions = {}
    for child in sorted(children):
        if _NUMBER.fullmatch(child) and int(child) in _INT64:
            versions[int(child)] = child
    return versions


def aspired_versions(versions: Mapping[int, str], *, policy: Any) -> dict[int, str]:
    """Choose the versions to serve under a `ServableVersionPolicy`."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return dict(versions)
    if choice == "specific":
        return {version: versions[version] for version in policy.specific.versions if version in versions}
    newest = sorted(versions, reverse=True)[: max(policy.latest.num_versions, 1)]
    return {version: versions[version] for version in newest}


def poll(model: Any) -> dict[int, Path]:
    """Look at a model's base path once and choose: the path of each aspired version, by number.

    Raises:
        ServingError: the base path can't be read. (So that an unreachable disk unloads nothing.)
    """
    base = Path(model.base_path)
    try:
        versions = index_versions(child.name for child in base.iterdir())
    except OSError as error:
        raise _unreadable(model, error) from error
    aspired = aspired_versions(versions, policy=model.model_version_policy)
    _warn(model, aspired)
    return {version: base / name for version, name in aspired.items()}


def _unreadable(model: Any, error: OSError) -> ServingError:
    why = not_found(f"{model.base_path} not found") if isinstance(error, FileNotFoundError) else error
    return invalid_argument(f"Could not find base path {model.base_path} for servable {model.name} with error {why}")


def _warn(model: Any, aspired: Mapping[int, str]) -> None:
    for version in model.model_version_policy.specific.versions:
        if version not in aspired:
            _logger.warning(
                "Version %d of servable %s, which was requested to be served as a 'specific' version in the "
                "servable's version policy, was not found in the file system",
                *(version, model.name),
            )
    if not aspired:
        _logger.warning(
            "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as a "
            "number (eg. '/1/')?",
            *(model.name, model.base_path),
        )
