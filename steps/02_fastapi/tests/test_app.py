"""What the routes answer, with FastPath and without."""

import json

import numpy as np
import pytest
from starlette.testclient import TestClient

import app
import model
import train
from batcher import Failed
from conftest import ROW, STEP, inner, posted, serve
from settings import Settings

SAMPLE = STEP / "sample_request.json"


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


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/inferir", 405),
        ("POST", "/livez", 405),
        ("GET", "/livez/", 404),
        ("POST", "/inferir/", 404),
        ("POST", "/v2/models/digits/infer/", 404),
    ],
)
def test_errors_of_the_framework_are_ours_too(client, method, path, status):
    reply = client.request(method, path, follow_redirects=False)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"]


def test_the_manual_describes_the_service_and_opens_without_the_internet(client):
    document = client.get("/openapi.json").json()
    inferir = document["paths"]["/inferir"]["post"]
    assert set(inferir["responses"]) == {"200", "400", "413", "415", "422", "500", "503"}
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


def test_without_a_model_the_service_runs_and_says_what_is_missing(tmp_path):
    with TestClient(app.create_app(Settings(model_dir=tmp_path))) as client:
        assert client.get("/livez").status_code == client.get("/v2/health/live").status_code == 200
        for path in ("/readyz", "/v2/health/ready", "/v2/models/digits", "/v2/models/digits/ready"):
            assert client.get(path).status_code == 503
            assert "run `python train.py`" in client.get(path).json()["error"]
        assert posted(client, ROW).status_code == 503


@pytest.mark.parametrize("url", ["/inferir", "/v2/models/digits/infer"])
def test_a_bug_gets_500_and_reaches_the_server_which_logs_its_traceback(path, slow_model, url):
    slow_model.begun = None  # so that it fails
    inputs = [{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": ROW}]
    body, headers = {"features": ROW, "inputs": inputs}, {"X-Request-ID": "bug-1"}
    with TestClient(app.create_app(Settings()), raise_server_exceptions=False) as client:
        reply = client.post(url, json=body, headers=headers)
    assert (reply.status_code, reply.headers["X-Request-ID"]) == (500, "bug-1")
    assert reply.json() == {"error": "the service has failed on this request; its log says how"}
    with TestClient(app.create_app(Settings())) as client, pytest.raises(Failed):
        client.post(url, json=body)


@pytest.mark.parametrize("url", ["/inferir", "/v2/models/digits/infer"])
def test_a_model_that_answers_with_something_not_finite_gets_500_and_a_line_in_the_log(path, monkeypatch, caplog, url):
    serve(monkeypatch, lambda rows: np.full((len(rows), 10), np.nan, dtype=np.float32))
    inputs = [{"name": "features", "shape": [1, 64], "datatype": "FP32", "data": ROW}]
    with TestClient(app.create_app(Settings())) as client:
        reply = client.post(url, json={"features": ROW, "inputs": inputs})
    assert reply.status_code == 500
    assert "not finite" in reply.json()["error"]
    assert "not finite" in caplog.text


def test_a_plain_route_of_yours_has_errors_of_the_same_form(path, slow_model):
    asgi = app.create_app(Settings())

    @inner(asgi).get("/square")
    async def square(number: int) -> int:
        return number**2

    with TestClient(asgi) as client:
        assert client.get("/square?number=7").json() == 49
        reply = client.get("/square?number=seven")
    assert reply.status_code == 422
    assert reply.json()["error"].startswith("query.number: input should be a valid integer")
