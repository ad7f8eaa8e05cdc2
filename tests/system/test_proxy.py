"""The proxy of the tests itself: what it delays, closes on one side, and holds back."""

import socket as sockets
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.system.processes import eventually
from tests.system.proxy import Proxy, address

PATIENCE_S = 10


class Line(NamedTuple):
    """A connection through a proxy, both ends in hand."""

    proxy: Proxy
    near: sockets.socket
    far: sockets.socket


@pytest.fixture
def line() -> Iterator[Line]:
    with sockets.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        with sockets.create_connection(address(proxy.endpoint), timeout=PATIENCE_S) as near:
            far, _ = listener.accept()
            with far:
                far.settimeout(PATIENCE_S)
                eventually(lambda: proxy.connections == 1)
                yield Line(proxy, near, far)
        proxy.close()


def test_what_is_delayed_arrives_later_and_in_order(line: Line) -> None:
    line.proxy.delay(0.2)
    began = time.monotonic()
    line.near.sendall(b"one")
    assert line.far.recv(10) == b"one"
    assert time.monotonic() - began >= 0.2
    line.near.sendall(b"two")
    line.proxy.delay(0)
    line.near.sendall(b"three")
    received = b""
    while len(received) < 8:
        received += line.far.recv(10)
    assert received == b"twothree"


@pytest.mark.parametrize("broker_side", [False, True])
def test_one_side_of_a_connection_is_closed_and_the_other_learns_nothing(line: Line, broker_side: bool) -> None:
    gone, stays = (line.far, line.near) if broker_side else (line.near, line.far)
    line.proxy.half_close(broker_side=broker_side)
    with pytest.raises(ConnectionResetError):
        gone.recv(10)
    stays.sendall(b"hello?")
    stays.setblocking(False)
    with pytest.raises(BlockingIOError):
        stays.recv(10)
    stays.settimeout(PATIENCE_S)
    line.proxy.mend()
    with pytest.raises(ConnectionResetError):
        stays.recv(10)


def test_a_dark_link_holds_what_was_sent(line: Line) -> None:
    line.proxy.go_dark()
    line.near.sendall(b"later")
    line.far.setblocking(False)
    with pytest.raises(BlockingIOError):
        line.far.recv(10)
    line.far.settimeout(PATIENCE_S)
    line.proxy.come_back()
    assert line.far.recv(10) == b"later"


def test_a_cut_resets_both_ends(line: Line) -> None:
    line.proxy.cut()
    for end in (line.near, line.far):
        with pytest.raises(ConnectionResetError):
            end.recv(10)
