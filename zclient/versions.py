"""Which versions of zbroker the connected peers are, as a procedure that both clients run."""

from typing import Any

from zclient.verbs import Verb


def versions() -> Verb[list[dict[str, Any]]]:
    """How many of the connected peers are of which version, those that serve queues apart from the others."""
    return Verb("ask", "versions", {}, _rows)


def _rows(value: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in value]
