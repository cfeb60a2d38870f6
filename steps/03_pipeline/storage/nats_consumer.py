"""Results through NATS, a message broker.

A message is as the body of POST /results. The broker keeps it on its disk until it is acknowledged, and here that is
done when its results are on disk, too. Whoever ends in between, it comes again, and its results are stored once, for
they have ids: https://docs.nats.io/nats-concepts/jetstream
"""

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import nats.errors
import orjson
from nats.aio.msg import Msg
from nats.js.errors import APIError
from prometheus_client import Counter

from answers import Answers
from broker import CONNECT_SECONDS, PULL, Broker, is_of_stream
from chassis.errors import RequestError
from chassis.telemetry import log_lines
from dead_letters import Dead, Sifted
from schemas import MAX_RESULTS, StoreRequest
from service import Service
from settings import Settings

PULL_MESSAGES, PULL_SECONDS = 256, 1  # so many are asked for at a time, and so long they may take
TOGETHER_SECONDS = 0.01  # for those that arrive one after the other
CONNECT_AGAIN_SECONDS, TRY_AGAIN_SECONDS, STOP_SECONDS = 0.25, 1, 10
UNREACHABLE = "the broker cannot be reached"
TIME_OVER = "408"  # what the broker says when a pull has lasted as long as it may

REDELIVERED = Counter("redelivered_messages", "Messages that came again: nobody had acknowledged them")


class Consumer:
    """Stores messages and answers requests, from start() to stop(), while there is a broker.

    Several share the work, in one process or in many: the broker gives each message to one of them.
    """

    def __init__(self, settings: Settings, service: Service):
        self._urls, self._max_bytes = settings.nats_url, settings.max_queue_bytes
        self._service, self._answers = service, Answers(service)

    def start(self) -> None:
        self._problem, self._told, self._error = UNREACHABLE, None, None
        self._broker, self._leaving = Broker(), asyncio.Event()
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Take no more messages; store and acknowledge those that are here."""
        self._leaving.set()
        await asyncio.wait([self._task], timeout=STOP_SECONDS)
        self._task.cancel()

    def require_broker(self) -> None:
        """RequestError with 503 and the reason if no message can come."""
        if problem := self._problem or (not self._broker.is_connected and UNREACHABLE):
            raise RequestError(503, problem, Retry_After="1")

    async def _work(self) -> None:
        """Connect, as often as it takes. Each time is as the first: the broker may have lost all that it knew."""
        while not self._leaving.is_set():
            self._broker, self._error = Broker(), None
            self._arrived = asyncio.Queue[Msg | None]()  # None: the connection has ended
            try:
                await self._broker.open(self._urls, self._note, partial(self._arrived.put, None))
                await self._broker.set_up(self._max_bytes)
                await self._consume()
            except Exception as error:  # whatever it is, this task has to go on
                self._explain(error)
                await self._pause(CONNECT_AGAIN_SECONDS)
            finally:
                await self._broker.end()

    async def _consume(self) -> None:
        """Take messages and requests until we leave. Raises what ends the connection."""
        inbox = self._broker.new_inbox()
        await self._broker.subscribe(inbox, cb=self._arrived.put)
        await self._answers.subscribe(self._broker)
        if self._problem and self._told:
            logging.warning("the broker can be used again")
        self._problem = self._told = None
        while not self._leaving.is_set():
            await self._pull(inbox)
        await self._answers.drain()
        await self._broker.flush()

    async def _pull(self, inbox: str) -> None:
        """Ask for messages, and store them as they come, until all have come or the broker sends no more of them.

        This goes on to its end when we leave: what is on its way to nobody would come again after ACK_SECONDS.
        """
        expires = int(PULL_SECONDS * 1e9)  # nanoseconds
        asked = {"batch": PULL_MESSAGES, "max_bytes": 2 * self._broker.max_payload, "expires": expires}
        await self._broker.publish(PULL, orjson.dumps(asked), reply=inbox)
        missing = PULL_MESSAGES
        while missing > 0:
            async with asyncio.timeout(PULL_SECONDS + CONNECT_SECONDS):
                arrived = [await self._arrived.get()]
            if is_of_stream(arrived[0]) and arrived[0].metadata.num_pending:  # a backlog shares commits
                await asyncio.sleep(TOGETHER_SECONDS)
            while not self._arrived.empty():
                arrived.append(self._arrived.get_nowait())
            messages = [message for message in arrived if is_of_stream(message)]
            await self._store(messages)
            missing -= len(messages)
            if self._broker.is_closed:
                raise nats.errors.ConnectionClosedError
            if len(messages) < len(arrived):  # the last one is the broker's word that this is all
                status = (arrived[-1].headers or {}).get("Status")
                if status != TIME_OVER and missing == PULL_MESSAGES:
                    raise APIError(description=f"it answers {status}")
                return

    async def _store(self, messages: list[Msg]) -> None:
        """Store messages and acknowledge them, about as many results at a time as a request may have."""
        batch, count = [], 0
        for message in messages:
            batch.append(Sifted(message))
            count += len(batch[-1].results) + len(batch[-1].dead)
            if count >= MAX_RESULTS or message is messages[-1]:
                await self._store_batch(batch)
                batch, count = [], 0

    async def _store_batch(self, batch: list[Sifted]) -> None:
        REDELIVERED.inc(sum(sifted.message.metadata.num_delivered > 1 for sifted in batch))
        try:
            await self._commit(batch)
        except Exception as error:
            if not isinstance(error, RequestError):
                logging.exception("messages cannot be stored")
            for sifted in batch:
                await sifted.message.nak(TRY_AGAIN_SECONDS)
            return await self._pause(TRY_AGAIN_SECONDS)  # the next ones would fare no better
        for sifted in batch:
            await sifted.message.ack()
            line = {"time": datetime.now(UTC), "level": "INFO", "request_id": sifted.request_id, "message": "message"}
            line |= {"subject": sifted.message.subject, "results": len(sifted.results), "dead": len(sifted.dead)}
            log_lines.write(line)

    async def _commit(self, batch: list[Sifted]) -> None:
        """Return when all of it is on disk. RequestError with 503 if that is not possible now."""
        try:
            if results := [result for sifted in batch for result in sifted.results]:
                await self._service.store(results)
        except RequestError:
            raise
        except Exception:  # the fault of a result, though it looked well
            for sifted in batch:
                await self._store_each(sifted)
        if letters := [letter for sifted in batch for letter in sifted.letters()]:
            await asyncio.to_thread(self._service.bury, letters)

    async def _store_each(self, sifted: Sifted) -> None:
        for result in sifted.results:
            try:
                await self._service.store([result])
            except RequestError:
                raise
            except Exception as error:
                logging.exception("a result cannot be stored")
                body = StoreRequest(results=[result]).model_dump_json().encode()
                sifted.dead.append(Dead(body, f"it cannot be stored: {type(error).__name__}"))

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)

    async def _note(self, error: Exception) -> None:
        self._error = error

    def _explain(self, error: Exception) -> None:
        """Say what clients may know. The log has the rest, once."""
        self._problem = UNREACHABLE
        if isinstance(error, APIError):
            self._problem = f"the broker cannot be used ({error.description or 'it has no JetStream'})"
        if self._problem != self._told:
            self._told = self._problem
            cause, bug = self._error or error, not isinstance(error, (nats.errors.Error, OSError))
            logging.error("%s: %s", self._problem, str(cause) or type(cause).__name__, exc_info=bug and error)
