"""What the gateway answers when all is well, and to what it should refuse."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from conftest import FEATURES, MODEL
from settings import Settings

PNG = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
ROW = [0.5] * 64


def test_a_row_goes_through_inference_and_storage(gateway, preprocess, inference, storage):
    reply = gateway.post("/inferir", json={"features": ROW}, headers={"X-Request-ID": "from-outside"})
    assert reply.status_code == 200
    answer = reply.json()
    assert answer["prediction"] == [3] and answer["probabilities"] == [[0.1] * 10] and answer["model"] == MODEL
    assert answer["stored"] is True and "storage" not in answer and "features" not in answer
    assert list(answer["timings_ms"]) == ["inference", "storage", "total"]
    assert preprocess.asked == []
    assert json.loads(*inference.bodies("/inferir")) == {"features": [ROW]}
    ((_, headers, body),) = storage.asked
    (stored,) = json.loads(body)["results"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", stored.pop("time"))
    assert stored.pop("timings_ms") == {"inference": answer["timings_ms"]["inference"]}
    assert stored == {
        "id": answer["id"],
        "request_id": "from-outside",
        "features": ROW,
        "prediction": 3,
        "probabilities": [0.1] * 10,
        "model": MODEL,
        "preprocess": None,
    }


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg"])
def test_a_picture_goes_through_all_three(gateway, preprocess, inference, storage, kind):
    reply = gateway.post("/inferir", content=b"a picture", headers={"Content-Type": kind})
    answer = reply.json()
    assert answer["prediction"] == [3] and answer["features"] == FEATURES and answer["preprocess"] == "v2"
    hops = answer["timings_ms"]
    assert list(hops) == ["preprocess", "inference", "storage", "total"]
    assert 0 < sum(hops.values()) - hops["total"] <= hops["total"]
    ((path, headers, body),) = preprocess.asked
    assert (path, headers["Content-Type"], body) == ("/features", kind, b"a picture")
    assert json.loads(*inference.bodies("/inferir")) == {"features": [FEATURES]}
    (stored,) = json.loads(*storage.bodies("/results"))["results"]
    assert stored["preprocess"] == "v2" and stored["features"] == FEATURES
    assert list(stored["timings_ms"]) == ["preprocess", "inference"]


def test_a_batch_is_stored_row_by_row(gateway, storage):
    answer = gateway.post("/inferir", json={"features": [ROW, FEATURES]}).json()
    assert answer["prediction"] == [3, 3]
    results = json.loads(*storage.bodies("/results"))["results"]
    assert [result["id"] for result in results] == [f"{answer['id']}.0", f"{answer['id']}.1"]
    assert [result["features"] for result in results] == [ROW, FEATURES]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (("digit.png", b"a picture", "image/png"), "image/png"),
        (("digit.jpg", b"a picture", "image/jpeg"), "image/jpeg"),
        (("digit", b"a picture", "application/octet-stream"), "application/octet-stream"),
        (("digit.gif", b"a picture", "image/gif"), "application/octet-stream"),
    ],
)
def test_a_form_may_bring_the_picture(gateway, preprocess, file, kind):
    reply = gateway.post("/inferir", files={"image": file}, data={"note": "other fields are left alone"})
    assert reply.status_code == 200 and reply.json()["features"] == FEATURES
    ((_, headers, body),) = preprocess.asked
    assert (headers["Content-Type"], body) == (kind, b"a picture")


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        ({"content": b"seven", "headers": {"Content-Type": "application/json"}}, 400, "not JSON"),
        ({"json": {"features": [0] * 63}}, 422, "list of 64"),
        ({"json": {"features": [[0] * 64] * 1025}}, 413, "1,024 rows"),
        ({"content": b"<svg/>", "headers": {"Content-Type": "image/svg+xml"}}, 415, "image/png"),
        ({"content": b"a picture"}, 415, "image/png"),
        ({"content": b"x" * 1_000_001, "headers": PNG}, 413, "1,000,000 bytes"),
        ({"files": {"image": ("big.png", b"x" * 1_000_000, "image/png")}}, 413, "1,000,000 bytes"),
        ({"files": {"picture": ("digit.png", b"x", "image/png")}}, 422, "no file `image`"),
        ({"files": {"image": (None, b"text")}}, 422, "no file `image`"),
        ({"content": b"no form", "headers": {"Content-Type": "multipart/form-data"}}, 400, "a file `image`"),
        ({"content": b"no form", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "form"),
        (
            {"content": b"--x\r\n\r\n\r\n--x--", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            400,
            "f",
        ),
        ({"files": [("image", ("digit.png", b"x"))] * 11}, 400, "a file `image`"),
    ],
)
def test_what_cannot_be_taken_is_refused_at_the_door(gateway, preprocess, inference, sent, status, says):
    reply = gateway.post("/inferir", **sent)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"] and says in reply.json()["error"]
    assert preprocess.asked == inference.asked == []


def test_a_request_id_reaches_every_service(gateway, preprocess, inference, storage):
    reply = gateway.post("/inferir", content=b"a picture", headers={**PNG, "X-Request-ID": "from-outside"})
    assert reply.headers["X-Request-ID"] == "from-outside"
    for fake in (preprocess, inference):
        assert [headers["X-Request-ID"] for _, headers, _ in fake.asked] == ["from-outside"]
    (stored,) = json.loads(*storage.bodies("/results"))["results"]
    assert stored["request_id"] == "from-outside"


def test_connections_are_kept_and_used_again(gateway, preprocess, inference, storage):
    for _ in range(20):
        assert gateway.post("/inferir", content=b"a picture", headers=PNG).json()["stored"]
    assert (preprocess.connections, inference.connections, storage.connections) == (1, 1, 1)


def test_many_clients_share_calls_and_are_all_named_in_them(gateway, inference, storage):
    def send(number: int):
        return gateway.post("/inferir", json={"features": ROW}, headers={"X-Request-ID": f"client-{number}"})

    with ThreadPoolExecutor(32) as clients:
        answers = [reply.json() for reply in clients.map(send, range(200))]
    assert all(answer["stored"] for answer in answers)
    calls = [json.loads(body)["results"] for body in storage.bodies("/results")]
    stored = {result["id"]: result["request_id"] for results in calls for result in results}
    assert stored == {answer["id"]: f"client-{number}" for number, answer in enumerate(answers)}
    for fake in (inference, storage):
        assert len(fake.asked) < 200
        named = [name for _, headers, _ in fake.asked for name in headers["X-Request-ID"].split(",")]
        assert sorted(named) == sorted(f"client-{number}" for number in range(200))


LISTED = {
    "id": "a",
    "request_id": "b",
    "time": "2026-11-22T12:00:00Z",
    "features": FEATURES,
    "prediction": 3,
    "probabilities": [0.1] * 10,
    "model": MODEL,
    "preprocess": None,
    "timings_ms": {"inference": 1.0},
}


def test_the_history_is_storages(gateway, storage):
    storage.answers["/results"] = lambda body: (200, {"results": [LISTED], "next": "a"})
    storage.answers["/results/summary"] = lambda body: (
        200,
        {"total": 1, "by_digit": {"3": 1}, "by_model_version": {"b5e7a46e61b8": 1}},
    )
    assert gateway.get("/results?digit=3&before=a%26b").json() == {"results": [LISTED], "next": "a"}
    assert gateway.get("/results/summary").json()["by_digit"] == {"3": 1}
    assert [path for path, _, _ in storage.asked] == ["/results?limit=20&before=a%26b&digit=3", "/results/summary"]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "digit=10", "digit=x", "limit=many"])
def test_a_question_for_the_history_that_makes_no_sense_gets_422(gateway, storage, query):
    reply = gateway.get(f"/results?{query}")
    assert reply.status_code == 422 and query.partition("=")[0] in reply.json()["error"]
    assert storage.asked == []


def test_what_storage_refuses_is_refused(gateway, storage):
    storage.answers["/results"] = lambda body: (422, {"error": "no result has the id z"})
    reply = gateway.get("/results?before=z")
    assert (reply.status_code, reply.json()) == (422, {"error": "no result has the id z"})


def test_the_page_and_its_parts_are_served_and_take_scripts_from_nowhere_else(gateway):
    page = gateway.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    parts = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert len(parts) >= 3
    for part in parts:
        reply = gateway.get(part)
        assert (reply.status_code, reply.headers["Cache-Control"]) == (200, "no-cache"), part
    assert gateway.get("/static/../app.py").status_code == 404


def test_the_manual_tells_of_pictures_and_json(gateway):
    bodies = gateway.get("/openapi.json").json()["paths"]["/inferir"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"application/json", "image/png", "image/jpeg", "multipart/form-data"}


def test_the_hops_are_in_the_metrics(gateway, preprocess):
    preprocess.answers["/features"] = lambda body: (422, {"error": "the picture is blank"})
    gateway.post("/inferir", content=b"a picture", headers=PNG)
    gateway.post("/inferir", json={"features": ROW})
    metrics = gateway.get("/metrics").text
    assert 'hop_seconds_count{outcome="refused",service="preprocess"}' in metrics
    for service in ("inference", "storage"):
        assert f'hop_seconds_count{{outcome="answered",service="{service}"}}' in metrics


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "ftp://127.0.0.1", "http://", "http://a,b", "http://me:secret@a"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ValidationError):
        Settings(inference_url=url)
