"""Storing, listing and counting over HTTP."""

import json

import pytest
from asking import JSON, listed, stored
from samples import result
from starlette.testclient import TestClient

import app
from settings import Settings


def test_a_stored_result_is_listed_as_it_was_sent(client):
    sent = result("7f3a.0", preprocess=None, time="2026-05-04T14:30:00.250000+02:00")
    reply = stored(client, sent)
    assert (reply.status_code, reply.json()) == (200, {"stored": 1, "all_new": True})
    reply = client.get("/results")
    assert reply.status_code == 200
    assert reply.json() == {"results": [sent | {"time": "2026-05-04T12:30:00.250000Z"}], "next": None}


def test_a_result_that_is_stored_already_counts_as_stored_and_stays_as_it_is(client):
    first, other = result("a", prediction=1), result("a", prediction=2)
    assert stored(client, first, other).json() == {"stored": 2, "all_new": False}
    assert stored(client, other, result("b")).json() == {"stored": 2, "all_new": False}
    assert {found["id"]: found["prediction"] for found in client.get("/results").json()["results"]} == {"a": 1, "b": 3}


def test_pages_go_from_the_newest_to_the_oldest(client):
    stored(client, *(result(f"{number:02}", seconds=number // 4) for number in range(45)))
    ids, query = [], "?limit=7"
    while query:
        page = client.get("/results" + query).json()
        ids += [result["id"] for result in page["results"]]
        query = page["next"] and f"?limit=7&before={page['next']}"
    assert ids == [f"{number:02}" for number in reversed(range(45))]
    assert listed(client, "") == ids[:20]
    assert listed(client, "?limit=100") == ids


def test_the_list_of_a_prediction_has_only_that_prediction(client):
    stored(client, *(result(str(number), seconds=number, prediction=number % 3) for number in range(9)))
    assert listed(client, "?prediction=2") == ["8", "5", "2"]
    assert listed(client, "?prediction=2&limit=1&before=8") == ["5"]
    assert listed(client, "?prediction=7") == []
    assert listed(client, "?prediction=2.0") == ["8", "5", "2"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("limit=0", "query.limit: input should be greater than or equal to 1"),
        ("limit=101", "query.limit: input should be less than or equal to 100"),
        ("limit=many", "query.limit: input should be a valid integer"),
        ("prediction=" + "a" * 201, "query.prediction: string should have at most 200 characters"),
        ("prediction=%00", "query.prediction: string should match pattern"),
        ("before=nowhere", "before: there is no result with the id nowhere"),
        ("before=/etc", "query.before: string should match pattern"),
    ],
)
def test_a_list_that_makes_no_sense_gets_422(any_client, query, sentence):
    reply = any_client.get(f"/results?{query}")
    assert reply.status_code == 422
    assert reply.json()["error"].startswith(sentence)


def test_the_summary_counts_by_prediction_and_by_model_version(client):
    assert client.get("/results/summary").json()["total"] == 0
    new = {"version": "new", "format": "onnx"}
    stored(client, result("a"), result("b", model=new), result("c", model=new, prediction=0), result("c"))
    summary = client.get("/results/summary").json()
    assert summary == {
        "total": 3,
        "by_prediction": {"0": 1, "3": 2},
        "by_model_version": {"b5e7a46e61b8": 1, "new": 2},
    }


def test_a_whole_number_may_be_written_with_a_point(client):
    assert stored(client, result(prediction=3.0)).status_code == 200
    assert listed(client, "?prediction=3") == ["one"]


@pytest.mark.parametrize("count", [1024, 1025])
def test_the_limit_of_results_is_exact(client, count):
    reply = stored(client, *(result(str(number)) for number in range(count)))
    assert reply.status_code == (200 if count == 1024 else 413)
    if count > 1024:
        assert reply.json() == {"error": "a request has at most 1,024 results: send several requests"}
    assert client.get("/results/summary").json()["total"] == (1024 if count == 1024 else 0)


def test_a_body_with_a_content_encoding_gets_415(client):
    reply = client.post("/results", json={"results": [result()]}, headers={"Content-Encoding": "gzip"})
    assert (reply.status_code, reply.headers["Accept-Encoding"]) == (415, "identity")
    assert reply.json() == {"error": "send the body as it is, without a Content-Encoding"}


def test_the_limit_of_bytes_is_exact(sqlite_url):
    body = json.dumps({"results": [result()]}).ljust(5_000)
    with TestClient(app.create_app(Settings(database_url=sqlite_url, max_write_bytes=5_000))) as client:
        assert client.post("/results", content=body, headers=JSON).status_code == 200
        reply = client.post("/results", content=body + " ", headers=JSON)
    assert (reply.status_code, reply.json()) == (413, {"error": "the body is larger than 5,000 bytes"})


@pytest.mark.parametrize(
    ("prediction", "text"),
    [
        (7, "7"),
        (-2.5, "-2.5"),
        (1e-9, "1e-09"),
        (1.5e300, "1.5e+300"),
        (2**63 - 1, "9223372036854775807"),
        ("setosa", "setosa"),
        ("7", "7"),
        ("", ""),
        ('é "quoted"\n', 'é "quoted"\n'),
        ("x" * 200, "x" * 200),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_prediction_is_a_number_or_text_and_stays_what_it_is(client, prediction, text):
    """Whatever the model: storage knows none."""
    sent = result(features=[-1e30, 0.5], prediction=prediction, probabilities=None)
    assert stored(client, sent).status_code == 200
    (listed,) = client.get("/results", params={"prediction": text}).json()["results"]
    assert [listed[key] for key in ("features", "prediction", "probabilities")] == [[-1e30, 0.5], prediction, None]
    assert type(listed["prediction"]) is type(prediction)
    assert client.get("/results/summary").json()["by_prediction"] == {text: 1}


@pytest.mark.parametrize("count", [1, 4096])
def test_features_and_probabilities_may_be_as_long_as_a_model_has_them(client, count):
    sent = result(features=[0.5] * count, probabilities=[1e-9] * count)
    assert stored(client, sent).status_code == 200
    (listed,) = client.get("/results").json()["results"]
    assert (listed["features"], listed["probabilities"]) == (sent["features"], sent["probabilities"])


def test_the_summary_has_numbers_in_their_order_and_then_text(client):
    predictions = ["virginica", 10, "setosa", 2.5, -1, "3", 3]
    stored(client, *(result(str(number), prediction=value) for number, value in enumerate(predictions)))
    summary = client.get("/results/summary").json()["by_prediction"]
    assert list(summary.items()) == [("-1", 1), ("2.5", 1), ("3", 2), ("10", 1), ("setosa", 1), ("virginica", 1)]


def test_the_summary_has_the_100_most_frequent_predictions_of_a_regressor(client):
    values = [number / 7 for number in range(150)]
    stored(client, *(result(f"{number}", prediction=value) for number, value in enumerate([*values, values[149]])))
    summary = client.get("/results/summary").json()
    assert (summary["total"], len(summary["by_prediction"])) == (151, 100)
    assert summary["by_prediction"][str(values[149])] == 2
