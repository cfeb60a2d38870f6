import asyncio
import json
import runpy
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import HTTPConnection

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import app
import fast
import features
import service
from chassis import server, telemetry
from conftest import draw_two, encode, png_that_claims
from picture import read_ink
from settings import Settings, read_settings

PNG = encode(np.uint8(255 * draw_two(28, stroke=0.1)))


NO_PICTURE = "the body is not a PNG or JPEG that can be read: is the file whole?"


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


def posted(client, content, kind: str = "image/png"):
    return client.post("/features", content=content, headers={"Content-Type": kind})


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream", "Image/PNG; name=two.png"])
def test_a_picture_is_answered_with_its_features_and_their_version(client, kind):
    reply = posted(client, PNG, kind)
    assert (reply.status_code, list(reply.json())) == (200, ["features", "version"])
    assert reply.json() == {"features": features.v2(read_ink(PNG, 28 * 28)).tolist(), "version": "v2"}
    assert len(reply.json()["features"]) == 64
    assert all(type(number) is int and 0 <= number <= 16 for number in reply.json()["features"])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_setting_chooses_the_version(version):
    with TestClient(app.create_app(Settings(preprocess_version=version))) as client:
        reply = posted(client, PNG).json()
    assert reply == {"features": features.VERSIONS[version](read_ink(PNG, 28 * 28)).tolist(), "version": version}


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"", 400, "the body is not a PNG or JPEG that can be read: is the file whole?"),
        (PNG[:-30], 400, "the body is not a PNG or JPEG that can be read: is the file whole?"),
        (
            encode(Image.new("L", (9, 9)), "GIF"),
            400,
            "the body is not a PNG or JPEG that can be read: is the file whole?",
        ),
        (
            png_that_claims(9_000, 6_000),
            413,
            "the picture has 9,000 x 6,000 pixels and may have 16,000,000: send a smaller one",
        ),
        (encode(Image.new("L", (28, 28))), 422, "the picture is blank: nothing on it stands out from the paper"),
    ],
    ids=["empty", "truncated", "GIF", "giant", "blank"],
)
def test_what_has_no_ink_gets_a_sentence(client, content, status, sentence):
    reply = posted(client, content)
    assert (reply.status_code, reply.json()) == (status, {"error": sentence})


@pytest.mark.parametrize(
    "kind", ["", "image/gif", "application/json", "multipart/form-data; boundary=x", "image/png\xff"]
)
def test_another_content_type_gets_415(client, kind):
    reply = posted(client, PNG, kind.encode("latin-1"))
    assert reply.status_code == 415
    assert reply.json() == {"error": "send a PNG or JPEG, with the header Content-Type: image/png or image/jpeg"}


@pytest.mark.parametrize("limit", [2_000, 1_000_000])
def test_the_body_limit_is_exact_and_can_be_set(limit):
    with TestClient(app.create_app(Settings(max_body_bytes=limit))) as client:
        body = PNG.ljust(limit, b"\0")
        assert posted(client, body).status_code == 200
        reply = posted(client, body + b"\0")
    assert (reply.status_code, reply.json()) == (413, {"error": f"the body is larger than {limit:,} bytes"})


@pytest.mark.parametrize(("limit", "status"), [(1, 413), (783, 413), (784, 200)])
def test_the_pixel_limit_is_exact_and_can_be_set(limit, status):
    with TestClient(app.create_app(Settings(max_pixels=limit))) as client:
        assert posted(client, PNG).status_code == status


def test_a_body_in_many_pieces_is_one_picture(client):
    assert posted(client, (PNG[place : place + 1] for place in range(len(PNG)))).status_code == 200


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
    monkeypatch.setattr(fast, "PATIENCE", 0.001)
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
    scope = {"type": "http", "method": "POST", "path": "/features", "headers": headers, "client": None}
    return scope, receive, send


def lifespan(asgi):
    """Start and stop the application as a server does."""
    fastapi = asgi.app.app
    return fastapi.router.lifespan_context(fastapi)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/features", 405), ("POST", "/livez", 405)]
)
def test_errors_of_the_framework_are_ours_too(client, method, path, status):
    reply = client.request(method, path)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"]


def test_a_bug_gets_500_without_a_traceback_which_is_in_the_log(slow, caplog):
    with TestClient(app.create_app(Settings()), raise_server_exceptions=False) as client:
        slow.finished = None  # so that it fails
        reply = client.post("/features", content=PNG, headers={"Content-Type": "image/png", "X-Request-ID": "bug-1"})
        slow.finished = []
        assert posted(client, PNG).status_code == 200
    assert (reply.status_code, reply.headers["X-Request-ID"]) == (500, "bug-1")
    assert reply.json() == {"error": "the service has failed on this request; its log says how"}
    assert "NoneType" in caplog.text and "/features" in caplog.text


def test_the_manual_describes_the_service_and_opens_without_the_internet(client):
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/features"]["post"]
    assert set(operation["responses"]) == {"200", "400", "413", "415", "422", "503"}
    assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    bodies = operation["requestBody"]["content"]
    assert set(bodies) == {"image/png", "image/jpeg", "application/octet-stream"}
    assert {body["schema"]["$ref"] for body in bodies.values()} == {"#/components/schemas/Picture"}
    assert document["components"]["schemas"]["Picture"]["format"] == "binary"
    assert "HTTPValidationError" not in json.dumps(document)
    page = client.get("/docs").text
    assert "http" not in page.replace("https://fastapi.tiangolo.com/img/favicon.png", "")
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_a_request_keeps_its_id_in_the_reply_and_in_the_log(client, capsys):
    telemetry.log_lines.flush()
    capsys.readouterr()
    reply = client.post("/features", content=PNG, headers={"Content-Type": "image/png", "X-Request-ID": "abc-1"})
    assert (reply.status_code, reply.headers["X-Request-ID"]) == (200, "abc-1")
    telemetry.log_lines.flush()
    line = json.loads(capsys.readouterr().out)
    assert (line["request_id"], line["path"], line["status"]) == ("abc-1", "/features", 200)


def test_the_metrics_tell_how_long_pictures_take_by_version_and_count_requests(client):
    def samples() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before = samples()
    assert [posted(client, content).status_code for content in (PNG, PNG, b"")] == [200, 200, 400]
    after = samples()
    counted = 'preprocess_seconds_count{version="v2"}'
    assert after[counted] - before[counted] == 3
    assert 0 < after['preprocess_seconds_sum{version="v2"}'] - before['preprocess_seconds_sum{version="v2"}'] < 10
    for status, count in (("200", 2), ("400", 1)):
        name = f'http_request_duration_seconds_count{{method="POST",route="/features",status="{status}"}}'
        assert after[name] - before.get(name, 0) == count


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "eighty"), ("THREADS", "0"), ("MAX_PICTURES", "0"), ("PREPROCESS_VERSION", "v3"), ("MAX_PIXELS", "1e9")],
)
def test_a_setting_that_makes_no_sense_ends_the_program_with_a_sentence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"^{name} is '{value}': input should "):
        read_settings()


def test_a_setting_of_another_service_in_the_same_environment_changes_nothing(monkeypatch):
    monkeypatch.setenv("MAX_QUEUE", "1")
    assert read_settings() == Settings(max_pictures=64)


def test_settings_come_from_the_environment_and_an_empty_one_is_none(monkeypatch):
    monkeypatch.setenv("PREPROCESS_VERSION", "v1")
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("HOST", "0.0.0.0")
    started = []
    monkeypatch.setattr(server, "run", lambda factory, settings: started.append((factory, settings)))
    runpy.run_path(app.__file__, run_name="__main__")
    ((factory, settings),) = started
    assert factory == "app:create_app"
    assert (settings.host, settings.port, settings.preprocess_version) == ("0.0.0.0", 8001, "v1")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_process_of_the_service_answers_pictures_and_every_line_of_its_log_is_json(start, version):
    running = start(preprocess_version=version)
    # Notes of a camera that Pillow has warnings about, one for each of a thousand entries
    exif = b"Exif\0\0II*\0\x08\0\0\0" + (1_000).to_bytes(2, "little")
    exif += b"".join(tag.to_bytes(2, "little") + b"\x02\0\xff\xff\0\0\x08\0\0\0" for tag in range(1, 1_001))
    two = np.uint8(255 * draw_two(28, stroke=0.1))
    jpeg = encode(two, "JPEG", quality=95, exif=exif)
    connection = HTTPConnection(running.address, timeout=20)
    answers = []
    for content in (PNG, jpeg, b"", PNG):
        connection.request("POST", "/features", content, {"Content-Type": "image/png"})
        reply = connection.getresponse()
        answers.append((reply.status, json.loads(reply.read())))
    expected = features.VERSIONS[version](read_ink(PNG, 28 * 28)).tolist()
    assert answers[0] == answers[3] == (200, {"features": expected, "version": version})
    assert [status for status, _ in answers] == [200, 200, 400, 200]
    connection.close()
    if running.ask_to_leave():
        assert [line["status"] for line in running.log if line["message"] == "request"] == [200, 200, 400, 200]
        assert running.other == []
