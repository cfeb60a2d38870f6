"""How much a request may ask for, and what happens when its client goes away."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest
from starlette.testclient import TestClient

import app
from chassis import limits
from conftest import ROW, inner, posted
from settings import Settings


@pytest.mark.parametrize("rows", [1024, 1025])
def test_the_batch_limit_is_exact(client, rows):
    reply = posted(client, [[0] * 64] * rows)
    assert reply.status_code == (200 if rows == 1024 else 413)
    if rows > 1024:
        assert reply.json() == {"error": "a batch has at most 1,024 rows: send several batches"}


@pytest.mark.parametrize("url", ["/inferir", "/v2/models/digits/infer"])
@pytest.mark.parametrize("limit", [2_000, 1_000_000])
def test_the_body_limit_is_exact_and_can_be_set(model_dir, path, url, limit):
    inputs = [{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": ROW}]
    body = json.dumps({"features": ROW, "inputs": inputs}).ljust(limit)
    headers = {"Content-Type": "application/json"}
    with TestClient(app.create_app(Settings(model_dir=model_dir, max_body_bytes=limit))) as client:
        assert client.post(url, content=body, headers=headers).status_code == 200
        reply = client.post(url, content=body + " ", headers=headers)
    assert (reply.status_code, reply.json()) == (413, {"error": f"the body is larger than {limit:,} bytes"})


URLS = ["/inferir", "/v2/models/digits/infer"]
BOTH = {"features": ROW, "inputs": [{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": ROW}]}


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "Identity"])
def test_a_body_with_a_content_encoding_gets_415(client, url, encoding):
    reply = client.post(url, json=BOTH, headers={"Content-Encoding": encoding})
    if encoding == "Identity":
        assert reply.status_code == 200
    else:
        assert (reply.status_code, reply.headers["Accept-Encoding"]) == (415, "identity")
        assert reply.json() == {"error": "send the body as it is, without a Content-Encoding"}


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("size", [1, 100_000])
def test_json_in_another_encoding_than_utf_8_gets_400(client, url, encoding, size):
    body = json.dumps(BOTH).encode(encoding)
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    reply = client.post(url, content=pieces, headers={"Content-Type": "application/json"})
    sentence = "the body is not in UTF-8: send JSON in UTF-8, without a byte order mark"
    assert (reply.status_code, reply.json()) == (400, {"error": sentence})


def test_a_full_queue_gets_503_and_is_told_when_to_come_again(path, slow_model):
    with TestClient(app.create_app(Settings(max_queue=2))) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(posted, client, ROW)
        assert slow_model.begun.wait(10)
        others = [pool.submit(posted, client, ROW) for _ in range(3)]  # two wait, the third finds no room
        reply = next(as_completed(others, timeout=10)).result()
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert reply.json() == {"error": "too many requests are waiting: try again in a second"}
        slow_model.gate.set()
        assert sorted(asked.result(10).status_code for asked in [first, *others]) == [200, 200, 200, 503]


def test_a_client_that_goes_away_while_it_waits_is_not_predicted(path, slow_model, monkeypatch):
    monkeypatch.setattr(limits, "PATIENCE", 0.001)
    sent = []

    async def main():
        asgi = app.create_app(Settings())
        async with lifespan(asgi):
            staying = asyncio.create_task(asgi(*request([1] * 64, sent)))
            assert await asyncio.to_thread(slow_model.begun.wait, 10)
            await asyncio.wait_for(asgi(*request([2] * 64, sent, gone=True)), 10)  # ends before the gate opens
            slow_model.gate.set()
            await asyncio.wait_for(staying, 10)

    asyncio.run(main())
    assert [row[0] for row in slow_model.rows] == [1]
    assert [message["status"] for message in sent if "status" in message] == [499, 200]


def request(features, sent: list, gone=False):
    """A request for /inferir as ASGI has it: scope, receive, send. The client stays, or is gone after its body."""
    messages = [{"type": "http.request", "body": json.dumps({"features": features}).encode()}]

    async def receive():
        if not messages and not gone:
            await asyncio.Event().wait()
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/inferir", "headers": headers, "client": None}
    scope |= {"query_string": b"", "root_path": "", "state": {"leaving": False}}
    return scope, receive, send


def lifespan(asgi):
    """Start and stop the application."""
    return inner(asgi).router.lifespan_context(inner(asgi))


def test_a_client_that_goes_away_while_it_sends_is_no_error(path, slow_model):
    sent = []

    async def main():
        asgi = app.create_app(Settings())
        scope, receive, send = request(ROW, sent, gone=True)
        await receive()
        async with lifespan(asgi):
            await asgi(scope, receive, send)

    asyncio.run(main())
    assert sent[0]["status"] == 499


def test_a_body_in_a_thousand_pieces_is_one_body(client):
    body = json.dumps({"features": ROW}).encode()
    pieces = (body[place : place + 1] for place in range(len(body)))
    assert client.post("/inferir", content=pieces, headers={"Content-Type": "application/json"}).status_code == 200


@pytest.mark.parametrize("url", ["/inferir", "/v2/models/digits/infer"])
@pytest.mark.parametrize("item", ["[]", "{}", '"x"', "null", "17"])
def test_a_large_body_full_of_mistakes_is_refused_at_once(client, url, item):
    many = "[" + ",".join([item] * (300_000 // len(item + ","))) + "]"
    inputs = f'[{{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": {many}}}]'
    body = f'{{"features": {many}, "outputs": {many}, "inputs": {inputs}}}'
    begin = time.process_time()
    reply = client.post(url, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 413, 422)
    assert time.process_time() - begin < 0.5
