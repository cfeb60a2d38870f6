"""A request that is sent again with its Idempotency-Key is stored once, whatever wire storage is at."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from brokers import wait_until
from starlette.testclient import TestClient

from conftest import FEATURES

ROW, OTHER = {"features": [0.5] * 64}, {"features": [1.5] * 64}
PNG, JPEG = {"Content-Type": "image/png"}, {"Content-Type": "image/jpeg"}
TAKEN = {"error": "this Idempotency-Key was used for another request"}
UNFIT = {"error": "send one Idempotency-Key, of 1 to 128 visible ASCII characters"}


class Wire(NamedTuple):
    gateway: TestClient
    recorded: Callable[[], list[dict]]  # results that have reached storage, or the broker
    promise: bool | str


@pytest.fixture(params=["rest", "nats"])
def wire(request, open_gateway) -> Wire:
    if request.param == "rest":
        storage = request.getfixturevalue("storage")
        calls = lambda: [json.loads(body)["results"] for body in storage.bodies("/results")]  # noqa: E731
        return Wire(open_gateway(deadline_seconds=4), lambda: [each for call in calls() for each in call], True)
    broker, peer = (request.getfixturevalue(name) for name in ("broker", "peer"))
    peer.make_stream()
    return Wire(open_gateway(storage_url=broker.url, deadline_seconds=4), peer.results, "queued")


def send(gateway: TestClient, key: str | bytes, body=ROW, headers=()):
    asked = {"content": body} if isinstance(body, bytes) else {"json": body}
    return gateway.post("/inferir", **asked, headers={**dict(headers), "Idempotency-Key": key})


def test_the_same_request_gets_the_same_id_again(wire):
    first, second = (send(wire.gateway, "order-66").json() for _ in range(2))
    assert first["stored"] == second["stored"] == wire.promise
    assert first["id"] == second["id"] and re.fullmatch(r"[0-9a-f]{32}", first["id"])
    assert {result["id"] for result in wire.recorded()} == {first["id"]}
    assert list(first["timings_ms"]) == ["storage", "inference", "total"]
    without = wire.gateway.post("/inferir", json=ROW).json()
    other = send(wire.gateway, "order-67").json()
    assert len({first["id"], without["id"], other["id"]}) == 3


def test_another_request_with_the_key_is_refused_before_anything_is_predicted(wire, inference):
    first = send(wire.gateway, "order-66").json()
    reply = send(wire.gateway, "order-66", OTHER)
    assert (reply.status_code, reply.json()) == (422, TAKEN)
    assert len(inference.bodies("/inferir")) == 1
    assert [result["id"] for result in wire.recorded()] == [first["id"]]


def test_a_picture_of_another_type_is_another_request(wire, preprocess):
    first = send(wire.gateway, "draw", b"a picture", PNG).json()
    assert send(wire.gateway, "draw", b"a picture", PNG).json()["id"] == first["id"]
    for body, headers in ((b"a picture", JPEG), (b"a picturE", PNG), (ROW, ())):
        assert send(wire.gateway, "draw", body, headers).json() == TAKEN
    assert len(preprocess.asked) == 2


def test_a_form_that_is_sent_again_is_the_same_request_whatever_its_boundary(wire):
    def send_form(boundary: str, picture: bytes):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
        body = head.encode() + picture + f"\r\n--{boundary}--\r\n".encode()
        return send(wire.gateway, "form", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}).json()

    first = send_form("one", b"a picture")
    assert first["id"] == send_form("two", b"a picture")["id"]
    assert send_form("two", b"another") == TAKEN


def test_the_results_of_a_batch_keep_their_ids(wire):
    first, second = (send(wire.gateway, "batch", {"features": [ROW["features"], FEATURES]}).json() for _ in range(2))
    assert first["id"] == second["id"]
    assert {result["id"] for result in wire.recorded()} == {f"{first['id']}.0", f"{first['id']}.1"}


def test_of_many_at_once_with_a_new_key_all_get_the_same_id(wire):
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda _: send(wire.gateway, "rush").json(), range(16)))
    assert {reply["stored"] for reply in replies} == {wire.promise}
    (own_id,) = {reply["id"] for reply in replies}
    assert {result["id"] for result in wire.recorded()} == {own_id}


def test_of_different_requests_at_once_with_a_new_key_one_wins(wire):
    def try_it(number: int):
        return send(wire.gateway, "race", {"features": [number % 16] * 64})

    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(try_it, range(16)))
    (winner,) = [reply.json() for reply in replies if reply.status_code == 200]
    assert [reply.json() for reply in replies if reply.status_code != 200] == [TAKEN] * 15
    assert [result["id"] for result in wire.recorded()] == [winner["id"]]


def test_what_inference_could_not_answer_can_be_asked_again(wire, inference):
    inference.stop()
    assert send(wire.gateway, "again").status_code == 503
    inference.start()
    assert send(wire.gateway, "again").json()["stored"] == wire.promise


@pytest.mark.parametrize(
    "key",
    [b"", b" ", b"two words", b"a\tb", b"a\nb", b"a\x00b", b"a\x7f", "é".encode(), b"x" * 129, b"\xff"],
)
def test_a_key_that_is_none_is_refused(gateway, inference, key):
    reply = send(gateway, key)
    assert (reply.status_code, reply.json()) == (422, UNFIT)
    assert inference.asked == []


def test_two_keys_are_none(gateway, inference):
    for second in (b"a", b"b"):
        reply = gateway.post("/inferir", json=ROW, headers=[(b"Idempotency-Key", b"a"), (b"idempotency-key", second)])
        assert (reply.status_code, reply.json()) == (422, UNFIT)
    assert inference.asked == []


@pytest.mark.parametrize("key", ["!", "~" * 128, "a,b;c=d/e\\f{}$*>.", "../../etc/passwd", "';DROP/**/TABLE/**/x;--"])
def test_any_visible_characters_make_a_key(wire, key):
    first, second = (send(wire.gateway, key).json() for _ in range(2))
    assert first["id"] == second["id"] and first["stored"] == wire.promise


def test_a_request_that_cannot_be_read_uses_up_no_key(gateway, storage):
    assert send(gateway, "early", b"{", {"Content-Type": "application/json"}).status_code == 400
    assert send(gateway, "early", b"x", {"Content-Type": "text/plain"}).status_code == 415
    assert send(gateway, "early", {"features": [1]}).status_code == 422
    assert storage.asked == []
    assert send(gateway, "early").json()["stored"] is True


BROKEN = {
    "hanging up": lambda body: None,
    "text": lambda body: (200, b"hello"),
    "an empty object": lambda body: (200, {}),
    "no": lambda body: (200, {"claimed": False}),
    "a failure": lambda body: (500, {"error": "it has failed"}),
    "a refusal of another kind": lambda body: (400, {"error": "the body is not JSON"}),
    "no such route": lambda body: (404, {"error": "not found"}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_without_a_claim_the_prediction_is_answered_and_nothing_is_recorded(gateway, storage, how):
    storage.answers["/claims"] = BROKEN[how]
    reply = send(gateway, "broken")
    assert (reply.status_code, reply.json()["prediction"]) == (200, [3])
    assert reply.json()["stored"] is False and reply.json()["storage"]
    assert storage.bodies("/results") == []


def test_a_storage_that_hangs_costs_its_share_of_the_deadline_and_no_prediction(gateway, storage, hold):
    storage.answers["/claims"] = hold
    answer = send(gateway, "slow").json()
    assert (answer["prediction"], answer["stored"]) == ([3], False)
    assert answer["storage"] == "storage has not answered in time"
    assert storage.bodies("/results") == []


def test_without_a_broker_nothing_is_claimed_or_recorded(open_gateway, broker, peer):
    peer.make_stream()
    gateway = open_gateway(storage_url=broker.url, deadline_seconds=4)
    first = send(gateway, "order-66").json()
    broker.kill()
    answer = send(gateway, "order-66").json()
    assert (answer["prediction"], answer["stored"]) == ([3], False)
    assert answer["storage"] == "the broker cannot be reached"
    broker.start()
    wait_until(lambda: send(gateway, "order-66").json()["stored"] == "queued")
    assert send(gateway, "order-66").json()["id"] == first["id"]
    assert send(gateway, "order-66", OTHER).json() == TAKEN  # it outlives a kill


def test_the_broker_keeps_claims_for_a_day_on_its_disk(open_gateway, broker, peer):
    gateway = open_gateway(storage_url=broker.url, deadline_seconds=4)
    assert send(gateway, "order-66").json()["storage"].startswith("the broker has no queue")  # but claims are its own
    config = peer.stream("KV_claims").config
    assert (config.max_age, config.storage, config.max_msgs_per_subject) == (24 * 3600, "file", 1)


def test_a_broker_without_a_disk_keeps_no_claims(open_gateway, absent_broker):
    absent_broker.disk = ""
    absent_broker.start()
    answer = send(open_gateway(storage_url=absent_broker.url), "order-66").json()
    assert answer["prediction"] == [3]
    assert (answer["stored"], answer["storage"]) == (False, "the broker cannot keep it: it has no JetStream")


def test_the_manual_tells_of_the_key(gateway):
    manual = gateway.get("/openapi.json").json()
    (parameter,) = manual["paths"]["/inferir"]["post"]["parameters"]
    assert (parameter["name"], parameter["in"], "required" in parameter) == ("Idempotency-Key", "header", False)
    assert re.fullmatch(parameter["schema"]["pattern"], "order-66")
    stored = manual["components"]["schemas"]["PipelineResponse"]["properties"]["stored"]
    assert {"type": "boolean"} in stored["anyOf"] and {"type": "string", "const": "queued"} in stored["anyOf"]
