"""zbroker: a durable job queue and message broker. `Broker` runs one inside a process; the rest is its parts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zbroker.broker import Broker as Broker

__all__ = ["Broker"]


def __getattr__(name: str) -> Any:
    """`Broker`, loaded when it is asked for: the parts of the package are usable without sockets or a store."""
    if name == "Broker":
        from zbroker.broker import Broker

        return Broker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
