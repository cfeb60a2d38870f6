"""What the gateway answers with the key, without it, and with a wrong one."""

import json
import re

import pytest

from chassis import telemetry
from conftest import API_KEY as KEY

RIGHT = {"Authorization": f"Bearer {KEY}"}
ROW = {"features": [0.5] * 64}
CLOSED = ["/results", "/results/summary", "/services", "/metrics", "/redoc", "/no/such/path", "/static", "/livez/"]


@pytest.fixture
def locked(open_gateway, key_file, storage):
    storage.answers["/results"] = lambda body: (200, {"results": [], "next": None, "stored": 1})
    storage.answers["/results/summary"] = lambda body: (200, {"total": 0, "by_prediction": {}, "by_model_version": {}})
    return open_gateway(api_key_file=key_file)


def assert_refused(reply, says):
    assert (reply.status_code, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert list(reply.json()) == ["error"] and says in reply.json()["error"]
    assert "Authorization: Bearer KEY" in reply.json()["error"] and KEY not in reply.text


@pytest.mark.parametrize("path", ["/results", "/results/summary", "/services", "/metrics"])
def test_with_the_key_everything_answers_as_without_one(locked, path):
    assert locked.get(path, headers=RIGHT).status_code == 200
    reply = locked.post("/inferir", json=ROW, headers=RIGHT)
    assert (reply.status_code, reply.json()["prediction"], reply.json()["stored"]) == (200, [3], True)


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
def test_without_the_key_no_service_is_asked(locked, storage, method, path):
    reply = locked.request(method, path)
    assert (reply.status_code, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
    if method != "HEAD":
        assert_refused(reply, "a key is needed")
    assert storage.asked == []


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/docs", "/openapi.json"])
def test_probes_the_page_and_the_manual_need_no_key(locked, path):
    reply = locked.get(path)
    assert reply.status_code == 200
    for part in re.findall(r'(?:src|href)="(/?static[^"]+)"', reply.text):
        assert locked.get(part).status_code == 200, part


@pytest.mark.parametrize(
    "path", ["/static/../results", "/static/%2e%2e/results", "/static/..%2fresults", "/docs/../metrics"]
)
def test_no_open_path_leads_to_a_closed_one(locked, storage, path):
    assert locked.get(path).status_code in (401, 404)
    assert storage.asked == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@pytest.mark.parametrize("blanks", [" ", "   "])
def test_the_scheme_may_be_written_in_any_way(locked, scheme, blanks):
    assert locked.get("/services", headers={"Authorization": f"{scheme}{blanks}{KEY}"}).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b" ",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        KEY.encode(),
        f"Bearer{KEY}".encode(),
        f"Bearer\t{KEY}".encode(),
        f"Bearer {KEY[:-1]}".encode(),
        f"Bearer {KEY}x".encode(),
        f"Bearer {KEY.upper()}".encode(),
        f"Bearer {KEY} {KEY}".encode(),
        f"Bearer {KEY}, Bearer {KEY}".encode(),
        f'Bearer "{KEY}"'.encode(),
        f"Basic {KEY}".encode(),
        f"Token {KEY}".encode(),
        f"Bearer Bearer {KEY}".encode(),
        f"Bearer {KEY}\u00e9".encode(),
        f"B\u00e9arer {KEY}".encode(),
        b"Bearer \xff\xfe\x80" + KEY.encode(),
        b"Bearer " + 1_000_000 * b"x",
        1_000_000 * b"Bearer ",
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_what_is_not_the_key_is_refused(locked, inference, sent):
    assert_refused(locked.post("/inferir", json=ROW, headers=[(b"Authorization", sent)]), "this is not the key")
    assert inference.asked == []


@pytest.mark.parametrize(
    "values", [[f"Bearer {KEY}"] * 2, [f"Bearer {KEY}", "Basic eA=="], ["Basic eA==", f"Bearer {KEY}"]]
)
def test_several_keys_are_refused(locked, values):
    reply = locked.get("/services", headers=[("Authorization", value) for value in values])
    assert_refused(reply, "send one header")


@pytest.mark.parametrize("header", ["X-API-Key", "Proxy-Authorization", "Cookie"])
def test_the_key_is_taken_from_nowhere_else(locked, header):
    assert_refused(locked.get(f"/services?access_token={KEY}", headers={header: f"Bearer {KEY}"}), "a key is needed")


def test_a_body_without_a_key_is_not_read(locked):
    scope = {"type": "http", "method": "POST", "path": "/inferir", "headers": [], "client": None}
    sent = []

    async def receive():
        raise AssertionError("the body was asked for")

    async def send(message):
        sent.append(message)

    locked.portal.call(locked.app, scope, receive, send)
    assert sent[0]["status"] == 401


def test_a_refusal_has_an_id_a_line_in_the_log_and_a_metric(locked, capsys):
    reply = locked.get(
        "/results?prediction=3", headers={"X-Request-ID": "from-outside", "Authorization": "Bearer guessed-key"}
    )
    assert_refused(reply, "this is not the key")
    assert reply.headers["X-Request-ID"] == "from-outside"
    metrics = locked.get("/metrics", headers=RIGHT).text
    assert re.search(r'http_request_duration_seconds_count\{method="GET",route="other",status="401"\} \d', metrics)
    locked.portal.call(telemetry.log_lines.flush)
    printed = capsys.readouterr().out
    (line,) = [json.loads(line) for line in printed.splitlines() if '"from-outside"' in line]
    assert (line["path"], line["status"]) == ("/results", 401)
    assert "guessed-key" not in printed and KEY not in printed


def test_the_manual_asks_for_the_key_where_it_is_needed(locked):
    manual = locked.get("/openapi.json").json()
    assert manual["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in manual["paths"].items():
        for operation in operations.values():
            needed = path not in ("/livez", "/readyz")
            assert (operation.get("security") == [{"key": []}]) == ("401" in operation["responses"]) == needed, path


def test_a_gateway_without_a_key_asks_for_none_and_its_manual_has_none(gateway):
    assert gateway.get("/services").status_code == 200
    assert gateway.get("/services", headers={"Authorization": "Bearer whatever"}).status_code == 200
    manual = gateway.get("/openapi.json").text
    assert "401" not in manual and "security" not in manual
