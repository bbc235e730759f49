"""Load tests of a gateway: Locust users, shapes, thresholds, reports and capacity.

Your own locustfile needs only `from dermserve.loadtest import ClassifyUser`. Locust patches the standard library for
gevent when it is imported, so it is imported only when something from it is used.
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
