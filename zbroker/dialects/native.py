"""The native dialect: the protocol of ``docs/protocol.md``. Its messages are the core's own: little is left to do."""

from collections.abc import Sequence

from zbroker.core.core import Core
from zclient.protocol import codec, limits
from zclient.protocol.messages import Message

speaks = codec.is_native
"""Whether a message that begins with this frame is of this dialect."""

encode = codec.encode
"""The frames of a message to a peer of this dialect."""


def receive(core: Core, route: bytes, frames: Sequence[bytes]) -> None:
    """Hand a peer's message to the core. What is malformed is the peer's fault, is told to it, and goes no further."""
    if len(frames) > limits.MAX_FRAMES:
        core.malformed(route, None, f"a message has at most {limits.MAX_FRAMES} frames, not {len(frames)}")
        return
    try:
        message: Message = codec.decode(frames)
    except codec.MalformedMessage as fault:
        core.malformed(route, fault.number, fault.reason)
    else:
        core.receive(route, message)
