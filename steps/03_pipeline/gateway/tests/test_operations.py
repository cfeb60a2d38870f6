"""The history, the page, the manual, the probes and the metrics."""

import re

import pytest
from fakes import FEATURES, MODEL

PNG = {"Content-Type": "image/png"}
ROW = [0.5] * 64
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
        {"total": 1, "by_prediction": {"3": 1}, "by_model_version": {"b5e7a46e61b8": 1}},
    )
    assert gateway.get("/results?prediction=3&before=a%26b").json() == {"results": [LISTED], "next": "a"}
    assert gateway.get("/results/summary").json()["by_prediction"] == {"3": 1}
    assert [path for path, _, _ in storage.asked] == ["/results?limit=20&before=a%26b&prediction=3", "/results/summary"]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=many"])
def test_an_invalid_query_for_the_history_gets_422(gateway, storage, query):
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
    parts = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert len(parts) >= 3
    for part in parts:
        reply = gateway.get(part)
        assert (reply.status_code, reply.headers["Cache-Control"]) == (200, "no-cache"), part
    assert gateway.get("/static/../app.py").status_code == 404


@pytest.mark.parametrize("wanted", ["bytes=0-9", "lines=1-2", "bytes", "bytes=9999999-", "bytes=a-b"])
@pytest.mark.parametrize("path", ["/", "/static/page.js", "/static-offline-docs/swagger-ui.css"])
def test_a_range_is_ignored(gateway, path, wanted):
    whole, part = gateway.get(path), gateway.get(path, headers={"Range": wanted})
    assert (part.status_code, part.content) == (200, whole.content)


def test_the_manual_describes_pictures_and_json(gateway):
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
