"""What a peer asked for and cannot have: one exception, answered with FAILURE."""

from typing import Any


class Refusal(Exception):
    """The peer asked for what cannot be: answered with FAILURE, nothing done. ``code`` is one of the protocol's."""

    def __init__(self, code: str, text: str, **details: Any) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.details = details
