"""Pictures wait for a thread: how many, what happens meanwhile, and what happens when their client goes away."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import pytest
from starlette.testclient import TestClient

import app
import service
from chassis import limits
from conftest import PNG, posted
from settings import Settings


@pytest.fixture
def slow(monkeypatch):
    """Instead of v2, an extraction that waits for a gate once it is shut; `begun` counts those that wait."""

    class Slow:
        gate, begun, finished = threading.Event(), threading.Semaphore(0), []

        @classmethod
        def extract(cls, ink):
            if not cls.gate.is_set():
                cls.begun.release()
                assert cls.gate.wait(10)
            cls.finished.append(ink.shape)
            return np.zeros(64, dtype=int)

        @classmethod
        def shut(cls):
            cls.gate.clear()
            cls.finished.clear()

    Slow.gate.set()
    monkeypatch.setitem(service.VERSIONS, "v2", Slow.extract)
    yield Slow
    Slow.gate.set()


def test_a_full_queue_gets_503_and_is_told_when_to_come_again(slow):
    asgi = app.create_app(Settings(threads=1, max_pictures=2))
    with TestClient(asgi) as client, ThreadPoolExecutor(4) as pool:
        slow.shut()
        first = pool.submit(posted, client, PNG)
        assert slow.begun.acquire(timeout=10)
        others = [pool.submit(posted, client, PNG) for _ in range(3)]  # two wait, the third finds no room
        reply = next(as_completed(others, timeout=10)).result()
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert reply.json() == {"error": "too many pictures are waiting: try again in a second"}
        slow.gate.set()
        assert sorted(asked.result(10).status_code for asked in [first, *others]) == [200, 200, 200, 503]


def test_while_pictures_are_worked_on_the_service_answers_other_requests(slow):
    with TestClient(app.create_app(Settings(threads=2))) as client, ThreadPoolExecutor(2) as pool:
        slow.shut()
        asked = [pool.submit(posted, client, PNG) for _ in range(2)]
        assert all(slow.begun.acquire(timeout=10) for _ in asked)  # as many at once as there are threads
        assert client.get("/livez").json() == {"status": "alive"}
        assert client.get("/readyz").json() == {"status": "ready"}
        slow.gate.set()
        assert [one.result(10).status_code for one in asked] == [200, 200]


def test_a_client_that_goes_away_is_not_waited_for(slow, monkeypatch):
    monkeypatch.setattr(limits, "PATIENCE", 0.001)
    sent = []

    async def in_a_thread():
        assert await asyncio.to_thread(slow.begun.acquire, timeout=10)

    async def in_the_queue():
        pass

    async def main():
        asgi = app.create_app(Settings(threads=1))
        async with lifespan(asgi):
            slow.shut()
            for leave in (in_a_thread, in_the_queue):
                await asyncio.wait_for(asgi(*request(sent, leave)), 20)  # ends before the gate opens
            staying = asyncio.create_task(asgi(*request(sent)))
            slow.gate.set()
            await asyncio.wait_for(staying, 20)

    asyncio.run(main())
    assert [message["status"] for message in sent if "status" in message] == [499, 499, 200]
    assert len(slow.finished) == 2  # the first, as a thread cannot be stopped, and the last


def test_a_client_that_goes_away_while_it_sends_is_no_error():
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def main():
        asgi = app.create_app(Settings())
        scope, _, send = request(sent)
        async with lifespan(asgi):
            await asgi(scope, receive, send)

    asyncio.run(main())
    assert sent[0]["status"] == 499


def request(sent: list, leave=None):
    """A request for /features as ASGI has it: scope, receive, send. The client stays, or is gone after `leave`."""
    messages = [{"type": "http.request", "body": PNG}]

    async def receive():
        if messages:
            return messages.pop()
        await (leave() if leave else asyncio.Event().wait())
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"image/png")]
    scope = {"type": "http", "method": "POST", "path": "/features", "query_string": b"", "headers": headers}
    scope["client"] = None
    return scope, receive, send


def lifespan(asgi):
    """Start and stop the application as a server does."""
    fastapi = asgi.app.app
    return fastapi.router.lifespan_context(fastapi)


def test_a_bug_gets_500_and_reaches_the_server_which_logs_its_traceback(slow):
    asgi = app.create_app(Settings())
    with TestClient(asgi, raise_server_exceptions=False) as client:
        slow.finished = None  # so that it fails
        reply = client.post("/features", content=PNG, headers={"Content-Type": "image/png", "X-Request-ID": "bug-1"})
        assert (reply.status_code, reply.headers["X-Request-ID"]) == (500, "bug-1")
        assert reply.json() == {"error": "the service has failed on this request; its log says how"}
        with pytest.raises(AttributeError, match="NoneType"):
            posted(TestClient(asgi), PNG)
        slow.finished = []
        assert posted(client, PNG).status_code == 200
