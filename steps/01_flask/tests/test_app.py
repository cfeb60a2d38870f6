import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import flask
import numpy as np
import pytest

import app
import model
import train

SAMPLE = Path(__file__).parent.parent / "sample_request.json"


@pytest.fixture
def row() -> list[float]:
    return train.load_split()[1][0].tolist()


def test_the_sample_request_is_answered_with_its_digit(client):
    reply = client.post("/inferir", data=SAMPLE.read_bytes(), content_type="application/json")
    assert (reply.status_code, reply.json) == (200, {"prediction": [3]})


def test_every_held_out_digit_gets_the_answer_that_the_model_gives(client, model_dir):
    _, rows, _, labels = train.load_split()
    answers = [client.post("/inferir", json={"features": row.tolist()}).json["prediction"][0] for row in rows]
    assert answers == model.load(model_dir).predict(rows).tolist()
    assert sum(answers == labels) >= 441  # 98 % of 450


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        ([0] * 63, '"features" must be a list of 64 numbers'),
        ([[0] * 64], '"features" must be a list of 64 numbers'),
        ([0] * 63 + [17], "features[63] must be a number from 0 to 16, not 17.0"),
        ([0] * 63 + [-1], "features[63] must be a number from 0 to 16, not -1.0"),
        ([0] * 63 + [float("nan")], "features[63] must be a number from 0 to 16, not NaN"),
        ([None] + [0] * 63, "features[0] must be a number from 0 to 16, not null"),
        ([True] + [0] * 63, "features[0] must be a number from 0 to 16, not true"),
        (["1"] + [0] * 63, 'features[0] must be a number from 0 to 16, not "1"'),
    ],
)
def test_features_that_are_no_row_get_422_and_a_sentence(client, features, sentence):
    reply = client.post("/inferir", json={"features": features})
    assert (reply.status_code, reply.json) == (422, {"error": sentence})


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 900_000], ids=["empty", "cut off", "binary", "deep"])
def test_a_body_that_is_not_json_gets_400(client, body):
    reply = client.post("/inferir", data=body, content_type="application/json")
    assert (reply.status_code, reply.json) == (400, {"error": "the body is not JSON"})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_json_in_another_encoding_than_utf_8_gets_400(client, encoding):
    reply = client.post("/inferir", data=SAMPLE.read_text().encode(encoding), content_type="application/json")
    sentence = "the body is not in UTF-8: send JSON in UTF-8, without a byte order mark"
    assert (reply.status_code, reply.json) == (400, {"error": sentence})


def test_a_body_with_a_content_encoding_gets_415(client):
    for encoding, status in (("gzip", 415), ("identity, br", 415), ("Identity", 200)):
        headers = {"Content-Encoding": encoding}
        reply = client.post("/inferir", data=SAMPLE.read_bytes(), content_type="application/json", headers=headers)
        assert reply.status_code == status
        if status == 415:
            assert reply.json == {"error": "send the body as it is, without a Content-Encoding"}
            assert reply.headers["Accept-Encoding"] == "identity"


def test_a_number_too_long_for_python_is_outside_the_range(client):
    body = '{"features": [' + "9" * 5_000 + ", 0" * 63 + "]}"
    reply = client.post("/inferir", data=body, content_type="application/json")
    assert (reply.status_code, reply.json["error"][:26]) == (422, "features[0] must be a numb")


@pytest.mark.parametrize("limit", [2_000, 1_000_000])
def test_the_body_limit_is_exact_and_can_be_set(model_dir, monkeypatch, row, limit):
    monkeypatch.setenv("MAX_BODY_BYTES", str(limit))
    client = app.create_app(model_dir).test_client()
    body = json.dumps({"features": row}).ljust(limit)
    assert client.post("/inferir", data=body, content_type="application/json").status_code == 200
    reply = client.post("/inferir", data=body + " ", content_type="application/json")
    assert (reply.status_code, reply.json) == (413, {"error": f"the body is larger than {limit:,} bytes"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39, -1e39])
def test_without_bounds_a_number_still_has_to_fit_into_a_float32(client, monkeypatch, row, value):
    monkeypatch.setattr(app, "LEAST", -app.LARGEST)
    monkeypatch.setattr(app, "MOST", app.LARGEST)
    assert client.post("/inferir", json={"features": [app.LARGEST, *row[1:]]}).status_code == 200
    assert client.post("/inferir", json={"features": [value, *row[1:]]}).status_code == 422


def test_a_prediction_that_is_not_finite_gets_500_and_a_sentence(monkeypatch, row):
    estimator = SimpleNamespace(predict=lambda rows: np.array([np.nan]))
    monkeypatch.setattr(model, "load", lambda folder: estimator)
    reply = app.create_app().test_client().post("/inferir", json={"features": row})
    assert (reply.status_code, reply.json["error"][:44]) == (500, "the model's prediction is not a finite number"[:44])


def test_another_content_type_gets_415(client, row):
    reply = client.post("/inferir", data=json.dumps({"features": row}), content_type="text/plain")
    assert reply.status_code == 415
    assert "Content-Type: application/json" in reply.json["error"]


def test_without_a_model_the_service_runs_and_says_what_is_missing(tmp_path):
    client = app.create_app(tmp_path).test_client()
    assert client.get("/livez").status_code == 200
    for reply in (client.get("/readyz"), client.post("/inferir", json={"features": [0] * 64})):
        assert reply.status_code == 503
        assert "run `python train.py`" in reply.json["error"]


def test_a_ready_service_says_so(client):
    assert (client.get("/readyz").status_code, client.get("/readyz").json) == (200, {"status": "ready"})


@pytest.mark.parametrize(("method", "path", "status"), [("get", "/nowhere", 404), ("get", "/inferir", 405)])
def test_errors_of_the_framework_are_json_too(client, method, path, status):
    reply = client.open(path, method=method.upper())
    assert reply.status_code == status
    assert list(reply.json) == ["error"]


def test_a_bug_gets_500_without_a_traceback(model_dir, monkeypatch, row):
    def fail(body):
        raise RuntimeError("a secret")

    monkeypatch.setattr(app, "parse_row", fail)
    reply = app.create_app(model_dir).test_client().post("/inferir", json={"features": row})
    assert reply.status_code == 500
    assert list(reply.json) == ["error"]
    assert "secret" not in reply.text


@pytest.mark.parametrize("value", ["eighty", "99999", "-1", "80.0"])
def test_a_setting_that_is_no_such_number_ends_the_program_with_a_sentence(monkeypatch, value):
    monkeypatch.setenv("PORT", value)
    with pytest.raises(SystemExit, match=f"PORT must be a whole number up to 65,535, not '{value}'"):
        app.number_setting("PORT", 8000, most=65_535)


@pytest.mark.parametrize("host", ["x86_64-conda-linux-gnu", "192.0.2.1", "a" * 64])
def test_a_host_that_is_not_of_this_machine_ends_the_program_with_a_sentence(monkeypatch, host):
    monkeypatch.setenv("HOST", host)
    with pytest.raises(SystemExit, match=f"^HOST is '{host}': this machine cannot listen there"):
        app.host_setting()


@pytest.mark.parametrize(
    ("settings", "address"),
    [({}, ("127.0.0.1", 8000)), ({"HOST": "0.0.0.0", "PORT": "5000"}, ("0.0.0.0", 5000))],
    ids=["by default", "as in the article"],
)
def test_it_listens_where_the_settings_say(monkeypatch, settings, address):
    for name in ("HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    listened = []
    monkeypatch.setattr(flask.Flask, "run", lambda self, host, port: listened.append((host, port)))
    runpy.run_path(str(Path(app.__file__)), run_name="__main__")
    assert listened == [address]
