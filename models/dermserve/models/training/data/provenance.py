"""What a data set's file dataset.toml states: its name, licence and source."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dermserve.models.training.errors import DataError

UNSTATED = {"data": "not stated", "license": "not stated"}


def read_provenance(directory: Path) -> dict[str, str]:
    """Return "data" and "license" of run.json for weights trained on a data set, by its file dataset.toml, if any."""
    path = directory / "dataset.toml"
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as TOML: {error}") from error
    for key, value in said.items():
        if key not in ("name", "license", "source") or not isinstance(value, str):
            raise DataError(f"{path}: {key} = {value!r}; it may hold name, license and source, each a string")
    name, terms, source = (said.get(key, "").strip() for key in ("name", "license", "source"))
    if not (name or terms or source):
        return UNSTATED
    details = f"{source or 'source not stated'}; {terms or 'licence not stated'}"
    return {
        "data": f"{name or 'name not stated'} ({details})",
        "license": f"{terms}: that of the training data" if terms else "not stated",
    }


def joined_provenance(data: Path, also: Path | None, begun: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what a data set states, or else the run.json of a run to continue; and what the data set `also` states."""
    first = read_provenance(data)
    if begun is not None and first == UNSTATED:
        first = {key: begun[key] for key in UNSTATED}
    second = UNSTATED if also is None else read_provenance(also)
    return first if second in (UNSTATED, first) else {key: f"{first[key]}; {second[key]}" for key in first}
