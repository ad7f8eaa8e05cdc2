"""What the tests of unique texts share: what an answer says of them, who has them, and a restart."""

from __future__ import annotations

from tests.core.harness import Bench, Peer
from zbroker.core.rows import UniqueRow, unpack
from zclient.protocol import messages as m


def instead(answer: m.Message) -> dict[str, str]:
    """What a PUT's answer says: ids that were sent, and the jobs that they are; empty for a plain OK."""
    if isinstance(answer, m.Ok):
        return {}
    assert isinstance(answer, m.Answer), answer
    return {sent.decode(): has.decode() for sent, has in answer.value["instead"]}


def taken(bench: Bench) -> dict[str, str]:
    """The rows of unique texts: text (with its queue), id."""
    found = {}
    for key, value in bench.store.scan("unique", b"", b"\xff" * 300):
        queue, _, text = key.partition(b"\0")
        found[f"{queue.decode()}/{text.decode()}"] = UniqueRow(*unpack(value)).id.decode()
    return found


def restart(bench: Bench, *peers: Peer) -> None:
    bench.crash()
    for peer in peers:
        peer.connect()
