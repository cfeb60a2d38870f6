"""The consumer while its database or its broker is away, and when they come back."""

import os
import shutil
import signal
import socket
import time

import pytest
from asking import body, dead_letters, is_ready, listed
from brokers import Peer, wait_until
from nats.js.errors import APIError
from samples import result

import nats_consumer

UNREACHABLE = {"error": "the broker cannot be reached"}
NO_FOLDER = {"error": "the database cannot be used (unable to open database file): try again later"}
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")


def test_while_the_database_is_down_nothing_is_lost_and_retries_are_few(serve, broker, peer, tmp_path):
    folder = tmp_path / "disk"
    url = f"sqlite:///{folder.as_posix()}/results.db"
    with serve(broker, ready=False, database_url=url) as client:
        peer.wait_for_stream()
        peer.send(*(body(result(str(number))) for number in range(1500)), b"junk")
        wait_until(lambda: peer.consumer().num_redelivered > 0)
        begin, delivered = time.monotonic(), peer.consumer().delivered.consumer_seq
        assert client.get("/readyz").json() == NO_FOLDER
        wait_until(lambda: time.monotonic() > begin + 3)
        # What can be fetched at once, each second
        more, seconds = peer.consumer().delivered.consumer_seq - delivered, time.monotonic() - begin
        assert 0 < more <= nats_consumer.FETCH_MESSAGES * (seconds + 1)
        assert peer.stream().state.messages == 1501
        folder.mkdir()
        peer.wait_until_empty()
        assert client.get("/results/summary").json()["total"] == 1500
        assert [letter["reason"] for letter in dead_letters(client)] == ["the body is not JSON"]


def test_without_its_broker_the_service_starts_says_so_and_connects_when_it_comes(serve, absent_broker, caplog):
    with serve(absent_broker, ready=False) as client:
        assert client.get("/livez").status_code == 200
        reply = client.get("/readyz")
        assert (reply.status_code, reply.json(), reply.headers["Retry-After"]) == (503, UNREACHABLE, "1")
        assert client.post("/results", json={"results": [result("a")]}).status_code == 200
        wait_until(lambda: caplog.messages)
        absent_broker.start()
        wait_until(lambda: is_ready(client))
        peer = Peer(absent_broker.url)
        peer.send_results(result("b"))
        peer.wait_until_empty()
        peer.close()
        assert sorted(listed(client)) == ["a", "b"]
    told, recovered = caplog.messages
    assert told.startswith("the broker cannot be reached: ")
    assert recovered == "the broker can be used again"


def test_a_broker_that_is_killed_and_comes_back_is_used_again(storage, broker, peer, caplog):
    for number in range(3):
        peer.send_results(result(f"before-{number}"))
        broker.kill()
        wait_until(lambda: storage.get("/readyz").json() == UNREACHABLE)
        broker.start()
        wait_until(lambda: is_ready(storage))
        peer.send_results(result(f"after-{number}"))
        peer.wait_until_empty()
    assert len(listed(storage)) == 6
    assert is_ready(storage)
    assert len(caplog.messages) == 6  # lost and found, three times


def test_a_message_that_the_broker_kept_though_it_was_acknowledged_is_removed(serve, broker, peer):
    messages, kept = broker.folder / "data/jetstream/$G/streams/RESULTS/msgs", broker.folder / "kept"
    with serve(broker):
        peer.wait_for_stream()
    peer.send_results(result("a"))
    broker.stop()
    shutil.copytree(messages, kept)
    broker.start()
    with serve(broker):
        peer.wait_until_empty()
    broker.stop()
    shutil.rmtree(messages)
    shutil.move(kept, messages)
    broker.start()
    assert peer.stream().state.messages == 1
    with serve(broker) as client:
        peer.wait_until_empty()
        assert peer.consumer().delivered.consumer_seq == 1  # it was not delivered again
        peer.send_results(result("b"))
        peer.wait_until_empty()
        assert sorted(listed(client)) == ["a", "b"]


def test_a_broker_that_has_lost_all_its_data_gets_the_stream_again(storage, broker, peer):
    broker.kill()
    broker.forget()
    broker.start()
    peer.wait_for_stream()
    peer.send_results(result("a"))
    peer.wait_until_empty()
    assert listed(storage) == ["a"]


def test_a_stream_or_a_consumer_that_somebody_deletes_is_made_again(storage, peer):
    for delete in (
        lambda: peer.call(peer.jetstream.delete_consumer, "RESULTS", "storage"),
        lambda: peer.call(peer.jetstream.delete_stream, "RESULTS"),
    ):
        delete()
        peer.wait_for_stream()
        peer.send_results(result("a"))
        peer.wait_until_empty()
        wait_until(lambda: is_ready(storage))
    assert listed(storage) == ["a"]


@posix
def test_a_broker_that_hangs_is_noticed_and_used_again_when_it_does_not(storage, broker, peer):
    broker.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: storage.get("/readyz").json() == UNREACHABLE)
    finally:
        broker.process.send_signal(signal.SIGCONT)
    wait_until(lambda: is_ready(storage))
    wait_until(peer.is_connected)
    peer.send_results(result("a"))
    peer.wait_until_empty()
    assert listed(storage) == ["a"]


def test_a_broker_without_jetstream_is_named_as_such(serve, absent_broker):
    absent_broker.settings = ["max_payload: 4MB"]
    absent_broker.start()
    with serve(absent_broker, ready=False) as client:
        says = {"error": "the broker cannot be used (it has no JetStream)"}
        wait_until(lambda: client.get("/readyz").json() == says)


def test_a_queue_larger_than_the_brokers_disk_is_reported(serve, broker):
    with serve(broker, ready=False, max_queue_bytes=10**12) as client:
        wait_until(lambda: "insufficient storage" in client.get("/readyz").text)


def test_a_full_stream_refuses_and_takes_messages_again_when_it_is_drained(serve, broker, peer):
    with serve(broker, max_queue_bytes=100_000_000):
        peer.wait_for_stream()
    with serve(broker, max_queue_bytes=30_000):  # other settings are for the stream that is there, too
        wait_until(lambda: peer.stream().config.max_bytes == 30_000)
    sent = 0
    with pytest.raises(APIError, match="maximum bytes exceeded"):
        while True:
            peer.send_results(result(str(sent)))
            sent += 1
    assert sent == peer.stream().state.messages > 10
    with serve(broker, max_queue_bytes=30_000) as client:
        peer.wait_until_empty()
        assert client.get("/results/summary").json()["total"] == sent
        peer.send_results(result("more"))
        wait_until(lambda: "more" in listed(client))


def allow(broker, user: str, password: str) -> None:
    broker.settings.append(f'authorization {{user: "{user}", password: "{password}"}}')


def test_a_password_is_used_and_never_shown(serve, absent_broker, caplog):
    allow(absent_broker, "mé@er", "sword:fi/sh#")
    absent_broker.start()
    address = absent_broker.url.removeprefix("nats://")
    with serve(absent_broker, nats_url=f"nats://m%C3%A9%40er:sword%3Afi%2Fsh%23@{address}"):
        pass
    assert caplog.messages == []
    with serve(absent_broker, ready=False, nats_url=f"nats://me:swordfish@{address}") as client:
        # Why: Authorization Violation, or a reset, if the broker has closed the connection before that is read.
        wait_until(lambda: "cannot be reached: " in caplog.text)
        assert client.get("/readyz").json() == UNREACHABLE
    assert "sword" not in caplog.text


def test_any_broker_of_a_cluster_will_do(serve, broker, peer):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"nats://127.0.0.1:{free.getsockname()[1]}"
    with serve(broker, nats_url=f"{nobody}, {broker.url}") as client:
        peer.send_results(result("a"))
        wait_until(lambda: listed(client) == ["a"])
