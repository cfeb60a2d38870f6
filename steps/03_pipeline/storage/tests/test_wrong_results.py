"""What POST /results refuses, with which sentence."""

import json
import time

import pytest
from asking import JSON, listed
from samples import result

DAMAGED = object()
PREDICTION = "results[1].prediction must be a finite number, or text of at most 200 characters"


def with_value(place: str, value) -> dict:
    """A result with another value at a place such as "model.version", or with none there if it is DAMAGED."""
    damaged = inside = result()
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in path:
        inside = inside[part]
    if value is DAMAGED:
        del inside[last]
    else:
        inside[last] = value
    return damaged


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("id", DAMAGED, "results[1].id is missing"),
        ("id", "a b", "results[1].id must match pattern"),
        ("id", "", "results[1].id must match pattern"),
        ("id", "a" * 65, "results[1].id must match pattern"),
        ("id", "a\n", "results[1].id must match pattern"),
        ("id", 7, "results[1].id must be a valid string"),
        ("request_id", "a" * 129, "results[1].request_id must have at most 128 characters"),
        ("request_id", "a\0", "results[1].request_id must match pattern"),
        ("time", "2026-05-04T12:00:00", "results[1].time must have timezone info"),
        ("time", "noon", "results[1].time must be ISO 8601 with a zone"),
        ("time", "2026-13-04T12:00:00Z", "results[1].time must be a valid datetime"),
        ("time", 1_777_777_777, "results[1].time must be ISO 8601 with a zone"),
        ("time", "1777777777", "results[1].time must be ISO 8601 with a zone"),
        ("time", "0001-01-01T00:00:00+14:00", "results[1].time must be in the years 1 to 9999 of UTC"),
        ("features", [], "results[1].features must have at least 1 number"),
        ("features", [0] * 4097, "results[1].features must have at most 4,096 numbers"),
        ("features", "ink", "results[1].features must be a valid array"),
        ("features.63", float("inf"), "results[1].features[63] must be a finite number"),
        ("features.0", float("nan"), "results[1].features[0] must be a finite number"),
        ("features.0", True, "results[1].features[0] must be a valid number"),
        ("features.0", "1", "results[1].features[0] must be a valid number"),
        ("features.0", None, "results[1].features[0] must be a valid number"),
        ("prediction", float("nan"), PREDICTION),
        ("prediction", float("-inf"), PREDICTION),
        ("prediction", 10**400, PREDICTION),
        ("prediction", "x" * 201, PREDICTION),
        ("prediction", "a\0", PREDICTION),
        ("prediction", True, PREDICTION),
        ("prediction", None, PREDICTION),
        ("prediction", [7], PREDICTION),
        ("prediction", DAMAGED, "results[1].prediction is missing"),
        ("probabilities", [0.1] * 4097, "results[1].probabilities must have at most 4,096 numbers"),
        ("probabilities", DAMAGED, "results[1].probabilities is missing"),
        ("probabilities.3", float("inf"), "results[1].probabilities[3] must be a finite number"),
        ("model", None, "results[1].model must be an object"),
        ("model.version", "", "results[1].model.version must have at least 1 character"),
        ("preprocess", DAMAGED, "results[1].preprocess is missing"),
        ("timings_ms", {"a b": 1}, "results[1].timings_ms.a b must match pattern"),
        ("timings_ms", {"x": float("nan")}, "results[1].timings_ms.x must be a finite number"),
        ("timings_ms", {str(hop): 1 for hop in range(17)}, "results[1].timings_ms must be at most 16"),
    ],
    ids=str,
)
def test_a_wrong_result_gets_422_and_its_neighbour_is_not_stored(any_client, place, value, sentence):
    body = json.dumps({"results": [result("neighbour"), with_value(place, value)]})
    reply = any_client.post("/results", content=body, headers=JSON)
    assert reply.status_code == 422
    assert list(reply.json()) == ["error"]
    assert reply.json()["error"].startswith(sentence)
    assert listed(any_client) == []


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("{", 400, "the body is not JSON"),
        ("", 400, "the body is not JSON"),
        (r'{"results": [{"id": "\ud800"}]}', 400, "the body is not JSON"),
        ("[]", 422, 'the body must be a JSON object with a key "results"'),
        ("{}", 422, "results is missing"),
        ('{"results": []}', 422, "results must have at least 1 item"),
        ('{"results": {}}', 422, "results must be a valid array"),
        ('{"results": [7]}', 422, "results[0] must be an object"),
        ('{"results": [' + "9" * 5_000 + "]}", 422, "a number in the body has too many digits"),
    ],
    ids=str,
)
def test_a_body_without_a_list_of_results_is_refused(any_client, body, status, sentence):
    reply = any_client.post("/results", content=body, headers=JSON)
    assert reply.status_code == status
    assert reply.json()["error"].startswith(sentence)


def test_another_content_type_gets_415(any_client):
    assert any_client.post("/results", content="{}", headers={"Content-Type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("item", ["[]", "{}", '"x"', "null", "17"])
@pytest.mark.parametrize("place", ["results", "features", "timings_ms"])
def test_a_large_body_full_of_mistakes_is_refused_at_once(any_client, place, item):
    items = [item] * (1_000_000 // len(item + ","))
    if place == "timings_ms":
        wrong = "{" + ",".join(f'"{number}":{item}' for number, item in enumerate(items[:100_000])) + "}"
    else:
        wrong = "[" + ",".join(items) + "]"
    if place != "results":
        wrong = "[" + json.dumps(result(**{place: "WRONG"})).replace('"WRONG"', wrong) + "]"
    begin = time.process_time()
    reply = any_client.post("/results", content=f'{{"results": {wrong}}}', headers=JSON)
    assert reply.status_code in (413, 422)
    assert len(reply.json()["error"]) < 200
    assert time.process_time() - begin < 1
