"""Calls over REST that are repeated, and replicas that take turns."""

import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic

import pytest
from brokers import wait_until
from fakes import Fake, extract

from conftest import DEADLINE
from test_faults import assert_unavailable

PICTURE = {"content": b"a picture", "headers": {"Content-Type": "image/png"}}
ROW = {"json": {"features": [0.5] * 64}}


def test_a_call_that_was_cut_is_repeated_with_the_same_id(gateway, storage):
    answers = iter([None, None, storage.answers["/results"]])  # hang up twice

    def twice_cut(body: bytes):
        answer = next(answers)
        return answer and answer(body)

    storage.answers["/results"] = twice_cut
    answer = gateway.post("/inferir", **ROW).json()
    assert answer["stored"] is True
    bodies = storage.bodies("/results")
    assert len(bodies) == 3
    assert {json.loads(body)["results"][0]["id"] for body in bodies} == {answer["id"]}


def test_a_refusal_is_not_repeated(gateway, preprocess):
    preprocess.answers["/features"] = lambda body: (503, {"error": "too many pictures wait"})
    assert_unavailable(gateway.post("/inferir", **PICTURE), "preprocess cannot help: too many pictures wait")
    assert len(preprocess.asked) == 1


def test_an_answer_of_a_replica_is_no_failed_attempt(open_gateway, preprocess):
    preprocess.answers["/features"] = lambda body: (503, {"error": "too many pictures wait"})
    gateway = open_gateway(preprocess_url=f"{preprocess.url},{preprocess.url.replace('127.0.0.1', 'localhost')}")
    counted = 'failed_attempts_total{service="preprocess"}'

    def failed() -> list[str]:
        return [line for line in gateway.get("/metrics").text.splitlines() if line.startswith(counted)]

    before = failed()
    assert_unavailable(gateway.post("/inferir", **PICTURE), "preprocess cannot help: too many pictures wait")
    assert failed() == before


def test_a_call_that_is_always_cut_is_made_three_times_with_waits_between(gateway, preprocess):
    preprocess.answers["/features"] = lambda body: None  # hang up
    begin = monotonic()
    assert_unavailable(gateway.post("/inferir", **PICTURE), "preprocess cannot be reached")
    assert len(preprocess.asked) == 3
    assert 0.06 <= monotonic() - begin


def test_replicas_take_turns_and_one_that_is_gone_is_passed_over(open_gateway, preprocess):
    other = Fake(**{"/features": extract})
    try:
        gateway = open_gateway(preprocess_url=f"{preprocess.url}, {other.url}")
        for _ in range(10):
            assert gateway.post("/inferir", **PICTURE).status_code == 200
        assert len(preprocess.asked) == len(other.asked) == 5
        other.stop()
        with ThreadPoolExecutor(16) as clients:  # who take turns with each other, too
            replies = list(clients.map(lambda _: gateway.post("/inferir", **PICTURE), range(200)))
        assert {reply.status_code for reply in replies} == {200}
        health = gateway.get("/services").json()["preprocess"]
        assert health["ready"] is True and health["reason"] == f"{other.url}: it cannot be reached"
    finally:
        other.stop()


def test_readers_of_a_slow_history_take_no_connection_from_results(open_gateway, storage):
    answered = threading.Event()
    storage.answers["/results/summary"] = lambda body: answered.wait(30) and None  # hang up, in the end
    gateway = open_gateway(deadline_seconds=30, connect_seconds=10)
    with ThreadPoolExecutor(120) as readers:
        reading = [readers.submit(gateway.get, "/results/summary") for _ in range(120)]
        try:
            wait_until(lambda: len(storage.asked) >= 100, 30)
            assert gateway.post("/inferir", **ROW).json()["stored"] is True
        finally:
            answered.set()
    assert {reader.result().status_code for reader in reading} == {503}


def test_a_replica_that_hangs_costs_one_request_a_second(open_gateway, preprocess, hold):
    other = Fake(**{"/features": hold})
    try:
        gateway = open_gateway(preprocess_url=f"{other.url},{preprocess.url}", deadline_seconds=DEADLINE)
        assert {gateway.post("/inferir", **PICTURE).status_code for _ in range(2)} == {200, 503}
        begin = monotonic()
        with ThreadPoolExecutor(4) as clients:
            replies = list(clients.map(lambda _: gateway.post("/inferir", **PICTURE), range(400)))
        late = [reply for reply in replies if reply.status_code == 503]
        assert len(late) <= monotonic() - begin + 1
    finally:
        other.stop()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"error": "it is not fit"}, "preprocess cannot help: it is not fit"),
        (b"<h1>no server</h1>", "preprocess has given an answer that makes no sense"),  # from a proxy in front of it
    ],
    ids=["the service", "a proxy"],
)
def test_a_replica_that_says_503_is_passed_over(open_gateway, preprocess, body, sentence):
    other = Fake(**{"/features": lambda _: (503, body)})
    try:
        gateway = open_gateway(preprocess_url=f"{other.url},{preprocess.url}")
        for _ in range(10):
            assert gateway.post("/inferir", **PICTURE).status_code == 200
        preprocess.answers["/features"] = other.answers["/features"]
        assert_unavailable(gateway.post("/inferir", **PICTURE), sentence)
    finally:
        other.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses connections")
def test_a_replica_that_does_not_take_connections_is_passed_over(open_gateway, preprocess):
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # they are not accepted, so the queue is full, and further ones get no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        gateway = open_gateway(preprocess_url=f"http://127.0.0.1:{deaf.getsockname()[1]},{preprocess.url}")
        for _ in range(10):
            assert gateway.post("/inferir", **PICTURE).status_code == 200
