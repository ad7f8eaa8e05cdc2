"""`Broker`: the durable broker inside a process; `zbroker start` runs the same code.

It puts store, core, commit and server together, and gives them a thread where that is wanted.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zbroker.commit import Commit, Durability
from zbroker.config import Config, given_config, is_loopback
from zbroker.core.core import Core
from zbroker.core.state import Notice
from zbroker.engine import Engine
from zbroker.log import log_writer
from zbroker.server import Server, new_broker_id
from zbroker.storage import Store, StoreFailed, open_store
from zbroker.storage.backup import refuse_backup
from zclient.errors import ClosedError, InvalidArgument


class Broker:
    """A broker on a thread of its own: ``with Broker(data="jobs/") as broker: broker.endpoint``.

    Takes the settings of ``zbroker.config`` by name, and a wildcard port unless ``bind`` is given; or all of them as
    ``config``. Raises what the store raises if it cannot be opened, and `InvalidArgument` for settings that cannot be.
    """

    def __init__(self, data: str | Path | None = None, *, config: Config | None = None, **settings: Any) -> None:
        if config is None:
            settings.setdefault("bind", "tcp://127.0.0.1:*")
            config = given_config({"data": None if data is None else str(data), **settings})
        elif data is not None or settings:
            raise InvalidArgument("a config has all settings: give it alone")
        self._config = config
        self._endpoints: list[str] = []
        self._thread: threading.Thread | None = None
        self._server: Server | None = None
        self._failure: BaseException | None = None

    @property
    def endpoint(self) -> str:
        """Where it listens: the first endpoint, with its real port."""
        if not self._endpoints:
            raise ClosedError("the broker is not running")
        return self._endpoints[0]

    # ---- on a thread of its own

    def start(self) -> Self:
        """Open the store, listen, and serve from a thread."""
        if self._thread is not None:
            raise ClosedError("the broker is running already")
        store, server = self._open(lambda notice: None)
        self._thread = threading.Thread(target=self._serve, args=(store, server), name="zbroker", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Drain, close the store, and wait for the end. Raises what ended the broker, if anything did."""
        if self._thread is None:
            return
        if self._server is not None:
            self._server.stop()
        self._thread.join()
        self._thread = None
        self._endpoints = []
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self, store: Store, server: Server) -> None:
        try:
            with _closing(store, server):
                server.serve()
        except BaseException as failure:
            self._failure = failure  # raised again by `stop`

    # ---- in the calling thread

    def run(self, on_ready: Callable[[str, Server], None], on_end: Callable[[], None] = lambda: None) -> None:
        """Serve until the server is stopped. ``on_ready`` gets each endpoint, and what to stop.

        ``on_end`` is called when it serves no more, whatever the reason, and nothing is closed yet.
        """
        store, server = self._open(log_writer(self._config["log_format"]))
        with _closing(store, server):
            try:
                for endpoint in self._endpoints:
                    on_ready(endpoint, server)
                server.serve()
            finally:
                on_end()

    # ---- putting it together

    def _open(self, on_notice: Callable[[Notice], None]) -> tuple[Store, Server]:
        config = self._config
        exposed = [endpoint for endpoint in config["bind"] if not is_loopback(endpoint)]
        if exposed and not config["insecure"]:
            raise InvalidArgument(
                f"{exposed[0]} can be reached from other hosts, and this broker asks nobody for credentials: "
                "bind 127.0.0.1, or say --insecure if the network is yours alone"
            )
        durability = Durability(config["durability"])
        name = config.store
        path = None if name == "memory" else Path(config["data"])
        if path is not None:
            refuse_backup(path)
        store = open_store(name, path)
        try:
            core = Core(store, config.core(), random.Random())
            engine = Engine(core, Commit(store, durability, time.sleep))
            server = Server(
                engine,
                store,
                heartbeat_interval_ms=config["heartbeat_interval"],
                heartbeat_timeout_ms=config["heartbeat_timeout"],
                disk_floor=config["disk_floor"],
                drain_ms=config["drain_timeout"],
                on_notice=on_notice,
            )
        except BaseException:
            store.close()
            raise
        try:
            self._endpoints = [server.bind(endpoint) for endpoint in config["bind"]]
            engine.open(time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000, new_broker_id())
            for notice in core.notices():
                on_notice(notice)
        except BaseException:
            server.close()
            store.close()
            raise
        self._server = server
        return store, server


@contextmanager
def _closing(store: Store, server: Server) -> Iterator[None]:
    """Close both at the end. Raises what ended the broker, rather than what its closing met because of that."""
    ended = False
    try:
        yield
        ended = True
    finally:
        server.close()
        try:
            store.close()
        except StoreFailed:
            if ended:
                raise
