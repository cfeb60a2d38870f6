"""The services behind the gateway, over REST: kept connections, deadlines, and repetition where it helps."""

import asyncio
from collections.abc import Callable
from itertools import cycle
from typing import TypeVar
from urllib.parse import urlencode

import orjson
import stamina
from aiohttp import ClientConnectionError, ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from stamina.instrumentation import PrometheusOnRetryHook, set_on_retry_hooks

from errors import Refused
from replies import Extraction, Listing, Stored, Summary
from schemas import InferirReply
from telemetry import request_id

Answer = TypeVar("Answer")

# All that the gateway asks is safe to repeat: features and predictions change nothing, storage knows a result by its
# id. Waits of about 20 and 40 ms, each with up to 20 ms of jitter, so that many clients do not come back in step.
set_on_retry_hooks([PrometheusOnRetryHook])  # count them; a line in the log for each would be too much
repeat = stamina.AsyncRetryingCaller(attempts=3, timeout=None, wait_initial=0.02, wait_max=0.1, wait_jitter=0.02).on(
    ClientConnectionError
)


class Unavailable(Refused):
    """A service that should have answered did not, or could not."""

    def __init__(self, service: str, why: str):
        super().__init__(503, f"{service} {why}", Retry_After="1")


def open_session() -> ClientSession:
    """Connections for all services: at most 100 to each address, kept for less time than uvicorn keeps them (5 s)."""
    connector = TCPConnector(limit=0, limit_per_host=100, keepalive_timeout=4)
    return ClientSession(connector=connector, cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=None))


class Service:
    """A service at one address, or at several that take turns. One that cannot be reached is passed over."""

    name = ""

    def __init__(self, urls: str, session: ClientSession):
        self.urls = [url.strip().rstrip("/") for url in urls.split(",")]
        self._turn, self._session = 0, session

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

        Refused as the service refused if that is the client's fault (4xx). Unavailable if the service cannot be reached
        in three attempts, does not answer within `seconds`, or says that it cannot.
        """
        self._turn = (self._turn + 1) % len(self.urls)
        urls = cycle(self.urls[self._turn :] + self.urls[: self._turn])  # each attempt asks another replica
        try:
            async with asyncio.timeout(seconds):
                try:
                    status, content = await self._send(method, next(urls) + path, body, kind)
                except ClientConnectionError:  # stamina takes 26 us a call, so only failures pay for it
                    status, content = await repeat(lambda: self._send(method, next(urls) + path, body, kind))
            if status < 400:
                return read(content)
            sentence = orjson.loads(content)["error"]
        except TimeoutError:
            raise Unavailable(self.name, "has not answered in time") from None
        except ClientConnectionError as error:
            raise Unavailable(self.name, "cannot be reached") from error
        except (ClientError, ValueError, TypeError, KeyError) as error:
            raise Unavailable(self.name, "has given an answer that makes no sense") from error
        if status < 500:
            raise Refused(status, sentence)
        raise Unavailable(self.name, f"cannot help: {sentence}")

    async def _send(self, method: str, url: str, body: bytes, kind: str) -> tuple[int, bytes]:
        headers = {"Content-Type": kind, "X-Request-ID": request_id.get()}
        async with self._session.request(method, url, data=body, headers=headers) as reply:
            return reply.status, await reply.read()

    async def health(self, seconds: float) -> dict:
        """Ask each replica whether it is ready. The service is if one of them is."""
        began = asyncio.get_running_loop().time()
        reasons = await asyncio.gather(*(self._reason(url, seconds) for url in self.urls))
        took = asyncio.get_running_loop().time() - began
        told = "; ".join(reason for reason in reasons if reason)
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
        except TimeoutError:
            return "it has not answered in time"
        except (ClientError, ValueError, TypeError, KeyError):
            return "it cannot be reached"


class Preprocess(Service):
    name = "preprocess"

    async def extract(self, picture: bytes, kind: str, seconds: float) -> Extraction:
        return await self.ask(Extraction.model_validate_json, seconds, "POST", "/features", picture, kind)


class Inference(Service):
    name = "inference"

    async def predict(self, rows: list[list[float]], seconds: float) -> InferirReply:
        def read(content: bytes) -> InferirReply:
            reply = InferirReply.model_validate_json(content)
            if not len(rows) == len(reply.prediction) == len(reply.probabilities):
                raise ValueError("as many answers as rows")
            return reply

        return await self.ask(read, seconds, "POST", "/inferir", orjson.dumps({"features": rows}))


class Storage(Service):
    name = "storage"

    async def record(self, results: list[dict], seconds: float) -> None:
        """Return when the results are safe."""
        body = orjson.dumps({"results": results})
        await self.ask(Stored.model_validate_json, seconds, "POST", "/results", body)

    async def list(self, query: dict, seconds: float) -> Listing:
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return await self.ask(Listing.model_validate_json, seconds, "GET", f"/results?{asked}")

    async def summarize(self, seconds: float) -> Summary:
        return await self.ask(Summary.model_validate_json, seconds, "GET", "/results/summary")
