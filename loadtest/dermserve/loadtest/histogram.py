"""Latencies in buckets a percent wide: small enough to send every second, exact enough for a p99."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Self

_STEP = math.log(1.01)
_LEAST = 0.01


class Histogram:
    """Counts of latencies in milliseconds; quantiles are right to half a percent.

    Args:
        counts: by bucket, as `counts` gives them; JSON's text keys will do.
    """

    def __init__(self, counts: Mapping[int, int] | Mapping[str, int] | None = None) -> None:
        self.counts: Counter[int] = Counter({int(bucket): count for bucket, count in (counts or {}).items()})
        """By bucket."""

    def add(self, milliseconds: float) -> None:
        """Count one."""
        self.counts[bucket_of(milliseconds)] += 1

    @property
    def total(self) -> int:
        """How many were counted."""
        return self.counts.total()

    def quantile(self, share: float) -> float:
        """Give the latency in milliseconds that `share` of the calls kept within; NaN when there are none."""
        left = math.ceil(share * self.total)
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return middle_of(bucket)
        return math.nan

    def over(self, milliseconds: float) -> int:
        """Count the calls that took longer."""
        return sum(count for bucket, count in self.counts.items() if middle_of(bucket) > milliseconds)

    @classmethod
    def merged(cls, histograms: Iterable[Self]) -> Self:
        """Put histograms together."""
        whole = cls()
        for histogram in histograms:
            whole.counts.update(histogram.counts)
        return whole


def bucket_of(milliseconds: float) -> int:
    """Give the bucket of a latency."""
    return round(math.log(max(milliseconds, _LEAST)) / _STEP)


def middle_of(bucket: int) -> float:
    """Give the latency in milliseconds in a bucket's middle."""
    return math.exp(bucket * _STEP)
