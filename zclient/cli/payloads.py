"""The payload of a job on the command line: JSON, a file, or stdin."""

import json
import sys
from pathlib import Path
from typing import Any

from zclient.cli.common import usage
from zclient.jobs import encode_payload


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError if it is none, or has a value that no payload can carry (an int of 65 bits).

    NaN and Infinity are refused: they are not JSON, although Python's parser takes them.
    """
    try:
        value = json.loads(text, parse_constant=_not_a_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    encode_payload(value)
    return value


def _not_a_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def read_payload(text: str | None, file: Path | None, stdin: bool) -> Any:
    """The payload of one job: bytes from ``file`` or stdin, else the value of the JSON ``text``, else None."""
    if file is not None:
        return file.read_bytes()
    if stdin:
        return sys.stdin.buffer.read()
    if text is None:
        return None
    try:
        return parse_json(text)
    except ValueError as error:
        raise usage(f"PAYLOAD is no JSON that a job can carry: {error}; a text needs its quotes: '\"hello\"'") from None
