"""Labelled photos; those that are one photo or show one lesion are joined, or refused where a split divides them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dermserve.models.training.errors import DataError

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo."""

    path: Path
    """Its file."""
    label: int
    """Index into the classes."""
    lesion: str
    """The lesion it shows; the photo's own name where nothing says."""
    split: str = ""
    """"train", "validation" or "test" where the data set itself says, else empty."""
    within: str = ""
    """Its path within the data set, with slashes."""
    digest: str = ""
    """First 64 bits of the SHA-256 of its file, in hexadecimal."""

    @property
    def name(self) -> str:
        """What the photo is known by: its path within the data set."""
        return self.within or self.path.as_posix()


def digest_file(sample: Sample) -> str:
    """Give the first 64 bits of the SHA-256 of a photo's file, in hexadecimal.

    Raises:
        DataError: the file can't be read, or is empty.
    """
    try:
        data = sample.path.read_bytes()
    except OSError as error:
        raise DataError(f"{sample.path} can't be read: {error.strerror}") from error
    if not data:
        raise DataError(f"{sample.path} is empty: replace or remove it")
    return hashlib.sha256(data).hexdigest()[:16]


def require_samples(samples: Iterable[Sample], classes: Sequence[str], *, minimum: int) -> None:
    """Check that every class has enough lesions to be split.

    Raises:
        DataError: classes that have fewer than `minimum` lesions.
    """
    lesions: dict[int, set[str]] = defaultdict(set)
    for sample in samples:
        lesions[sample.label].add(sample.lesion)
    few = [f"class {code} has {len(lesions[i])} lesions" for i, code in enumerate(classes) if len(lesions[i]) < minimum]
    if few:
        raise DataError(f"{', '.join(few)}; at least {minimum} are needed: add photos of it")


def count_classes(samples: Iterable[Sample], classes: Sequence[str]) -> dict[str, int]:
    """Count photos by class code, in the order of the classes."""
    counts = Counter(sample.label for sample in samples)
    return {code: counts[label] for label, code in enumerate(classes)}


def join_lesions(samples: Sequence[Sample], lesions: Sequence[Sequence[str]]) -> list[Sample]:
    """Give photos one lesion that share a lesion or a file's bytes, however long the chain between them.

    Args:
        samples: photos with their digests.
        lesions: what each of them is said to show, the first one first; empty where nothing is said.

    Returns:
        The photos, each with the first lesion of its group.
    """
    keys = [[("lesion", name) for name in named] for named in lesions]
    groups = _components([[*mine, ("bytes", sample.digest)] for mine, sample in zip(keys, samples, strict=True)])
    names: dict[int, str] = {}
    for group, named in zip(groups, lesions, strict=True):
        if named:
            names.setdefault(group, named[0])
    for group, sample in zip(groups, samples, strict=True):
        names.setdefault(group, sample.name)
    return [replace(sample, lesion=names[group]) for sample, group in zip(samples, groups, strict=True)]


def refuse_two_labels(samples: Iterable[Sample], classes: Sequence[str]) -> None:
    """Check that no photo has two labels.

    Raises:
        DataError: files with equal bytes are of two classes.
    """
    pairs = [
        f"{group[0].name} ({classes[group[0].label]}) = {other.name} ({classes[other.label]})"
        for group in _by(samples, lambda sample: sample.digest)
        if (other := next((sample for sample in group if sample.label != group[0].label), None))
    ]
    if pairs:
        raise DataError(f"the same photo is under two labels: {_shown(pairs)}; remove the wrong one")


def refuse_divided(samples: Iterable[Sample]) -> None:
    """Check that a data set's own split keeps the photos of a lesion, and equal files, on one side.

    Raises:
        DataError: it tests or validates on what it also trains on.
    """
    pairs = [
        f"{group[0].name} ({group[0].split or 'train'}) and {other.name} ({other.split or 'train'}) "
        f"{'are equal byte for byte' if group[0].digest == other.digest else f'show the lesion {other.lesion}'}"
        for group in _by(samples, lambda sample: sample.lesion)
        if (other := _on_other_side(group))
    ]
    if pairs:
        raise DataError(f"the data set's own split divides what belongs together: {_shown(pairs)}; mend the split")


def _on_other_side(group: Sequence[Sample]) -> Sample | None:
    first = group[0]
    others = [sample for sample in group if (sample.split or "train") != (first.split or "train")]
    return next((sample for sample in others if sample.digest == first.digest), others[0] if others else None)


def _by(samples: Iterable[Sample], key: Callable[[Sample], str]) -> list[list[Sample]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return list(groups.values())


def _components(keys: Sequence[Sequence[Hashable]]) -> list[int]:
    """Number the connected groups of items, of which those with a key in common are connected."""
    import numpy as np  # scipy is of the extra `train`, without which a run is exported
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[Hashable, int] = {}
    edges = [(item, len(keys) + numbers.setdefault(key, len(numbers))) for item, own in enumerate(keys) for key in own]
    size = len(keys) + len(numbers)
    rows, columns = np.asarray(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), np.int8), (rows, columns)), shape=(size, size))
    return [int(group) for group in connected_components(graph, directed=False)[1][: len(keys)]]


def _shown(found: Sequence[str]) -> str:
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
