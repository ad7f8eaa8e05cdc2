"""What the codec asks of each field, and how large payloads become frames of their own; nothing of single commands."""

from collections.abc import Sequence
from typing import Any

from zclient.protocol import limits


class MalformedMessage(Exception):
    """The peer's fault: what came is no message of this protocol. ``number`` is its number where one could be read."""

    def __init__(self, reason: str, number: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.number = number


def spill(blobs: Sequence[Any], frames: list[bytes]) -> Sequence[Any]:
    """``blobs`` with the large ones moved to ``frames`` and their frame numbers in their places."""
    if not any(blob.__class__ is bytes and len(blob) >= limits.LARGE_BYTES for blob in blobs):
        return blobs
    spilled: list[Any] = []
    for blob in blobs:
        if blob.__class__ is bytes and len(blob) >= limits.LARGE_BYTES:
            spilled.append(len(frames))
            frames.append(blob)
        else:
            spilled.append(blob)
    return spilled


def need(condition: bool, reason: str) -> None:
    """`MalformedMessage` unless it holds."""
    if not condition:
        raise MalformedMessage(reason)


def typed(value: Any, kind: type, what: str) -> Any:
    """The value, if it is of exactly this type."""
    if type(value) is not kind:
        raise MalformedMessage(f"{what} is a {kind.__name__}, not a {type(value).__name__}")
    return value


def number(value: Any, what: str) -> int:
    """A non-negative integer below 2**53, the range that every language's numbers hold."""
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise MalformedMessage(f"{what} is an integer from 0 to 2**53 - 1, not {value!r:.40}")
    return value


def list_of(value: Any, kind: type, what: str, most: int) -> list[Any]:
    """The value, if it is a list of such, and no longer."""
    if type(value) is not list or (value and set(map(type, value)) != {kind}):
        raise MalformedMessage(f"{what} is a list of {kind.__name__}")
    if len(value) > most:
        raise MalformedMessage(f"{what} has at most {most} items, not {len(value)}")
    return value


def ids(value: Any, most: int = limits.MAX_CAPACITY) -> list[bytes]:
    """A list of ids."""
    given = list_of(value, bytes, "ids", most)
    if given:
        lengths = set(map(len, given))
        if min(lengths) < 1 or max(lengths) > limits.MAX_ID_BYTES:
            raise MalformedMessage(f"an id has 1 to {limits.MAX_ID_BYTES} bytes")
    return given


def blobs(value: Any, frames: Sequence[bytes], *, optional: bool) -> list[Any]:
    """A list of byte strings, with frame numbers replaced by their frames."""
    kinds = set(map(type, typed(value, list, "a list of payloads")))
    if kinds <= {bytes}:
        return value  # type: ignore[no-any-return]
    allowed = {bytes, int, type(None)} if optional else {bytes, int}
    need(kinds <= allowed, "a payload is bytes or a frame number")
    if int in kinds:
        for position, blob in enumerate(value):
            if type(blob) is int:
                need(0 < blob < len(frames), f"no frame {blob}")
                value[position] = frames[blob]
    return value  # type: ignore[no-any-return]
