"""What a run was trained on, in words: the data set's name, licence and source, as whoever trained it says."""

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path

from dermserve.models.training.errors import DataError

FILE = "dataset.toml"
NOT_STATED = "not stated"


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """A data set in words; what nobody has said is None."""

    name: str | None = None
    """For example "Clinic of X, 2020 to 2024"."""
    license: str | None = None
    """Under which the photos may be used; that of the weights follows from it."""
    source: str | None = None
    """Where the photos come from: an address, a citation."""

    @property
    def data(self) -> str:
        """One line for the card."""
        if self == Provenance():
            return NOT_STATED
        said = {"source": self.source, "licence": self.license}
        details = "; ".join(value or f"{key} {NOT_STATED}" for key, value in said.items())
        return f"{self.name or f'name {NOT_STATED}'} ({details})"

    @property
    def weights_license(self) -> str:
        """The licence of weights trained on the data."""
        return NOT_STATED if self.license is None else f"{self.license}: that of the training data"


def read_provenance(directory: Path, *, name: str | None, license: str | None, source: str | None) -> Provenance:  # noqa: A002
    """Take what is given, and the rest from `dataset.toml` (name, license, source) in the data set.

    Raises:
        DataError: the file can't be read, or says something else.
    """
    given = {key: value for key, value in {"name": name, "license": license, "source": source}.items() if value}
    return replace(_read(directory / FILE), **given)


def _read(path: Path) -> Provenance:
    if not path.is_file():
        return Provenance()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as TOML: {error}") from error
    known = [item.name for item in fields(Provenance)]
    for key, value in values.items():
        if key not in known or not isinstance(value, str):
            raise DataError(f"{path}: {key} = {value!r}; it may hold {', '.join(known)}, each a string")
    return Provenance(**{key: value.strip() or None for key, value in values.items()})
