"""What `AsyncClient` says about topics; see `zclient.blockingtopics`. The class is a part of it."""

import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, TypeVar, Unpack

from zclient import topics
from zclient.aioclientbase import AsyncClientBase
from zclient.aiofeed import feeder
from zclient.config import Duration, batch_size
from zclient.durations import parse_duration
from zclient.filters import Filter, wire_filters
from zclient.handles import Jobs, as_text
from zclient.joboptions import CopyOptions
from zclient.publishing import PUBLISH_BATCH, Publications, publishing
from zclient.tailing import Tailing
from zclient.topics import Binding, KeptTopic, Publication, Published, PublishedMany, Start

T = TypeVar("T")


class AsyncTopicMethods(AsyncClientBase):
    """The methods of an `AsyncClient` that are about topics."""

    async def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        id: str | None = None,
        timeout: Duration | None = None,
        **options: Unpack[CopyOptions],
    ) -> Published:
        """Publish under a topic; see `Client.publish`."""
        publication = topics.one_publication(topic, payload, id, topics.copy_options(**options))
        timeout_ms = self._config.timeout(timeout)
        queues = await self._run(lambda session, now: publishing(session, now, publication, timeout_ms))
        return Published(publication.id.decode(), queues)

    async def publish_many(
        self,
        topic: str,
        payloads: Iterable[Any] | AsyncIterable[Any],
        *,
        timeout: Duration | None = None,
        batch: int = PUBLISH_BATCH,
        progress: Callable[[int], Any] | None = None,
        **options: Unpack[CopyOptions],
    ) -> PublishedMany:
        """Publish each payload, which may come from an async iterable; see `Client.publish_many`."""
        name, wire, size = topics.topic_name(topic), topics.copy_options(**options), batch_size(batch)
        timeout_ms, feed = self._config.timeout(timeout), feeder(payloads)
        ids, copies, unrouted = await self._run(
            lambda session, now: Publications(session, name, wire, timeout_ms, size).published(now),
            feed,
            progress,
        )
        return PublishedMany(Jobs(ids, as_text), copies, unrouted)

    async def bind(
        self,
        pattern: str,
        queue: str,
        *,
        filters: Iterable[Filter] = (),
        start: Start = None,
        timeout: Duration | None = None,
    ) -> Binding:
        """Let a queue have copies of what is published under a pattern; see `Client.bind`."""
        return await self._ask(topics.bind(pattern, queue, filters, start), timeout)

    async def unbind(self, pattern: str, queue: str, *, timeout: Duration | None = None) -> Binding:
        """Take a binding away; copies that the queue has stay. `NotFound` if there is none."""
        return await self._ask(topics.unbind(pattern, queue), timeout)

    def bindings(self, queue: str | None = None, *, timeout: Duration | None = None) -> AsyncIterator[Binding]:
        """All bindings, or those of a queue, by pattern, fetched page by page. ``timeout`` is for each page."""
        return self._pages(topics.bindings(queue), None, timeout)

    async def keep_topic(
        self,
        pattern: str,
        *,
        keep_for: Duration | None = None,
        keep_bytes: int | str | None = None,
        timeout: Duration | None = None,
    ) -> KeptTopic:
        """Keep what is published under a pattern; see `Client.keep_topic`."""
        return await self._ask(topics.keep(pattern, keep_for, keep_bytes), timeout)

    async def forget_topic(self, pattern: str, *, timeout: Duration | None = None) -> KeptTopic:
        """Keep it no longer, and remove what was kept. `NotFound` if it is not kept."""
        return await self._ask(topics.forget(pattern), timeout)

    async def kept_topics(self, *, timeout: Duration | None = None) -> list[KeptTopic]:
        """All kept topics, by pattern."""
        return await self._ask(topics.kept_topics(), timeout)

    def tail(
        self,
        pattern: str,
        *,
        start: Start = None,
        filters: Iterable[Filter] = (),
        timeout: Duration | None = None,
    ) -> AsyncIterator[Publication]:
        """Follow what is published under a pattern; see `Client.tail`."""
        patience_ms = math.inf if timeout is None else parse_duration(timeout) * 1000
        said = topics.topic_pattern(pattern), wire_filters(filters), topics.start_ms(start)
        return self._follow(Tailing(*said, patience_ms, self._config.timeout_ms))
