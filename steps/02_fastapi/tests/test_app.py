import asyncio
import errno
import json
import runpy
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pytest
from fastapi import APIRouter, Depends
from starlette.testclient import TestClient

import app
import fast
import model
import train
from chassis import server, telemetry
from schemas import InferirRequest
from settings import Settings, read_settings

SAMPLE = Path(app.__file__).parent / "sample_request.json"
ROW = json.loads(SAMPLE.read_text())["features"]


@pytest.fixture
def slow_model(monkeypatch):
    """Instead of loading a model, serve one that waits for its gate; `begun` tells that it predicts."""

    class SlowModel:
        gate, begun, rows = threading.Event(), threading.Event(), []

        @classmethod
        def predict(cls, rows):
            cls.begun.set()
            assert cls.gate.wait(10)
            cls.rows += rows.tolist()
            return np.eye(10, dtype=np.float32)[rows[:, 0].astype(int) % 10]

    served = model.Model(SlowModel.predict, np.arange(10), "slow", "pickle")
    monkeypatch.setattr(model, "load", lambda folder, format: served)
    yield SlowModel
    SlowModel.gate.set()


def posted(client, features):
    return client.post("/inferir", json={"features": features})


def test_the_sample_request_is_answered_with_its_digit(client):
    reply = client.post("/inferir", content=SAMPLE.read_bytes(), headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["prediction"]) == (200, [3])
    (probabilities,) = reply.json()["probabilities"]
    assert (len(probabilities), np.argmax(probabilities)) == (10, 3)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert list(reply.json()["model"]) == ["version", "format"]


def test_every_held_out_digit_gets_the_answer_that_the_model_gives_alone_and_in_a_batch(client, model_dir):
    _, rows, _, labels = train.load_split()
    direct = model.load(model_dir).predict(rows).argmax(axis=1).tolist()
    batch = posted(client, rows.tolist()).json()
    assert batch["prediction"] == direct
    assert np.shape(batch["probabilities"]) == (450, 10)
    assert [posted(client, row.tolist()).json()["prediction"][0] for row in rows[:100]] == direct[:100]
    assert np.mean(direct == labels) >= 0.98


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (ROW[1:], "features must be a list of 64 numbers"),
        ([], "features must be a list of 64 numbers"),
        ([[]], "features[0] must be a list of 64 numbers"),
        ([ROW, ROW[1:]], "features[1] must be a list of 64 numbers"),
        ([ROW, 7], "features[1] must be a list of 64 numbers"),
        ([7, ROW], "features[1] must be a number from 0 to 16, not [0"),
        ([*ROW[1:], 17], "features[63] must be a number from 0 to 16, not 17"),
        ([*ROW[1:], ROW], "features[63] must be a number from 0 to 16, not [0"),
        ([ROW, [*ROW[1:], -1]], "features[1][63] must be a number from 0 to 16, not -1"),
        ([*ROW[1:], float("nan")], "features[63] must be a number from 0 to 16, not NaN"),
        ([None, *ROW[1:]], "features[0] must be a number from 0 to 16, not null"),
        ([True, *ROW[1:]], "features[0] must be a number from 0 to 16, not true"),
        (["1", *ROW[1:]], 'features[0] must be a number from 0 to 16, not "1"'),
        ("seven", "features must be a list of 64 numbers"),
    ],
    ids=str,
)
def test_features_that_are_no_rows_get_422_and_a_sentence(client, features, sentence):
    body = json.dumps({"features": features})
    reply = client.post("/inferir", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422
    assert list(reply.json()) == ["error"]
    assert reply.json()["error"].startswith(sentence)


@pytest.mark.parametrize("rows", [1024, 1025])
def test_the_batch_limit_is_exact(client, rows):
    reply = posted(client, [[0] * 64] * rows)
    assert reply.status_code == (200 if rows == 1024 else 413)
    if rows > 1024:
        assert reply.json() == {"error": "a batch has at most 1,024 rows: send several batches"}


@pytest.mark.parametrize("path", ["/inferir", "/v2/models/digits/infer"])
@pytest.mark.parametrize("limit", [2_000, 1_000_000])
def test_the_body_limit_is_exact_and_can_be_set(model_dir, path, limit):
    inputs = [{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": ROW}]
    body = json.dumps({"features": ROW, "inputs": inputs}).ljust(limit)
    headers = {"Content-Type": "application/json"}
    with TestClient(app.create_app(Settings(model_dir=model_dir, max_body_bytes=limit))) as client:
        assert client.post(path, content=body, headers=headers).status_code == 200
        reply = client.post(path, content=body + " ", headers=headers)
    assert (reply.status_code, reply.json()) == (413, {"error": f"the body is larger than {limit:,} bytes"})


def test_a_full_queue_gets_503_and_is_told_when_to_come_again(slow_model):
    with TestClient(app.create_app(Settings(max_queue=2))) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(posted, client, ROW)
        assert slow_model.begun.wait(10)
        others = [pool.submit(posted, client, ROW) for _ in range(3)]  # two wait, the third finds no room
        reply = next(as_completed(others, timeout=10)).result()
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
        assert reply.json() == {"error": "too many requests are waiting: try again in a second"}
        slow_model.gate.set()
        assert sorted(asked.result(10).status_code for asked in [first, *others]) == [200, 200, 200, 503]


def test_a_client_that_goes_away_while_it_waits_is_not_predicted(slow_model, monkeypatch):
    monkeypatch.setattr(fast, "PATIENCE", 0.001)
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
    return scope, receive, send


def lifespan(asgi):
    """Start and stop the application as a server does."""
    fastapi = asgi.app.app
    return fastapi.router.lifespan_context(fastapi)


def test_a_client_that_goes_away_while_it_sends_is_no_error(slow_model):
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
    body = SAMPLE.read_bytes()
    pieces = (body[place : place + 1] for place in range(len(body)))
    assert client.post("/inferir", content=pieces, headers={"Content-Type": "application/json"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/inferir", 405), ("POST", "/livez", 405)]
)
def test_errors_of_the_framework_are_ours_too(client, method, path, status):
    reply = client.request(method, path)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"]


@pytest.mark.parametrize("path", ["/inferir", "/v2/models/digits/infer"])
def test_a_bug_gets_500_without_a_traceback_which_is_in_the_log(slow_model, caplog, path):
    slow_model.begun = None  # so that it fails
    inputs = [{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": ROW}]
    with TestClient(app.create_app(Settings()), raise_server_exceptions=False) as client:
        reply = client.post(path, json={"features": ROW, "inputs": inputs}, headers={"X-Request-ID": "bug-1"})
    assert (reply.status_code, reply.headers["X-Request-ID"]) == (500, "bug-1")
    assert reply.json() == {"error": "the service has failed on this request; its log says how"}
    assert "NoneType" in caplog.text and path in caplog.text


@pytest.mark.parametrize("path", ["/inferir", "/v2/models/digits/infer"])
@pytest.mark.parametrize("item", ["[]", "{}", '"x"', "null", "17"])
def test_a_large_body_full_of_mistakes_is_refused_at_once(client, path, item):
    many = "[" + ",".join([item] * (300_000 // len(item + ","))) + "]"
    inputs = f'[{{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": {many}}}]'
    body = f'{{"features": {many}, "outputs": {many}, "inputs": {inputs}}}'
    begin = time.process_time()
    reply = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 413, 422)
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize("options", [{"dependencies": [Depends(print)]}, {"status_code": 201}], ids=str)
def test_a_fast_route_refuses_what_it_would_not_do(options):
    router = APIRouter(route_class=fast.FastRoute)

    async def endpoint(request: InferirRequest):
        return request

    with pytest.raises(TypeError, match="/rows: a FastRoute takes one body"):
        router.post("/rows", **options)(endpoint)


def test_a_plain_route_of_yours_has_errors_of_the_same_form(slow_model):
    asgi = app.create_app(Settings())

    @asgi.app.app.get("/square")
    async def square(number: int) -> int:
        return number**2

    with TestClient(asgi) as client:
        assert client.get("/square?number=7").json() == 49
        reply = client.get("/square?number=seven")
    assert reply.status_code == 422
    assert reply.json()["error"].startswith("query.number: input should be a valid integer")


def test_a_log_that_cannot_be_written_fails_no_request(client, monkeypatch):
    def fail(text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(telemetry.sys, "stdout", types.SimpleNamespace(write=fail))
    assert [posted(client, ROW).status_code for _ in range(50)] == [200] * 50
    assert len(telemetry.log_lines._lines) < 50


def test_the_manual_describes_the_service_and_opens_without_the_internet(client):
    document = client.get("/openapi.json").json()
    inferir = document["paths"]["/inferir"]["post"]
    assert set(inferir["responses"]) == {"200", "400", "413", "415", "422", "503"}
    assert inferir["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    examples = inferir["requestBody"]["content"]["application/json"]["examples"]
    assert [posted(client, example["value"]["features"]).json()["prediction"] for example in examples.values()] == [
        [7],
        [7, 7],
    ]
    assert "HTTPValidationError" not in json.dumps(document)
    page = client.get("/docs").text
    assert "http" not in page.replace("https://fastapi.tiangolo.com/img/favicon.png", "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert client.get(f"/static-offline-docs/{asset}").status_code == 200


def test_a_request_keeps_its_id_in_the_reply_and_in_the_log(client, capsys):
    telemetry.log_lines.flush()
    capsys.readouterr()
    for path, status in (("/docs", 200), ("/nowhere", 404)):
        reply = client.get(path, headers={"X-Request-ID": f"abc-{status}"})
        assert (reply.status_code, reply.headers["X-Request-ID"]) == (status, f"abc-{status}")
    telemetry.log_lines.flush()
    one, two = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["request_id"], one["path"], one["status"]) == ("abc-200", "/docs", 200)
    assert (two["request_id"], two["path"], two["status"]) == ("abc-404", "/nowhere", 404)
    assert 0 < one["ms"] < 1000


@pytest.mark.parametrize("sent", [None, "", 'x"}\t{"level": "ERROR"', "x" * 4097])
def test_a_request_without_an_id_or_with_a_bad_one_gets_a_new_one(client, sent):
    ids = {
        client.get("/livez", headers={} if sent is None else {"X-Request-ID": sent}).headers["X-Request-ID"]
        for _ in range(2)
    }
    assert len(ids) == 2
    assert all(len(id_) == 32 and id_.isalnum() for id_ in ids)


def samples(client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_the_metrics_count_requests_by_route_and_batches(client):
    before = samples(client)
    posted(client, ROW)
    posted(client, [ROW] * 3)
    posted(client, "seven")
    client.get("/made/up/1")
    client.get("/made/up/2")
    after = samples(client)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    for status, count in (("200", 2), ("422", 1)):
        labels = f'{{method="POST",route="/inferir",status="{status}"}}'
        assert more(f"http_request_duration_seconds_count{labels}") == count
        assert more(f"http_request_duration_seconds_sum{labels}") > 0
    assert more('http_request_duration_seconds_count{method="GET",route="other",status="404"}') == 2
    assert not any("made" in name for name in after)
    assert (more("batch_rows_count"), more("batch_rows_sum")) == (2, 4)
    assert more("queue_wait_seconds_count") == more("predict_seconds_count") == 2
    assert more("predict_seconds_sum") > 0


def test_without_a_model_the_service_runs_and_says_what_is_missing(tmp_path):
    with TestClient(app.create_app(Settings(model_dir=tmp_path))) as client:
        assert client.get("/livez").status_code == client.get("/v2/health/live").status_code == 200
        for path in ("/readyz", "/v2/health/ready", "/v2/models/digits", "/v2/models/digits/ready"):
            assert client.get(path).status_code == 503
            assert "run `python train.py`" in client.get(path).json()["error"]
        assert posted(client, ROW).status_code == 503


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "eighty"), ("PORT", "99999"), ("WORKERS", "0"), ("MODEL_FORMAT", "pmml"), ("MAX_BODY_BYTES", "1e9")],
)
def test_a_setting_that_makes_no_sense_ends_the_program_with_a_sentence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"^{name} is '{value}': input should "):
        read_settings()


def test_settings_come_from_the_environment_and_an_empty_one_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("HOST", "0.0.0.0")
    started = []
    monkeypatch.setattr(server, "run", lambda factory, settings: started.append((factory, settings)))
    runpy.run_path(app.__file__, run_name="__main__")
    ((factory, settings),) = started
    assert factory == "app:create_app"
    assert (settings.host, settings.port, settings.model_dir) == ("0.0.0.0", 8000, tmp_path)
