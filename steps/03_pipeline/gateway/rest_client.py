"""The services behind the gateway, over REST: kept connections, deadlines, and repetition where it helps."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Literal, TypeVar
from urllib.parse import urlencode

import orjson
import stamina
from aiohttp import (
    ClientConnectionError,
    ClientError,
    ClientPayloadError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from stamina.instrumentation import set_on_retry_hooks

from chassis.errors import RequestError
from chassis.telemetry import request_id
from clients import FAILED, Prediction, Unavailable
from coalescing import CALLS
from responses import Claimed, Extraction, Listing, Stored, Summary
from schemas import InferirResponse

Answer = TypeVar("Answer")

# All that the gateway asks is safe to repeat: features and predictions change nothing, storage knows a result by its
# id. Waits of 20 and 40 ms, each with up to 20 ms of jitter, so that many gateways do not come back in step.
LOST = ClientConnectionError, ClientPayloadError
repeat = stamina.AsyncRetryingCaller(attempts=3, timeout=None, wait_initial=0.02, wait_jitter=0.02).on(LOST)
set_on_retry_hooks([])  # a line in the log for each would be too much
CONNECT_SECONDS = 0.1  # on one machine or in one network; Windows takes 2 s to refuse a connection
AVOID_SECONDS = 1  # a replica that has failed is asked after the others


class Unfit(ClientConnectionError):
    """One replica of several that says 503; the others may do."""


class Service:
    """A service at one address, or at several that take turns. One that fails is passed over for a second."""

    name = ""

    def __init__(self, urls: str):
        self.urls = [url.strip().rstrip("/") for url in urls.split(",")]
        self.calls = CALLS * len(self.urls)
        self._turn, self._failed = 0, dict.fromkeys(self.urls, float("-inf"))

    async def open(self) -> None:
        """At most 100 connections to each address, kept for less time than uvicorn keeps them (5 s)."""
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)  # the rest is the deadline's
        # A name may stand for several replicas. If one has not answered after 20 ms, the next is tried, too; one that
        # is gone is forgotten after a second.
        names = {"ttl_dns_cache": 1, "happy_eyeballs_delay": 0.02}
        connector = TCPConnector(limit=0, limit_per_host=100, keepalive_timeout=4, **names)
        self._session = ClientSession(connector=connector, cookie_jar=DummyCookieJar(), timeout=timeout)

    async def close(self) -> None:
        await self._session.close()

    async def ask(
        self,
        read: Callable[[bytes], Answer],
        seconds: float,
        method: str,
        path: str,
        body: bytes = b"",
        kind: str = "application/json",
    ) -> Answer:
        """Return the answer, as `read` understands it (ValueError if it does not).

        RequestError as the service refused if that is the client's fault (4xx). Unavailable if the service cannot be reached
        in three attempts, does not answer within `seconds`, or says that it cannot.
        """
        replicas = self._in_turn()
        try:
            async with asyncio.timeout(seconds):
                status, content = await repeat(self._send, replicas, method, path, body, kind)
            if status < 400:
                return read(content)
            sentence = orjson.loads(content)["error"]
        except Unfit as unfit:
            raise Unavailable(self.name, f"cannot help: {unfit}") from None
        except LOST as error:  # before TimeoutError, which one of them is, too
            raise Unavailable(self.name, "cannot be reached") from error
        except TimeoutError:
            raise Unavailable(self.name, "has not answered in time") from None
        except (ClientError, ValueError, TypeError, KeyError) as error:
            raise Unavailable(self.name, "has given an answer that makes no sense") from error
        if status in (400, 413, 415, 422):
            raise RequestError(status, sentence)
        raise Unavailable(self.name, f"cannot help: {sentence}")

    def _in_turn(self) -> Iterator[str]:
        """The replicas for one attempt after another: the next one first, those that have just failed last."""
        self._turn = (self._turn + 1) % len(self.urls)
        urls, now = self.urls[self._turn :] + self.urls[: self._turn], asyncio.get_running_loop().time()
        return cycle(sorted(urls, key=lambda url: now - self._failed[url] < AVOID_SECONDS))

    async def _send(self, replicas: Iterator[str], method: str, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
        url, headers = next(replicas), {"Content-Type": kind, "X-Request-ID": request_id.get()}
        try:
            async with self._session.request(method, url + path, data=body, headers=headers) as reply:
                content = await reply.read()
                if reply.status == 503 and len(self.urls) > 1:
                    raise Unfit(orjson.loads(content)["error"])
                return reply.status, content
        except LOST:
            self._failed[url] = asyncio.get_running_loop().time()
            FAILED.labels(self.name).inc()
            raise

    async def health(self, seconds: float) -> dict:
        """Ask each replica whether it is ready. The service is if one of them is."""
        began = asyncio.get_running_loop().time()
        reasons = await asyncio.gather(*(self._reason(url, seconds) for url in self.urls))
        took = asyncio.get_running_loop().time() - began
        several = len(self.urls) > 1
        told = "; ".join(
            f"{url}: {reason}" if several else reason for url, reason in zip(self.urls, reasons, strict=True) if reason
        )
        return {
            "ready": None in reasons,
            "url": ", ".join(self.urls),
            "ms": round(1000 * took, 1),
            "reason": told or None,
        }

    async def _reason(self, url: str, seconds: float) -> str | None:
        """Why a replica is not ready; None if it is."""
        try:
            async with asyncio.timeout(seconds), self._session.get(f"{url}/readyz") as reply:
                return None if reply.status == 200 else orjson.loads(await reply.read())["error"]
        except LOST:
            return "it cannot be reached"
        except TimeoutError:
            return "it has not answered in time"
        except (ClientError, ValueError, TypeError, KeyError):
            return "it has given an answer that makes no sense"


class Preprocess(Service):
    name = "preprocess"

    async def extract(self, picture: bytes, kind: str, seconds: float) -> Extraction:
        return await self.ask(Extraction.model_validate_json, seconds, "POST", "/features", picture, kind)


class Inference(Service):
    name = "inference"

    async def predict(self, rows: list[list[float]], seconds: float) -> list[Prediction]:
        def read(content: bytes) -> list[Prediction]:
            reply = InferirResponse.model_validate_json(content)
            model = reply.model.model_dump()
            answers = zip(rows, reply.prediction, reply.probabilities, strict=True)
            return [Prediction(digit, probabilities, model) for _, digit, probabilities in answers]

        return await self.ask(read, seconds, "POST", "/inferir", orjson.dumps({"features": rows}))


class Storage(Service):
    name = "storage"

    async def claim(self, key: str, request: str, seconds: float) -> None:
        body = orjson.dumps({"key": key, "request": request})
        await self.ask(Claimed.model_validate_json, seconds, "POST", "/claims", body)

    async def record(self, results: list[dict], seconds: float) -> list[Literal[True]]:
        body = orjson.dumps({"results": results})
        await self.ask(Stored.model_validate_json, seconds, "POST", "/results", body)
        return [True] * len(results)

    async def list(self, query: dict, seconds: float) -> Listing:
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return await self.ask(Listing.model_validate_json, seconds, "GET", f"/results?{asked}")

    async def summarize(self, seconds: float) -> Summary:
        return await self.ask(Summary.model_validate_json, seconds, "GET", "/results/summary")
