"""The services behind the gateway, over REST: kept connections, deadlines, and retries where they help."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import TypeVar
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

import clients
from addresses import split_urls
from chassis.errors import RequestError
from chassis.telemetry import request_id
from clients import FAILED, Claim, Prediction, Promise, Record, Stored, Unavailable
from coalescing import CALLS
from idempotency import IdempotencyKey
from resolver import Resolver
from responses import Claimed, Extraction, Listing, Recorded, Result, Summary
from schemas import InferirResponse

Answer = TypeVar("Answer")

# All that the gateway asks is safe to repeat: features and predictions change nothing, storage knows a result by its
# id. Waits of 20 and 40 ms, each with up to 20 ms of jitter, so that many gateways do not retry at the same moment.
LOST = ClientConnectionError, ClientPayloadError
retry = stamina.AsyncRetryingCaller(attempts=3, timeout=None, wait_initial=0.02, wait_jitter=0.02).on(LOST)
set_on_retry_hooks([])  # do not log each retry
AVOID_SECONDS, NEVER = 1, float("-inf")  # a replica that has failed, or is late, is asked after the others
NONSENSE = "has given an answer that makes no sense"


class ReplicaUnavailable(ClientConnectionError):
    """One replica of several answers 503: another one may do better."""


def why_not(content: bytes) -> str:
    """What a service says that cannot help. A proxy in front of it may answer without a sentence of ours."""
    try:
        return f"cannot help: {orjson.loads(content)['error']}"
    except (ValueError, TypeError, KeyError):
        return NONSENSE


class RestClient(clients.Service):
    """A service at one address, or at several that take turns.

    One that fails comes last for a second. Then one request a second tries it, until it answers.
    """

    def __init__(self, urls: str, connect_seconds: float):
        self.urls = self._replicas = split_urls(urls)
        self.calls = CALLS * len(self._replicas)
        self._connect_seconds = connect_seconds
        self._turn, self._failed_at = 0, dict.fromkeys(self._replicas, NEVER)

    async def open(self) -> None:
        # GET has connections of its own: many readers of a slow history take none from results and predictions.
        resolver = Resolver(self._connect_seconds)
        self._session, self._reading = self._open_session(resolver), self._open_session(resolver)

    async def close(self) -> None:
        await self._session.close()
        await self._reading.close()

    def _open_session(self, resolver: Resolver) -> ClientSession:
        """Return up to 100 connections to each address. Idle ones are closed before the services do it."""
        timeout = ClientTimeout(total=None, sock_connect=self._connect_seconds)  # the rest is the deadline's
        connector = TCPConnector(
            limit=0,
            limit_per_host=100,
            keepalive_timeout=4,
            # A name may stand for several replicas. If one has not answered after 20 ms, the next is tried as well.
            happy_eyeballs_delay=0.02,
            resolver=resolver,
            ttl_dns_cache=1,  # a replica that is gone is forgotten after a second
        )
        return ClientSession(connector=connector, cookie_jar=DummyCookieJar(), timeout=timeout)

    async def ask(
        self,
        read: Callable[[bytes], Answer],
        seconds: float,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "application/json",
    ) -> Answer:
        """Return what `read` makes of the answer's body; `read` raises ValueError if it cannot read it.

        Raises RequestError with the service's own status and sentence if the request is at fault (4xx). Raises
        Unavailable if the service cannot be reached in three attempts, is late, or says that it cannot help.
        """
        replicas, asked = self._in_turn(), list[str]()
        try:
            async with asyncio.timeout(seconds):
                status, content = await retry(self._send, replicas, asked, method, path, body, content_type)
            if status < 400:
                return read(content)
            if status in (400, 413, 415, 422):
                raise RequestError(status, orjson.loads(content)["error"])
            raise Unavailable(self.name, why_not(content))
        except ReplicaUnavailable as error:
            raise Unavailable(self.name, str(error)) from None
        except LOST as error:  # before TimeoutError, since one of them is a TimeoutError too
            raise Unavailable(self.name, "cannot be reached") from error
        except TimeoutError:
            if asked:
                self._failed_at[asked[-1]] = asyncio.get_running_loop().time()
            raise Unavailable(self.name, "has not answered in time") from None
        except (ClientError, ValueError, TypeError, KeyError) as error:
            raise Unavailable(self.name, NONSENSE) from error

    def _in_turn(self) -> Iterator[str]:
        """The replicas for one attempt after another: the next one first, those that have just failed last."""
        self._turn = (self._turn + 1) % len(self._replicas)
        urls, now = self._replicas[self._turn :] + self._replicas[: self._turn], asyncio.get_running_loop().time()
        return cycle(sorted(urls, key=lambda url: now - self._failed_at[url] < AVOID_SECONDS))

    async def _send(
        self, replicas: Iterator[str], asked: list[str], method: str, path: str, body: bytes, content_type: str
    ) -> tuple[int, bytes]:
        url, headers = next(replicas), {"Content-Type": content_type, "X-Request-ID": request_id.get() or ""}
        session = self._reading if method == "GET" else self._session
        asked.append(url)
        if self._failed_at[url] != NEVER:  # this request finds out whether the replica is back; others wait with that
            self._failed_at[url] = asyncio.get_running_loop().time()
        try:
            async with session.request(method, url + path, data=body, headers=headers) as response:
                content = await response.read()
                if response.status == 503 and len(self._replicas) > 1:
                    raise ReplicaUnavailable(why_not(content))
                self._failed_at[url] = NEVER
                return response.status, content
        except LOST as error:
            self._failed_at[url] = asyncio.get_running_loop().time()
            if not isinstance(error, ReplicaUnavailable):  # it has answered
                FAILED.labels(self.name).inc()
            raise

    async def check(self, seconds: float) -> tuple[bool, str | None]:
        """Ask each replica whether it is ready. The service is ready if one of them is."""
        reasons = await asyncio.gather(*(self._check_replica(url, seconds) for url in self._replicas))
        if len(reasons) == 1:
            return reasons[0] is None, reasons[0]
        said = [f"{url}: {reason}" for url, reason in zip(self._replicas, reasons, strict=True) if reason]
        return None in reasons, "; ".join(said) or None

    async def _check_replica(self, url: str, seconds: float) -> str | None:
        """Return why a replica is not ready; None if it is."""
        try:
            async with asyncio.timeout(seconds), self._reading.get(f"{url}/readyz") as response:
                return None if response.status == 200 else orjson.loads(await response.read())["error"]
        except LOST:
            return "it cannot be reached"
        except TimeoutError:
            return "it has not answered in time"
        except (ClientError, ValueError, TypeError, KeyError):
            return f"it {NONSENSE}"


class Preprocess(RestClient, clients.Preprocess):
    async def extract(self, picture: bytes, content_type: str, seconds: float) -> Extraction:
        return await self.ask(Extraction.model_validate_json, seconds, "POST", "/features", picture, content_type)


class Inference(RestClient, clients.Inference):
    async def predict(self, rows: list[list[float]], seconds: float) -> list[Prediction]:
        def read(content: bytes) -> list[Prediction]:
            response = InferirResponse.model_validate_json(content)
            model = response.model.model_dump()
            probabilities: Sequence[list[float] | None] = response.probabilities or [None] * len(rows)
            answers = zip(rows, response.prediction, probabilities, strict=True)
            return [Prediction(prediction, shares, model) for _, prediction, shares in answers]

        return await self.ask(read, seconds, "POST", "/inferir", orjson.dumps({"features": rows}))


class Storage(RestClient, clients.Storage):
    async def claim(self, key: IdempotencyKey, seconds: float) -> Claim:
        body = orjson.dumps({"key": key.key, "request": key.request, "id": key.result_id})
        return Claim((await self.ask(Claimed.model_validate_json, seconds, "POST", "/claims", body)).results)

    async def record(self, results: list[Result], seconds: float) -> list[Stored]:
        body = orjson.dumps({"results": results})
        recorded = await self.ask(Recorded.model_validate_json, seconds, "POST", "/results", body)
        return [Stored(True, is_new=recorded.all_new)] * len(results)

    async def record_once(
        self, key: IdempotencyKey, claim: Claim, results: list[Result], seconds: float, record: Record
    ) -> tuple[list[Result], Promise]:
        """Storage keeps the first results with an id. If these may not be ours, ask which they are."""
        begin = asyncio.get_running_loop().time()
        if all(stored.is_new for stored in await record(results, seconds)):
            return results, True
        kept = await self.claim(key, begin + seconds - asyncio.get_running_loop().time())
        return kept.results or results, True

    async def list(self, query: dict[str, str | int | None], seconds: float) -> Listing:
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return await self.ask(Listing.model_validate_json, seconds, "GET", f"/results?{asked}")

    async def summarize(self, seconds: float) -> Summary:
        return await self.ask(Summary.model_validate_json, seconds, "GET", "/results/summary")
