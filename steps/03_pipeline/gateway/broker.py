"""A connection to NATS, the message broker, that is made anew whenever it is lost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, Error, OutboundBufferLimitError, UnexpectedEOF
from nats.js import JetStreamContext
from nats.js.errors import APIError

from clients import FAILED, Unavailable

Answer = TypeVar("Answer")

ATTEMPTS = 2  # what was under way when the connection was lost is sent again over the next
PATIENCE_SECONDS = 1  # so long after that, the next is waited for
RETRY_SECONDS, LOOK_SECONDS, CLOSE_SECONDS = 0.1, 0.05, 1
# What nats-py raises to who writes; the last two are the event loop's, when it knows of the end and nats-py does not.
BROKEN = ConnectionClosedError, OutboundBufferLimitError, OSError, RuntimeError


class BrokerUnavailable(Unavailable):
    def __init__(self, why: str):
        super().__init__("the broker", why)


class Lost(Exception):
    """The connection broke before there was an answer."""


class Connection(NamedTuple):
    client: Client
    stream: JetStreamContext
    lost: asyncio.Future

    async def request(self, subject: str, content: bytes, headers: dict[str, str]) -> Msg:
        """Ask as Client.request does, which takes an answer with status 503 for the broker's, whoever has given it."""
        answer = asyncio.get_running_loop().create_future()
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox, future=answer, max_msgs=1)
        try:
            await self.client.publish(subject, content, reply=inbox, headers=headers)
            return await answer
        finally:
            with suppress(Error):
                await subscription.unsubscribe()


class Broker:
    """A broker at one address, or a cluster at several; all with the same user, or ValueError."""

    def __init__(self, urls: str):
        parts = [urlsplit(url.strip().rstrip("/")) for url in urls.split(",")]
        if any(part.path or part.query or part.fragment for part in parts):
            raise ValueError("needed is nats://HOST:PORT or nats://USER:PASSWORD@HOST:PORT, and %23 for a # in these")
        self.urls = [f"nats://{part.netloc.rpartition('@')[2]}" for part in parts]  # these may be shown
        (user, password), *others = {(part.username, part.password) for part in parts}
        if others:
            raise ValueError("all URLs of a cluster must have the same user and password")
        login = {"token": user} if password is None else {"user": user, "password": password}
        self._login = {name: unquote(value) for name, value in login.items() if value is not None}

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._connection, self._lost_at, self._told = loop.create_future(), loop.time(), None
        self._keeping = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        self._keeping.cancel()
        await asyncio.wait([self._keeping])

    async def ask(self, call: Callable[[Connection], Awaitable[Answer]], seconds: float, late: Unavailable) -> Answer:
        """Return what `call` gets over a connection. Unavailable if there is none; `late` if that takes too long.

        What `call` asks must be safe to repeat.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                for _ in range(ATTEMPTS):
                    if not self._connection.done() and loop.time() > self._lost_at + PATIENCE_SECONDS:
                        break
                    connection = await asyncio.shield(self._connection)
                    with suppress(Lost):
                        return await unless_lost(connection, call(connection))
                    FAILED.labels("storage").inc()
        except TimeoutError:
            if self._connection.done():
                raise late from None
        except APIError as error:
            why = getattr(error, "description", None) or "it has no JetStream"
            raise BrokerUnavailable(f"cannot keep it: {why}") from error
        except (Error, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BrokerUnavailable("has given an answer that makes no sense") from error
        raise BrokerUnavailable("cannot be reached")

    async def _keep_connected(self) -> None:
        """Connect, and again when the connection is lost, each time with a new client.

        One client could do that by itself. But it keeps what it could not send and sends it later, it waits until a
        dead connection has taken what was written to it, and it gives up for good if the broker sends it an error.
        """
        loop = asyncio.get_running_loop()
        while True:
            client = Client()
            try:
                await self._connect(client)
                self._tell(True)
                stream = client.jetstream(timeout=3600)  # those who ask have deadlines
                self._connection.set_result(Connection(client, stream, loop.create_future()))
                while client.is_connected:  # it calls back when all is closed, which may take minutes
                    await asyncio.sleep(LOOK_SECONDS)
                self._tell(False, "the connection was lost")
            except Exception as error:  # whatever it is, this task has to go on
                self._tell(False, error)
            finally:
                if self._connection.done():
                    self._connection.result().lost.set_result(None)
                    self._connection, self._lost_at = loop.create_future(), loop.time()
                with suppress(Exception):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await client.close()
                for subscription in client._subs.values():  # running still, if that has failed
                    subscription._stop_processing()
            await asyncio.sleep(RETRY_SECONDS)

    async def _connect(self, client: Client) -> None:
        """Return when somebody has answered; it is no error that nobody listens yet."""

        async def note(error: Exception) -> None:
            if not client.is_connected:
                self._tell(False, error)
            elif not isinstance(error, UnexpectedEOF):
                logging.warning("the broker says: %s", error)

        await client.connect(
            self.urls,
            **self._login,
            error_cb=note,
            allow_reconnect=False,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RETRY_SECONDS,
            connect_timeout=1,
            ping_interval=1,  # two pings without an answer end the connection
            pending_size=0,  # what cannot be sent is not kept
        )

    def _tell(self, connected: bool, why: Exception | str = "") -> None:
        """Leave a line in the log when the state changes, not for every attempt."""
        if connected is self._told:
            return
        self._told, where = connected, ", ".join(self.urls)
        if connected:
            logging.info("connected to the broker at %s", where)
        else:
            logging.warning("the broker at %s cannot be reached: %s", where, str(why) or type(why).__name__)


async def unless_lost(connection: Connection, call: Awaitable[Answer]) -> Answer:
    """Return what a call returns. Lost if the connection is, which the call itself would not notice."""
    answer = asyncio.ensure_future(call)
    try:
        await asyncio.wait({answer, connection.lost}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
    except BROKEN:  # before _keep_connected has looked
        await asyncio.wait({connection.lost})
    finally:
        answer.cancel()
    raise Lost
