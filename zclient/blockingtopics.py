"""What `Client` says about topics: publish, bind, keep, tail. The class is a part of it, and never stands alone."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, Unpack

from zclient import topics
from zclient.batches import Chunks
from zclient.clientbase import ClientBase
from zclient.config import Duration, batch_size
from zclient.durations import parse_duration
from zclient.filters import Filter, wire_filters
from zclient.handles import Jobs, as_text
from zclient.joboptions import CopyOptions
from zclient.publishing import PUBLISH_BATCH, Publications, publishing
from zclient.tailing import Tailing
from zclient.topics import Binding, KeptTopic, Publication, Published, PublishedMany, Start

T = TypeVar("T")


class TopicMethods(ClientBase):
    """The methods of a `Client` that are about topics."""

    def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        id: str | None = None,
        timeout: Duration | None = None,
        **options: Unpack[CopyOptions],
    ) -> Published:
        """Publish under a topic: each queue with a binding that takes it gets a copy, all in one commit, or none does.

        Returns when that is on disk; ``queues`` of the answer says how many they were, and none is no error. The same
        publication under the same ``id`` is published once. The other options are those of each copy. Raises as `send`
        does; a queue that is full or closed refuses it for all.
        """
        publication = topics.one_publication(topic, payload, id, topics.copy_options(**options))
        timeout_ms = self._config.timeout(timeout)
        queues = self._run(lambda session, now: publishing(session, now, publication, timeout_ms))
        return Published(publication.id.decode(), queues)

    def publish_many(
        self,
        topic: str,
        payloads: Iterable[Any],
        *,
        timeout: Duration | None = None,
        batch: int = PUBLISH_BATCH,
        progress: Callable[[int], Any] | None = None,
        **options: Unpack[CopyOptions],
    ) -> PublishedMany:
        """Publish each payload under the topic, in batches that do not wait for each other; see `send_many`."""
        name, wire, size = topics.topic_name(topic), topics.copy_options(**options), batch_size(batch)
        timeout_ms, chunks = self._config.timeout(timeout), Chunks(payloads)
        ids, copies, unrouted = self._run(
            lambda session, now: Publications(session, name, wire, timeout_ms, size).published(now),
            chunks.next,
            progress,
        )
        return PublishedMany(Jobs(ids, as_text), copies, unrouted)

    def bind(
        self,
        pattern: str,
        queue: str,
        *,
        filters: Iterable[Filter] = (),
        start: Start = None,
        timeout: Duration | None = None,
    ) -> Binding:
        """Let a queue have a copy of what is published under a pattern, and under headers that pass all ``filters``.

        In a pattern ``*`` is one word, ``#`` any number of them. A filter is written ``"region=eu"``, ``"amount>=10"``,
        or in its parts, ``("amount", ">=", 10)``. With a ``start`` (``"beginning"``, or a time) the queue gets what is
        kept from there on as well. Binding again replaces the filters. A queue that is not there is made.
        """
        return self._ask(topics.bind(pattern, queue, filters, start), timeout)

    def unbind(self, pattern: str, queue: str, *, timeout: Duration | None = None) -> Binding:
        """Take a binding away; copies that the queue has stay. `NotFound` if there is none."""
        return self._ask(topics.unbind(pattern, queue), timeout)

    def bindings(self, queue: str | None = None, *, timeout: Duration | None = None) -> Iterator[Binding]:
        """All bindings, or those of a queue, by pattern, fetched page by page. ``timeout`` is for each page."""
        return self._pages(topics.bindings(queue), None, timeout)

    def keep_topic(
        self,
        pattern: str,
        *,
        keep_for: Duration | None = None,
        keep_bytes: int | str | None = None,
        timeout: Duration | None = None,
    ) -> KeptTopic:
        """Keep what is published under a pattern from now on: for a time, up to a size (``"100MB"``), or both.

        Keeping it again changes for how long.
        """
        return self._ask(topics.keep(pattern, keep_for, keep_bytes), timeout)

    def forget_topic(self, pattern: str, *, timeout: Duration | None = None) -> KeptTopic:
        """Keep it no longer, and remove what was kept. `NotFound` if it is not kept."""
        return self._ask(topics.forget(pattern), timeout)

    def kept_topics(self, *, timeout: Duration | None = None) -> list[KeptTopic]:
        """All kept topics, by pattern."""
        return self._ask(topics.kept_topics(), timeout)

    def tail(
        self,
        pattern: str,
        *,
        start: Start = None,
        filters: Iterable[Filter] = (),
        timeout: Duration | None = None,
    ) -> Iterator[Publication]:
        """Follow what is published under a pattern: from now on, or from a ``start`` in what is kept and then live.

        It goes on through lost connections and restarts of the broker, without a gap where the topic is kept;
        elsewhere ``missed`` of a publication says that some before it did not arrive, as it does where the caller is
        too slow. Following begins when the first publication is asked for. It ends when none came for ``timeout``; by
        default never. Raises as `get` does if it cannot begin.
        """
        patience_ms = math.inf if timeout is None else parse_duration(timeout) * 1000
        said = topics.topic_pattern(pattern), wire_filters(filters), topics.start_ms(start)
        return self._follow(Tailing(*said, patience_ms, self._config.timeout_ms))
