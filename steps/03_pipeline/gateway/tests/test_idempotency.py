"""A request that is sent again with its Idempotency-Key is stored once, whatever carries the results."""

import itertools
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import FEATURES, MODEL
from keyed import OTHER, ROW, TAKEN, send

PNG, JPEG = {"Content-Type": "image/png"}, {"Content-Type": "image/jpeg"}


def test_the_same_request_gets_the_same_id_again(keyed):
    first, second = (send(keyed.client, "order-66").json() for _ in range(2))
    assert first["stored"] == second["stored"] == keyed.promise
    assert first["id"] == second["id"] and re.fullmatch(r"[0-9a-f]{32}", first["id"])
    assert {result["id"] for result in keyed.recorded()} == {first["id"]}
    assert list(first["timings_ms"]) == ["storage", "inference", "total"]
    without = keyed.client.post("/inferir", json=ROW).json()
    other = send(keyed.client, "order-67").json()
    assert len({first["id"], without["id"], other["id"]}) == 3


def test_another_request_with_the_key_is_refused_before_anything_is_predicted(keyed, inference):
    first = send(keyed.client, "order-66").json()
    reply = send(keyed.client, "order-66", OTHER)
    assert (reply.status_code, reply.json()) == (422, TAKEN)
    assert len(inference.bodies("/inferir")) == 1
    assert [result["id"] for result in keyed.recorded()] == [first["id"]]


def test_a_picture_of_another_type_is_another_request(keyed, preprocess):
    first = send(keyed.client, "draw", b"a picture", PNG).json()
    assert send(keyed.client, "draw", b"a picture", PNG).json()["id"] == first["id"]
    for body, headers in ((b"a picture", JPEG), (b"a picturE", PNG), (ROW, ())):
        assert send(keyed.client, "draw", body, headers).json() == TAKEN
    assert len(preprocess.asked) == 1  # the second time, the answer was kept


def test_a_form_that_is_sent_again_is_the_same_request_whatever_its_boundary(keyed):
    def send_form(boundary: str, picture: bytes):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
        body = head.encode() + picture + f"\r\n--{boundary}--\r\n".encode()
        return send(keyed.client, "form", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}).json()

    first = send_form("one", b"a picture")
    assert first["id"] == send_form("two", b"a picture")["id"]
    assert send_form("two", b"another") == TAKEN


def test_the_results_of_a_batch_keep_their_ids(keyed):
    first, second = (send(keyed.client, "batch", {"features": [ROW["features"], FEATURES]}).json() for _ in range(2))
    assert first["id"] == second["id"]
    assert {result["id"] for result in keyed.recorded()} == {f"{first['id']}.0", f"{first['id']}.1"}


def test_of_many_at_once_with_a_new_key_all_get_the_same_id(keyed):
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda _: send(keyed.client, "rush").json(), range(16)))
    assert {reply["stored"] for reply in replies} == {keyed.promise}
    (own_id,) = {reply["id"] for reply in replies}
    assert {result["id"] for result in keyed.recorded()} == {own_id}


def test_of_different_requests_at_once_with_a_new_key_one_wins(keyed):
    def try_it(number: int):
        return send(keyed.client, "race", {"features": [number % 16] * 64})

    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(try_it, range(16)))
    (winner,) = [reply.json() for reply in replies if reply.status_code == 200]
    assert [reply.json() for reply in replies if reply.status_code != 200] == [TAKEN] * 15
    assert [result["id"] for result in keyed.recorded()] == [winner["id"]]


def change_model(inference, digit: int, version: str = "another") -> None:
    def predict(body: bytes) -> tuple[int, dict]:
        rows, model = len(json.loads(body)["features"]), {**MODEL, "version": version}
        return 200, {"prediction": [digit] * rows, "probabilities": [[0.2] * 10] * rows, "model": model}

    inference.answers["/inferir"] = predict


@pytest.mark.parametrize("body", [ROW, {"features": [ROW["features"], FEATURES]}], ids=["row", "batch"])
def test_after_the_model_has_changed_the_stored_answer_comes_back(keyed, inference, body):
    first = send(keyed.client, "order-66", body).json()
    change_model(inference, 8)
    second = send(keyed.client, "order-66", body).json()
    for name in ("prediction", "probabilities", "model", "id", "stored"):
        assert second[name] == first[name], name
    assert {result["prediction"] for result in keyed.recorded()} == {3}
    assert send(keyed.client, "order-67", body).json()["prediction"] == [8] * len(first["prediction"])


def test_a_picture_that_is_sent_again_gets_the_stored_features_though_preprocess_and_inference_are_gone(
    keyed, preprocess, inference
):
    first = send(keyed.client, "draw", b"a picture", PNG).json()
    preprocess.stop()
    inference.stop()
    second = send(keyed.client, "draw", b"a picture", PNG).json()
    assert second.pop("timings_ms").keys() == {"storage", "total"} and first.pop("timings_ms")
    assert second == first


def test_of_two_answers_at_once_both_clients_get_the_one_that_is_stored(keyed, inference):
    """Two models answer at the same time, before either answer is stored."""
    both, models = threading.Barrier(2), itertools.count()

    def predict(body: bytes) -> tuple[int, dict]:
        rows = len(json.loads(body)["features"])
        if rows == 1:  # else both requests share this call
            both.wait(10)
        return 200, {"prediction": [next(models) for _ in range(rows)], "model": MODEL}

    inference.answers["/inferir"] = predict
    with ThreadPoolExecutor(2) as clients:
        replies = list(clients.map(lambda _: send(keyed.client, "race").json(), range(2)))
    (answer,) = {(reply["prediction"][0], reply["id"], reply["stored"]) for reply in replies}
    first = keyed.recorded()[0]  # storage keeps the first of an id
    assert (first["prediction"], first["id"], keyed.promise) == answer
