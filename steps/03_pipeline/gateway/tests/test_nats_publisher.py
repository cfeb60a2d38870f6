"""Storage behind a message broker: what the gateway promises, and what it says when it cannot."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from brokers import Peer, wait_until
from fakes import FEATURES, MODEL
from queueing import QUEUED, ROW, post, storage_health


def test_a_result_is_queued_as_storage_would_take_it(queueing, peer):
    reply = queueing.post("/inferir", **ROW, headers={"X-Request-ID": "from-outside"}).json()
    assert reply["stored"] == QUEUED and "storage" not in reply
    assert list(reply["timings_ms"]) == ["inference", "storage", "total"]
    (message,) = peer.messages()
    assert message.subject == "results"
    assert message.headers["X-Request-ID"] == "from-outside"
    assert message.headers["Nats-Msg-Id"] == sha256(message.data).hexdigest()
    (result,) = json.loads(message.data)["results"]
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", result["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", result.pop("time"))
    assert result.pop("timings_ms") == {"inference": reply["timings_ms"]["inference"]}
    assert result == {
        "id": reply["id"],
        "request_id": "from-outside",
        "features": [0.5] * 64,
        "prediction": 3,
        "probabilities": [0.1] * 10,
        "model": MODEL,
        "preprocess": None,
    }


def test_many_clients_share_messages_and_each_result_is_in_one(queueing, peer):
    def send(number: int) -> str:
        answer = queueing.post("/inferir", **ROW, headers={"X-Request-ID": f"client-{number}"}).json()
        assert answer["stored"] == QUEUED
        return answer["id"]

    with ThreadPoolExecutor(32) as clients:
        ids = list(clients.map(send, range(200)))
    messages = peer.messages()
    assert 0 < len(messages) < 200
    assert sorted(result["id"] for result in peer.results()) == sorted(ids)
    named = [name for message in messages for name in message.headers["X-Request-ID"].split(",")]
    assert sorted(named) == sorted(f"client-{number}" for number in range(200))


def test_a_full_queue_is_reported_and_predictions_go_on(open_gateway, broker, peer):
    peer.make_stream(max_bytes=10_000)
    gateway = open_gateway(storage_url=broker.url)
    wait_until(lambda: post(gateway) != (QUEUED, None))
    assert post(gateway) == (False, "the broker cannot keep it: its queue is full")
    peer.purge()
    assert post(gateway) == (QUEUED, None)


def test_without_a_queue_storage_has_to_connect_first(open_gateway, broker, peer):
    gateway = open_gateway(storage_url=broker.url)
    why = "the broker has no queue for results yet: storage has to connect to it once"
    assert post(gateway) == (False, why)
    peer.make_stream("OTHER")  # which storage would not read
    assert post(gateway) == (False, "the broker cannot keep it: expected stream does not match")


@pytest.mark.parametrize("content", [b"hello", {}, [], {"error": {}}, {"error": "no"}, {"error": {"code": "x"}}, 7])
def test_an_acknowledgement_that_makes_no_sense_does_not_count(open_gateway, broker, peer, content):
    peer.answer("results", content, None)
    stored, why = post(open_gateway(storage_url=broker.url))
    assert stored is False and why.startswith("the broker ")


def test_a_message_that_the_broker_does_not_take_is_reported(open_gateway, absent_broker):
    absent_broker.settings = ["max_payload: 8KB"]
    absent_broker.start()
    peer = Peer(absent_broker.url)
    peer.make_stream()
    peer.close()
    gateway = open_gateway(storage_url=absent_broker.url)
    assert post(gateway) == (QUEUED, None)
    answer = gateway.post("/inferir", json={"features": [FEATURES] * 100}).json()
    assert answer["stored"] is False
    assert re.fullmatch(r"the broker takes no message of [\d,]+ bytes", answer["storage"])
    with ThreadPoolExecutor(16) as clients:  # a message that they share may be too large; then they are sent apart
        assert {*clients.map(lambda _: post(gateway), range(64))} == {(QUEUED, None)}


def test_the_history_and_the_health_come_from_storage_over_http(queueing, storage, broker):
    storage.answers["/results"] = lambda body: (200, {"results": [], "next": None})
    storage.answers["/results/summary"] = lambda body: (
        200,
        {"total": 1, "by_prediction": {"3": 1}, "by_model_version": {"b5e7": 1}},
    )
    assert queueing.get("/results?prediction=3", headers={"X-Request-ID": "from-outside"}).json()["results"] == []
    assert queueing.get("/results/summary").json()["by_prediction"] == {"3": 1}
    (path, headers, _), _ = storage.asked
    assert (path, headers["X-Request-ID"]) == ("/results?limit=20&prediction=3", "from-outside")
    wait_until(lambda: storage_health(queueing) == (True, None))
    assert queueing.get("/services").json()["storage"]["url"] == broker.url


def test_without_storage_results_are_queued_and_the_history_is_not_there(queueing, storage):
    storage.stop()
    assert post(queueing) == (QUEUED, None)
    for path in ("/results", "/results/summary"):
        reply = queueing.get(path)
        assert (reply.status_code, reply.json()) == (503, {"error": "storage cannot be reached"})
        assert reply.headers["Retry-After"] == "1"
    assert storage_health(queueing) == (False, "it cannot be reached")


def test_the_queue_is_in_the_metrics_and_absent_without_a_broker(queueing, broker, peer):
    def gauge(name: str) -> str | None:
        found = re.search(rf"^{name} (\S+)$", queueing.get("/metrics").text, re.MULTILINE)
        return found and found[1]

    for _ in range(3):
        post(queueing)
    wait_until(lambda: gauge("queue_messages") == "3.0")
    assert float(gauge("queue_bytes")) == peer.stream().state.bytes > 0
    peer.purge()
    wait_until(lambda: gauge("queue_messages") == "0.0")
    broker.kill()
    wait_until(lambda: gauge("queue_messages") is gauge("queue_bytes") is None)
