"""A connection to NATS, the message broker. When it is lost, a new one is made."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from nats.aio.client import Client
from nats.errors import ConnectionClosedError, Error, OutboundBufferLimitError, UnexpectedEOF
from nats.js import JetStreamContext
from nats.js.errors import APIError

from addresses import read_nats_servers
from clients import FAILED, Unavailable

Answer = TypeVar("Answer")

ATTEMPTS = 2  # what was under way when the connection was lost is sent again over the next one
GRACE_SECONDS = 1  # how long after a loss calls wait for the next connection
RETRY_SECONDS, LOOK_SECONDS, CLOSE_SECONDS = 0.1, 0.05, 1
# What nats-py raises on a broken connection. The last two come from the event loop, if it notices the end first.
BROKEN = ConnectionClosedError, OutboundBufferLimitError, OSError, RuntimeError


class BrokerUnavailable(Unavailable):
    def __init__(self, why: str):
        super().__init__("the broker", why)


class Lost(Exception):
    """The connection broke before there was an answer."""


class Connection(NamedTuple):
    client: Client
    stream: JetStreamContext
    lost: asyncio.Future[None]


class Broker:
    """A broker at one address, or a cluster at several. ValueError if the URLs cannot be used."""

    def __init__(self, urls: str):
        self._servers = read_nats_servers(urls)
        self.urls = self._servers.urls

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._connection: asyncio.Future[Connection] = loop.create_future()
        self._lost_at = loop.time()
        self._logged: bool | None = None  # the state that the log reported last
        self._keeping = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        self._keeping.cancel()
        await asyncio.wait([self._keeping])

    @property
    def is_connected(self) -> bool:
        return self._connection.done()

    async def ask(self, call: Callable[[Connection], Awaitable[Answer]], seconds: float) -> Answer:
        """Return what `call` gets over a connection. BrokerUnavailable if that fails or takes too long.

        `call` may be made twice, so what it asks must be safe to repeat.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                for _ in range(ATTEMPTS):
                    if not self.is_connected and loop.time() > self._lost_at + GRACE_SECONDS:
                        break
                    connection = await asyncio.shield(self._connection)
                    with suppress(Lost):
                        return await unless_lost(connection, call(connection))
                    FAILED.labels("storage").inc()
        except TimeoutError:
            if self.is_connected:
                raise BrokerUnavailable("has not acknowledged it in time") from None
        except APIError as error:
            why = getattr(error, "description", None) or "it has no JetStream"
            raise BrokerUnavailable(f"cannot keep it: {why}") from error
        except (Error, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BrokerUnavailable("has given an answer that makes no sense") from error
        raise BrokerUnavailable("cannot be reached")

    async def _keep_connected(self) -> None:
        """Connect, and connect again when the connection is lost, each time with a new client.

        One client could reconnect by itself. But it keeps what it could not send and sends it later, it waits until a
        dead connection has taken what was written to it, and it gives up for good if the broker sends it an error.
        """
        loop = asyncio.get_running_loop()
        while True:
            client = Client()
            try:
                await self._connect(client)
                self._log_change(True)
                stream = client.jetstream(timeout=3600)  # callers have deadlines of their own
                self._connection.set_result(Connection(client, stream, loop.create_future()))
                while client.is_connected:  # nats-py's callback comes when all is closed, which may take minutes
                    await asyncio.sleep(LOOK_SECONDS)
                self._log_change(False, "the connection was lost")
            except Exception as error:  # whatever happens, this task must go on
                self._log_change(False, error)
            finally:
                if self._connection.done():
                    self._connection.result().lost.set_result(None)
                    self._connection, self._lost_at = loop.create_future(), loop.time()
                with suppress(Exception):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await client.close()
            await asyncio.sleep(RETRY_SECONDS)

    async def _connect(self, client: Client) -> None:
        """Return when a broker has answered. Keep trying while no broker listens."""

        async def note(error: Exception) -> None:
            if not client.is_connected:
                self._log_change(False, error)
            elif not isinstance(error, UnexpectedEOF):
                logging.warning("the broker says: %s", error)

        await client.connect(
            self.urls,
            user=self._servers.user,
            password=self._servers.password,
            token=self._servers.token,
            error_cb=note,
            allow_reconnect=False,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RETRY_SECONDS,  # type: ignore[arg-type]  # nats-py says int, and sleeps for it
            connect_timeout=1,
            ping_interval=1,  # two pings without an answer end the connection
            pending_size=0,  # what cannot be sent is not kept
        )

    def _log_change(self, connected: bool, why: Exception | str = "") -> None:
        """Write a line to the log when the state changes, not for every attempt."""
        if connected is self._logged:
            return
        self._logged, where = connected, ", ".join(self.urls)
        if connected:
            logging.info("connected to the broker at %s", where)
        else:
            logging.warning("the broker at %s cannot be reached: %s", where, str(why) or type(why).__name__)


async def unless_lost(connection: Connection, call: Awaitable[Answer]) -> Answer:
    """Return what a call returns. Lost if the connection is lost meanwhile, which the call would not notice."""
    answer = asyncio.ensure_future(call)
    try:
        either: set[asyncio.Future[Any]] = {answer, connection.lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
    except BROKEN:  # before _keep_connected has looked
        await asyncio.wait({connection.lost})
    finally:
        answer.cancel()
    raise Lost
