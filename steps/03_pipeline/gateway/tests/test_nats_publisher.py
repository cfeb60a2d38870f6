"""Storage behind a message broker: what the gateway promises, and what it says when it cannot."""

import json
import logging
import os
import re
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from time import monotonic

import pytest
from brokers import Peer, Way, wait_until
from nats.aio.client import Client
from pydantic import ValidationError

from conftest import DEADLINE, FEATURES, MODEL
from settings import Settings, read_settings

SECONDS = 4  # a quarter of it for the broker's disk, which may be slow
ROW = {"json": {"features": [0.5] * 64}}
QUEUED, UNREACHABLE, LATE = "queued", "the broker cannot be reached", "the broker has not acknowledged it in time"
LISTED = {
    "id": "a",
    "request_id": "b",
    "time": "2026-11-23T12:00:00Z",
    "features": FEATURES,
    "prediction": 3,
    "probabilities": [0.1] * 10,
    "model": MODEL,
    "preprocess": None,
    "timings_ms": {"inference": 1.0},
}
PERSON = "mé@er", "ge:he/im#"  # and as they are in a URL:
LOGIN = "m%C3%A9%40er:ge%3Ahe%2Fim%23"


@pytest.fixture
def open_queueing(open_gateway):
    return partial(open_gateway, deadline_seconds=SECONDS)


@pytest.fixture
def queueing(open_queueing, broker, peer):
    """A gateway before a broker that storage has connected to once."""
    peer.make_stream()
    return open_queueing(storage_url=broker.url)


@pytest.fixture
def way(broker):
    way = Way(broker)
    yield way
    way.close()


def post(gateway, **more) -> tuple:
    """Send a row; return what the reply says of storing it, and why."""
    reply = gateway.post("/inferir", **ROW, **more)
    assert (reply.status_code, reply.json()["prediction"]) == (200, [3]), reply.text
    return reply.json()["stored"], reply.json().get("storage")


def storage_health(gateway) -> tuple:
    health = gateway.get("/services").json()["storage"]
    return health["ready"], health["reason"]


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


def test_a_gateway_starts_before_the_broker_and_finds_it(open_queueing, absent_broker, caplog):
    caplog.set_level(logging.INFO)
    gateway = open_queueing(storage_url=absent_broker.url)
    assert gateway.get("/livez").status_code == gateway.get("/readyz").status_code == 200
    assert post(gateway) == (False, UNREACHABLE)
    wait_until(lambda: storage_health(gateway) == (False, UNREACHABLE))
    reply = gateway.get("/results")
    assert (reply.status_code, reply.json()) == (503, {"error": UNREACHABLE})
    assert reply.headers["Retry-After"] == "1"
    begin = monotonic()
    assert post(gateway) == (False, UNREACHABLE)
    assert monotonic() - begin < 0.2 * SECONDS  # nobody waits for a broker that has been away for long

    absent_broker.start()
    peer = Peer(absent_broker.url)
    try:
        peer.make_stream()
        wait_until(lambda: post(gateway) == (QUEUED, None))
    finally:
        peer.close()
    told = [record.message for record in caplog.records if "the broker at" in record.message]
    assert len(told) == 2, told  # and not for each attempt
    assert told[0].startswith(f"the broker at {absent_broker.url} cannot be reached: ") and "connected" in told[1]


def test_a_broker_that_is_killed_again_and_again_keeps_all_that_it_has_acknowledged(queueing, broker, peer):
    promised, over = [], False

    def send() -> None:
        while not over:
            answer = queueing.post("/inferir", **ROW).json()
            assert answer["stored"] in (QUEUED, False) and answer["prediction"] == [3]
            if answer["stored"]:
                promised.append(answer["id"])

    with ThreadPoolExecutor(8) as clients:
        sending = [clients.submit(send) for _ in range(8)]
        for _ in range(4):
            known = len(promised)
            wait_until(lambda: len(promised) > known + 50)  # noqa: B023
            broker.kill()
            broker.start()
        over = True
        for sent in sending:
            sent.result(10)
    wait_until(lambda: post(queueing) == (QUEUED, None))
    kept = [result["id"] for result in peer.results()]
    assert set(promised) <= set(kept) and len(kept) == len(set(kept))


def test_what_was_under_way_when_the_connection_broke_is_sent_once_more_and_kept_once(open_queueing, peer, way):
    peer.make_stream()
    gateway = open_queueing(storage_url=way.url, deadline_seconds=20)
    assert post(gateway) == (QUEUED, None)
    way.back.clear()
    with ThreadPoolExecutor(1) as client:
        sent = client.submit(post, gateway)
        wait_until(lambda: peer.stream().state.messages == 2)  # but nobody knows
        way.cut()
        way.back.set()
        assert sent.result(10) == (QUEUED, None)
    assert peer.stream().state.messages == 2
    assert 'failed_attempts_total{service="storage"}' in gateway.get("/metrics").text


@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), ConnectionResetError("Connection lost")])
def test_a_connection_that_is_found_broken_by_who_writes_to_it_is_a_lost_one(
    open_queueing, peer, way, monkeypatch, error
):
    """nats-py lets the event loop's own errors through when its task that sends has ended before it knew."""
    peer.make_stream()
    gateway = open_queueing(storage_url=way.url, deadline_seconds=20)
    assert post(gateway) == (QUEUED, None)
    broken, flush = set(), Client._flush_pending

    async def write(client: Client, *arguments, **options):
        if not broken or client in broken:
            broken.add(client)
            way.cut()
            raise error
        return await flush(client, *arguments, **options)

    monkeypatch.setattr(Client, "_flush_pending", write)
    assert post(gateway) == (QUEUED, None)


def test_a_broker_that_is_restarted_within_the_deadline_costs_nothing_but_time(open_queueing, broker, peer):
    peer.make_stream()
    gateway = open_queueing(storage_url=broker.url, deadline_seconds=20)
    assert post(gateway) == (QUEUED, None)
    broker.kill()
    with ThreadPoolExecutor(1) as client:
        sent = client.submit(post, gateway)
        broker.start()
        assert sent.result(10) == (QUEUED, None)


def test_a_broker_that_hangs_costs_its_share_of_the_deadline_and_no_prediction(open_queueing, peer, way):
    peer.make_stream()
    gateway = open_queueing(storage_url=way.url)
    assert post(gateway) == (QUEUED, None)
    way.back.clear()
    begin = monotonic()
    assert post(gateway) == (False, LATE)
    assert monotonic() - begin < 0.25 * SECONDS
    # In the end its pings get no answer either, and the connection is given up.
    wait_until(lambda: post(gateway) == (False, UNREACHABLE))
    way.back.set()
    wait_until(lambda: post(gateway) == (QUEUED, None))


def test_a_full_queue_is_told_and_predictions_go_on(open_queueing, broker, peer):
    peer.make_stream(max_bytes=10_000)
    gateway = open_queueing(storage_url=broker.url)
    wait_until(lambda: post(gateway) != (QUEUED, None))
    assert post(gateway) == (False, "the broker cannot keep it: its queue is full")
    peer.purge()
    assert post(gateway) == (QUEUED, None)


def test_without_a_queue_storage_has_to_connect_first(open_queueing, broker, peer):
    gateway = open_queueing(storage_url=broker.url)
    why = "the broker has no queue for results yet: storage has to connect to it once"
    assert post(gateway) == (False, why)
    peer.make_stream("OTHER")  # which storage would not read
    assert post(gateway) == (False, "the broker cannot keep it: expected stream does not match")


@pytest.mark.parametrize("content", [b"hello", {}, [], {"error": {}}, {"error": "no"}, {"error": {"code": "x"}}, 7])
def test_an_acknowledgement_that_makes_no_sense_is_none(open_queueing, broker, peer, content):
    peer.answer("results", content, None)
    stored, why = post(open_queueing(storage_url=broker.url))
    assert stored is False and why.startswith("the broker ")


def test_a_message_that_the_broker_does_not_take_is_told(open_queueing, absent_broker):
    absent_broker.settings = ["max_payload: 8KB"]
    absent_broker.start()
    peer = Peer(absent_broker.url)
    peer.make_stream()
    peer.close()
    gateway = open_queueing(storage_url=absent_broker.url)
    assert post(gateway) == (QUEUED, None)
    answer = gateway.post("/inferir", json={"features": [FEATURES] * 100}).json()
    assert answer["stored"] is False
    assert re.fullmatch(r"the broker takes no message of [\d,]+ bytes", answer["storage"])
    assert post(gateway) == (QUEUED, None)


def test_the_history_is_storages(queueing, peer):
    lists = peer.answer("storage.results", {"results": [LISTED], "next": "a"})
    counts = peer.answer("storage.summary", {"total": 1, "by_digit": {"3": 1}, "by_model_version": {"b5e7": 1}})
    reply = queueing.get("/results?digit=3&before=a%26b", headers={"X-Request-ID": "from-outside"})
    assert reply.json() == {"results": [LISTED], "next": "a"}
    assert queueing.get("/results/summary").json()["by_digit"] == {"3": 1}
    assert json.loads(lists[0].data) == {"limit": 20, "before": "a&b", "digit": 3}
    assert lists[0].headers["X-Request-ID"] == "from-outside"
    assert json.loads(counts[0].data) == {}


def test_the_health_is_storages(queueing, peer, broker):
    assert storage_health(queueing) == (False, "it cannot be reached")
    peer.answer("storage.ready", {"status": "ready"})
    assert storage_health(queueing) == (True, None)
    assert queueing.get("/services").json()["storage"]["url"] == broker.url


def test_without_storage_results_are_queued_and_the_history_is_not_there(queueing):
    assert post(queueing) == (QUEUED, None)
    for path in ("/results", "/results/summary"):
        reply = queueing.get(path)
        assert (reply.status_code, reply.json()) == (503, {"error": "storage cannot be reached"})
        assert reply.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("status", "content", "wanted", "says"),
    [
        (422, {"error": "no result has the id z"}, 422, "no result has the id z"),
        (503, {"error": "the disk is full"}, 503, "storage cannot help: the disk is full"),
        (500, {"error": "it has failed"}, 503, "storage cannot help: it has failed"),
        (200, b"hello", 503, "storage has given an answer that makes no sense"),
        (200, {}, 503, "storage has given an answer that makes no sense"),
        (200, b"", 503, "storage has given an answer that makes no sense"),
        (422, {}, 503, "storage has given an answer that makes no sense"),
        (503, [], 503, "storage has given an answer that makes no sense"),
        ("two", {"results": [], "next": None}, 503, "storage has given an answer that makes no sense"),
        (None, {"results": [], "next": None}, 503, "storage has given an answer that makes no sense"),
    ],
)
def test_what_storage_answers_is_passed_on_if_it_makes_sense(queueing, peer, status, content, wanted, says):
    peer.answer("storage.results", content, status)
    reply = queueing.get("/results")
    assert (reply.status_code, reply.json()) == (wanted, {"error": says})
    peer.answer("storage.ready", content, status)
    ready, reason = storage_health(queueing)
    told = content.get("error") if isinstance(content, dict) else None
    assert ready is (status == 200)
    assert reason == (None if ready else told or "it has given an answer that makes no sense")


def test_a_storage_that_hangs_is_not_waited_for_beyond_the_deadline(open_gateway, broker, peer):
    queueing = open_gateway(storage_url=broker.url)
    wait_until(lambda: storage_health(queueing) == (False, "it cannot be reached"))
    asked = peer.answer("storage.results", None)
    peer.answer("storage.ready", None)
    begin = monotonic()
    reply = queueing.get("/results")
    assert 0.5 * DEADLINE < monotonic() - begin < 2 * DEADLINE and len(asked) == 1
    assert (reply.status_code, reply.json()) == (503, {"error": "storage has not answered in time"})
    assert storage_health(queueing) == (False, "it has not answered in time")


def test_the_queue_is_in_the_metrics_and_unknown_without_a_broker(queueing, broker, peer):
    def gauge(name: str) -> str:
        return re.search(rf"^{name} (\S+)$", queueing.get("/metrics").text, re.MULTILINE)[1]

    for _ in range(3):
        post(queueing)
    wait_until(lambda: gauge("queue_messages") == "3.0")
    assert float(gauge("queue_bytes")) == peer.stream().state.bytes > 0
    peer.purge()
    wait_until(lambda: gauge("queue_messages") == "0.0")
    broker.kill()
    wait_until(lambda: gauge("queue_messages") == gauge("queue_bytes") == "NaN")


def allow(broker, name: str, password: str) -> None:
    broker.settings = [f'authorization {{user: "{name}", password: "{password}"}}']


def test_a_password_is_used_and_never_shown(open_queueing, absent_broker, caplog):
    caplog.set_level(logging.DEBUG)
    allow(absent_broker, *PERSON)
    absent_broker.start()
    gateway = open_queueing(storage_url=absent_broker.url.replace("//", f"//{LOGIN}@"))
    assert post(gateway)[1].startswith("the broker has no queue")  # says the broker
    services = gateway.get("/services")
    assert services.json()["storage"]["url"] == absent_broker.url
    absent_broker.kill()
    wait_until(lambda: post(gateway) == (False, UNREACHABLE))
    assert not re.search(r"ge\S{1,3}he\S{1,3}im", services.text + caplog.text)


def test_a_wrong_password_is_in_the_log_without_itself(open_queueing, absent_broker, caplog):
    allow(absent_broker, *PERSON)
    absent_broker.start()
    gateway = open_queueing(storage_url=absent_broker.url.replace("//", "//me:swordfish@"))
    assert post(gateway) == (False, UNREACHABLE)
    wait_until(lambda: "Authorization Violation" in caplog.text)
    assert "swordfish" not in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_broker_that_turns_the_gateway_away_for_a_while_is_asked_again(open_queueing, absent_broker):
    allow(absent_broker, *PERSON)
    absent_broker.start()
    gateway = open_queueing(storage_url=absent_broker.url.replace("//", f"//{LOGIN}@"))
    wait_until(lambda: "queue" in post(gateway)[1])
    for name, why in (("you", "cannot be reached"), (PERSON[0], "queue")):
        allow(absent_broker, name, PERSON[1])
        absent_broker.configure()
        os.kill(absent_broker.process.pid, signal.SIGHUP)
        wait_until(lambda: why in post(gateway)[1])  # noqa: B023


def test_any_broker_of_a_cluster_will_do(open_queueing, broker, peer):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"nats://127.0.0.1:{free.getsockname()[1]}"
    peer.make_stream()
    gateway = open_queueing(storage_url=f"{nobody}, {broker.url}")
    wait_until(lambda: post(gateway) == (QUEUED, None))
    assert gateway.get("/services").json()["storage"]["url"] == f"{nobody}, {broker.url}"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nats://me:swordfish@", "needed is"),
        ("nats://me:swordfish@a:port", "needed is"),
        ("nats://me:sword#fish@a", "needed is"),
        ("nats://me:swordfish@a/path", "needed is"),
        ("nats://me:swordfish@a,nats://b", "same user"),
        ("nats://a,http://b", "same wire"),
        ("http://me:swordfish@a", "no user"),
        ("http://:swordfish@a", "no user"),
    ],
)
def test_a_url_that_will_not_do_is_refused_without_its_password(monkeypatch, url, says):
    with pytest.raises(ValidationError) as refused:
        Settings(storage_url=url)
    assert says in str(refused.value) and "swordfish" not in str(refused.value)
    monkeypatch.setenv("STORAGE_URL", url)
    with pytest.raises(SystemExit) as ended:
        read_settings()
    assert str(ended.value).startswith("STORAGE_URL") and says in str(ended.value) and "fish" not in str(ended.value)


def test_a_user_is_for_the_broker_alone():
    assert Settings(storage_url="nats://me:swordfish@a, nats://me:swordfish@b:4223").storage_url
    with pytest.raises(ValidationError, match="needed is"):
        Settings(inference_url="nats://me:swordfish@a")
