"""Answers to requests that come through the broker: the same as those of the REST routes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from time import perf_counter

import nats.errors
import orjson
from nats.aio.msg import Msg
from pydantic import BaseModel

from broker import CONSUMER, Broker, request_id
from chassis.errors import RequestError
from chassis.telemetry import log_lines
from schemas import ListRequest
from service import Service

MAX_TASKS = 100  # under way; what comes then is refused
Answer = Callable[[bytes], Awaitable[BaseModel]]


class Answers:
    """What each request on a subject storage.* gets: a body, and its status in the header `Status`."""

    def __init__(self, service: Service):
        self._of: dict[str, Answer] = {
            "storage.results": lambda body: asyncio.to_thread(service.newest, ListRequest.parse(body)),
            "storage.summary": lambda body: asyncio.to_thread(service.count),
            "storage.ready": lambda body: service.ready(),
        }
        self._tasks: set[asyncio.Task] = set()

    async def subscribe(self, broker: Broker) -> None:
        """Begin to answer. Of all that do, one gets each request."""
        begin = partial(self._begin, broker)
        self._subscriptions = [await broker.subscribe(subject, CONSUMER, begin) for subject in self._of]

    async def drain(self) -> None:
        """Get no more requests, and answer those that are here."""
        for subscription in self._subscriptions:
            await subscription.drain()
        await asyncio.gather(*self._tasks)

    async def _begin(self, broker: Broker, request: Msg) -> None:
        """Answer in a task: the next request does not wait for it."""
        task = asyncio.create_task(self._answer(broker, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, broker: Broker, request: Msg) -> None:
        begin = perf_counter()
        try:
            if len(self._tasks) > MAX_TASKS:
                raise RequestError(503, "too many requests are waiting: try again in a second")
            status, body = 200, (await self._of[request.subject](request.data)).model_dump_json().encode()
        except RequestError as refused:
            status, body = refused.status, orjson.dumps({"error": refused.sentence})
        except Exception:
            logging.exception("%s has failed", request.subject)
            status, body = 500, orjson.dumps({"error": "the service has failed on this request; its log says how"})
        with suppress(nats.errors.Error):  # there is no place to reply to, or nobody is there any more
            await broker.publish(request.reply, body, headers={"Status": str(status)})
        if status >= 400 or request.subject != "storage.ready":
            line = {"time": datetime.now(UTC), "level": "INFO", "request_id": request_id(request), "message": "request"}
            line |= {"subject": request.subject, "status": status, "ms": round(1000 * (perf_counter() - begin), 3)}
            log_lines.write(line)
