"""Messages become results: each stored once, acknowledged when it is on disk."""

import threading
import time

import pytest
from asking import body, count, dead_letters, listed
from brokers import wait_until
from nats.aio.msg import Msg
from samples import result

import broker as connection
from database import Database


def test_a_message_is_stored_and_leaves_the_broker(url, serve, broker, peer):
    with serve(broker, database_url=url) as client:
        sent = result("7f3a.0", time="2026-05-04T12:30:00.250000Z")
        peer.send_results(sent, result("7f3a.1"))
        wait_until(lambda: len(listed(client)) == 2)
        assert client.get("/results").json()["results"][0] == sent
        peer.wait_until_empty()
        assert dead_letters(client) == []


def test_a_result_that_comes_over_http_and_by_message_is_stored_once(storage, peer):
    before = count(storage, "stored_results")
    assert storage.post("/results", json={"results": [result("a")]}).status_code == 200
    peer.send_results(result("a", prediction=4), result("b"), result("b"))
    peer.send_results(result("b"), result("c"))
    peer.wait_until_empty()
    assert sorted(listed(storage)) == ["a", "b", "c"]
    assert storage.get("/results?prediction=4").json()["results"] == []
    assert count(storage, "stored_results") - before == 3


def test_the_stream_is_as_durable_as_promised(storage, peer):
    config = peer.stream().config
    assert (config.name, config.subjects, config.storage) == ("RESULTS", ["results"], "file")
    assert (config.retention, config.discard, config.max_bytes) == ("workqueue", "new", 500_000_000)
    assert (config.duplicate_window, config.max_age, config.max_msgs) == (120, 0, -1)
    config = peer.consumer().config
    assert (config.durable_name, config.ack_policy) == ("storage", "explicit")
    assert (config.ack_wait, config.max_deliver) == (5, -1)


def test_a_message_is_acknowledged_when_its_results_are_on_disk_and_not_before(serve, broker, peer, monkeypatch):
    gate, begun, insert = threading.Event(), threading.Event(), Database.insert

    def slow_insert(self, rows):
        if rows:
            begun.set()
            assert gate.wait(10)
        insert(self, rows)

    monkeypatch.setattr(Database, "insert", slow_insert)
    with serve(broker) as client:
        peer.send_results(result("a"))
        assert begun.wait(10)
        assert (peer.stream().state.messages, peer.consumer().num_ack_pending) == (1, 1)
        assert listed(client) == []
        gate.set()
        peer.wait_until_empty()
        assert listed(client) == ["a"]


def test_a_message_whose_acknowledgement_is_lost_comes_again_and_is_stored_once(serve, broker, peer, monkeypatch):
    lost, ack = [], Msg.ack

    async def lose_first(self):
        if lost:
            return await ack(self)
        lost.append(self.metadata.sequence.stream)

    monkeypatch.setattr(Msg, "ack", lose_first)
    monkeypatch.setattr(connection, "ACK_SECONDS", 1)
    with serve(broker) as client:
        before = count(client, "stored_results"), count(client, "redelivered_messages")
        peer.send(body(result("a"), "no result"))
        peer.wait_until_empty()
        assert lost == [1]
        assert listed(client) == ["a"]
        assert [letter["reason"] for letter in dead_letters(client)] == ["results[0] must be an object"]
        after = count(client, "stored_results"), count(client, "redelivered_messages")
        assert (after[0] - before[0], after[1] - before[1]) == (1, 1)


def test_a_commit_that_takes_longer_than_the_broker_waits_is_acknowledged_all_the_same(
    serve, broker, peer, monkeypatch
):
    release, insert = threading.Event(), Database.insert

    def slow_insert(self, rows):
        if rows:
            assert release.wait(20)
        insert(self, rows)

    monkeypatch.setattr(Database, "insert", slow_insert)
    monkeypatch.setattr(connection, "ACK_SECONDS", 0.5)
    with serve(broker) as client:
        peer.send_results(result("a"))
        wait_until(lambda: peer.consumer().num_ack_pending)
        threading.Timer(1.5, release.set).start()
        peer.wait_until_empty()
        assert listed(client) == ["a"]


def test_messages_full_of_mistakes_do_not_keep_others_waiting(storage, peer):
    peer.send(*[body(*[0] * 1000)] * 20, body(result("last")))
    begin, longest = time.monotonic(), 0
    while listed(storage) != ["last"]:
        asked = time.monotonic()
        assert storage.get("/livez").status_code == 200
        longest = max(longest, time.monotonic() - asked)
        assert time.monotonic() < begin + 20
    assert longest < 3  # measured: 0.1
    assert len(dead_letters(storage)) == 100


def test_a_backlog_is_drained_in_shared_commits(serve, broker, peer):
    with serve(broker):
        pass  # makes the stream
    peer.send(*(body(result(str(number))) for number in range(3000)))
    with serve(broker) as client:
        begin = time.monotonic()
        peer.wait_until_empty()
        took = time.monotonic() - begin
        assert client.get("/results/summary").json()["total"] == 3000
    assert took < 20  # measured: 0.9


@pytest.mark.parametrize("size", [1024, 1025])
def test_the_limit_of_results_is_that_of_a_request(storage, peer, size):
    peer.send(body(*(result(str(number)) for number in range(size))), body(result("next")))
    peer.wait_until_empty()
    assert storage.get("/results/summary").json()["total"] == (1025 if size == 1024 else 1)
    reasons = [letter["reason"] for letter in dead_letters(storage)]
    assert reasons == ([] if size == 1024 else ["a request has at most 1,024 results: send several requests"])


def test_many_large_messages_do_not_overflow_the_queue_of_the_writer(serve, broker, peer):
    room = 2  # a row's for a probe, and one for a message, of whatever size
    with serve(broker, max_write_queue=room):
        pass
    peer.send(*(body(*(result(f"{message}-{number}") for number in range(700))) for message in range(9)))
    with serve(broker, max_write_queue=room) as client:
        peer.wait_until_empty()
        assert client.get("/results/summary").json()["total"] == 6300
        assert peer.consumer().delivered.consumer_seq == 9  # none came twice
