"""A job's record: what the producer sent, as it lies in the broker's ``jobs`` keyspace and as a worker receives it.

Layout, big-endian: header length (2 bytes), header (msgpack), sequence (8 bytes), payload (to the end).
The header is shared by all jobs of one `Group`, so it is encoded once a group and decoded once a group; the payload is
never opened on the way. A payload of `LARGE_BYTES` or more lies in a row of its own and the header says so; in its
place the record then has its length (8 bytes).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

SEQUENCE_BYTES = 8


class Header(NamedTuple):
    """What the jobs of a group share. ``options`` holds only what the producer gave."""

    queue: str
    created_ms: int  # wall clock of the broker, Unix milliseconds
    options: dict[str, Any]
    external: bool  # the payload is not in the record
    expires_ms: int = 0  # wall clock: when it is too late to begin it; 0: never


def encode_header(header: Header) -> bytes:
    """The first part of a record: the header behind its length."""
    body: bytes = msgpack.packb(header)
    return len(body).to_bytes(2, "big") + body


@lru_cache(maxsize=1024)
def _decode_header(encoded: bytes) -> Header:
    try:
        header = Header(*msgpack.unpackb(encoded))
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"not the header of a record: {error}") from error
    if type(header.options) is not dict:
        raise ValueError(f"not the header of a record: its options are {header.options!r:.40}")
    return header


def header_bytes(record: bytes) -> int:
    """How many bytes of the record its header takes, the length before it included."""
    return 2 + int.from_bytes(record[:2], "big")


def header_of(record: bytes) -> Header:
    """The header of a record. Records of one group share the object: do not change it. `ValueError` if it is none."""
    return _decode_header(record[2 : header_bytes(record)])


def sequence_of(record: bytes) -> int:
    """The sequence that the job was given when it came; 0 for one that came delayed."""
    start = header_bytes(record)
    return int.from_bytes(record[start : start + SEQUENCE_BYTES], "big")


def payload_of(record: bytes) -> bytes:
    """The encoded payload that the record carries, or the length of an external one."""
    return record[header_bytes(record) + SEQUENCE_BYTES :]


def stored_bytes(record: bytes) -> int:
    """What the job takes on disk: its record, and its payload if that is external."""
    return len(record) + int.from_bytes(payload_of(record), "big") if header_of(record).external else len(record)
