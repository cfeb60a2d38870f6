"""Claims over HTTP: an Idempotency-Key belongs to one request."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from asking import JSON, stored
from samples import result

KEY, REQUEST, OTHER = "0" * 64, "1" * 64, "2" * 64


def test_a_key_is_claimed_by_the_first_request_that_has_it(client):
    for _ in range(2):
        reply = client.post("/claims", json={"key": KEY, "request": REQUEST})
        assert (reply.status_code, reply.json()) == (200, {"claimed": True, "results": []})
    reply = client.post("/claims", json={"key": KEY, "request": OTHER})
    assert (reply.status_code, reply.json()) == (422, {"error": "this Idempotency-Key was used for another request"})
    assert client.post("/claims", json={"key": OTHER, "request": REQUEST}).status_code == 200


def test_of_requests_that_claim_a_key_at_once_one_gets_it(client):
    def claim(number: int) -> int:
        return client.post("/claims", json={"key": f"{number // 4:064x}", "request": f"{number % 4:064x}"}).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(claim, range(64)))
    assert [sorted(statuses[first : first + 4]) for first in range(0, 64, 4)] == [[200, 422, 422, 422]] * 16


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("", 400, "the body is not JSON"),
        ("[]", 422, 'the body must be a JSON object with a key "key"'),
        (json.dumps({"key": KEY}), 422, "request is missing"),
        (json.dumps({"key": "no digest", "request": REQUEST}), 422, "key must match pattern"),
        (json.dumps({"key": KEY, "request": REQUEST + "\n"}), 422, "request must match pattern"),
        (json.dumps({"key": KEY, "request": 1}), 422, "request must be a valid string"),
        (json.dumps({"key": KEY, "request": REQUEST, "id": "a b"}), 422, "id must match pattern"),
    ],
    ids=str,
)
def test_a_claim_that_makes_no_sense_is_refused(any_client, body, status, sentence):
    reply = any_client.post("/claims", content=body, headers=JSON)
    assert reply.status_code == status
    assert reply.json()["error"].startswith(sentence)


@pytest.mark.parametrize("ids", [["a"], ["a.0"], [f"a.{number}" for number in range(12)]], ids=len)
def test_a_claim_that_is_repeated_gets_what_was_stored_first(client, ids):
    claim = {"key": KEY, "request": REQUEST, "id": "a"}
    assert client.post("/claims", json=claim).json() == {"claimed": True, "results": []}
    first = [result(id, prediction=number, time="2026-05-04T12:00:00Z") for number, id in enumerate(ids)]
    stored(client, *first)
    stored(client, *(result(id, prediction="another") for id in ids))  # after the model has changed
    stored(client, result("ab"), result("a-0"), result("b.0"))
    assert client.post("/claims", json=claim).json() == {"claimed": True, "results": first}
    assert client.post("/claims", json=claim | {"request": OTHER}).status_code == 422
    assert client.post("/claims", json={"key": KEY, "request": REQUEST}).json()["results"] == []
