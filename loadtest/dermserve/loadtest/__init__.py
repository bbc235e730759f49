"""Load on a gateway: Locust users, shapes, a gate on thresholds, reports and capacity.

`from dermserve.loadtest import ClassifyUser` is all that a locustfile of one's own needs. Locust patches the standard
library for gevent when it is imported, so it is only once something of it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dermserve.loadtest.users import ClassifyUser

__all__ = ["ClassifyUser"]


def __getattr__(name: str) -> Any:
    if name == "ClassifyUser":
        from dermserve.loadtest.users import ClassifyUser

        return ClassifyUser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
