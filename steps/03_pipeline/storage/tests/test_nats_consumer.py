"""Results through a message broker: stored once, or kept as dead letters, whatever ends in between."""

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from brokers import Peer, wait_until
from nats.aio.msg import Msg
from nats.js.errors import APIError
from samples import result
from starlette.testclient import TestClient

import app
import broker as connection
import nats_consumer
from database import Database
from settings import Settings, read_settings

UNREACHABLE = {"error": "the broker cannot be reached"}
NO_FOLDER = {"error": "the database cannot be used (unable to open database file): try again later"}
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")


@pytest.fixture(autouse=True)
def short_pulls(monkeypatch):
    """A service that leaves waits until its last pull has ended."""
    monkeypatch.setattr(nats_consumer, "PULL_SECONDS", 0.1)


@pytest.fixture
def serve(sqlite_url):
    """Return a context manager: a client of the service, which takes messages from a broker."""

    @contextmanager
    def serve(broker, ready: bool = True, **settings):
        settings = {"database_url": sqlite_url, "nats_url": broker.url, **settings}
        with TestClient(app.create_app(Settings(**settings))) as client:
            wait_until(lambda: is_ready(client) or not ready)
            yield client

    return serve


@pytest.fixture
def storage(serve, peer, broker):
    """A client of the service, before a broker."""
    with serve(broker) as client:
        yield client


def is_ready(client) -> bool:
    return client.get("/readyz").status_code == 200


def listed(client) -> list[str]:
    return [result["id"] for result in client.get("/results?limit=100").json()["results"]]


def dead_letters(client) -> list[dict]:
    return client.get("/dead-letters?limit=100").json()["dead_letters"]


def count(client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}_total "))


def body(*results) -> bytes:
    return json.dumps({"results": results}).encode()


# What becomes of a message


def test_a_message_is_stored_and_leaves_the_broker(url, serve, broker, peer):
    with serve(broker, database_url=url) as client:
        sent = result("7f3a.0", time="2026-05-04T12:30:00.250000Z")
        peer.send_results(sent, result("7f3a.1"))
        wait_until(lambda: len(listed(client)) == 2)
        assert client.get("/results").json()["results"][0] == sent
        peer.wait_until_empty()
        assert dead_letters(client) == []


def test_over_both_wires_a_result_is_stored_once(storage, peer):
    before = count(storage, "stored_results")
    assert storage.post("/results", json={"results": [result("a")]}).status_code == 200
    peer.send_results(result("a", prediction=4), result("b"), result("b"))
    peer.send_results(result("b"), result("c"))
    peer.wait_until_empty()
    assert sorted(listed(storage)) == ["a", "b", "c"]
    assert storage.get("/results?digit=4").json()["results"] == []
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


# Dead letters


@pytest.mark.parametrize(
    ("sent", "reasons", "stored"),
    [
        (b"", ["the body is not JSON"], []),
        (b"{", ["the body is not JSON"], []),
        (b"\x00\xff\xfe" * 1000, ["the body is not JSON"], []),
        (b"[" * 100_000, ["the body is not JSON"], []),
        (b'{"results": ' + b"[" * 100_000, ["the body is not JSON"], []),
        (b'{"results": [{"id": "\\ud800"}]}', ["the body is not JSON"], []),
        (b'{"results": [' + b"9" * 5000 + b"]}", ["a number in the body has too many digits"], []),
        (b"[]", ['the body must be a JSON object with a key "results"'], []),
        (b'"results"', ['the body must be a JSON object with a key "results"'], []),
        (b"{}", ["results is missing"], []),
        (b'{"results": []}', ["results must have at least 1 item"], []),
        (b'{"results": null}', ["results must be a valid array"], []),
        (b'{"results": {"a": 1, "b": 2}}', ["results must be a valid array"], []),
        (b'{"results": "ab"}', ["results must be a valid array"], []),
        (body(*[0] * 1025), ["results[0] must be an object"], []),
        (body(*[0] * 1_000_000), ["results[0] must be an object"], []),
        (body(None), ["results[0] must be an object"], []),
        (body({}), ["results[0].id is missing"], []),
        (body(result(request_id="a\0")), ["results[0].request_id must match pattern"], []),
        (body(result(features=[0] * 63)), ["results[0].features must have 64 numbers"], []),
        (body(result(prediction="3")), ["results[0].prediction must be a valid integer"], []),
        (
            body(result("a"), result("b", features=[float("nan")] * 64), 7, result("c"), result("d e")),
            [
                "results[0].features[0] must be less than or equal to 16",
                "results[0] must be an object",
                "results[0].id must match pattern",
            ],
            ["a", "c"],
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_result_is_kept_as_a_dead_letter_once_and_its_neighbours_are_stored(
    storage, peer, sent, reasons, stored
):
    before = count(storage, "dead_letters")
    peer.send(body(result("first")), sent, body(result("last")))
    peer.wait_until_empty()
    assert sorted(listed(storage)) == sorted([*stored, "first", "last"])
    letters = dead_letters(storage)
    assert len(letters) == len(reasons) == count(storage, "dead_letters") - before
    for letter, reason in zip(reversed(letters), reasons, strict=True):
        assert letter["reason"].startswith(reason)
        assert letter["subject"] == "results"
        if len(reasons) == 1:
            assert letter["size"] == len(sent)
            assert letter["body"] == sent[:1000].decode(errors="replace")
    assert peer.consumer().delivered.consumer_seq == 3  # nothing came again


def test_a_reason_that_quotes_what_cannot_be_stored_is_stored(url, serve, broker, peer):
    with serve(broker, database_url=url) as client:
        peer.send(body(result("a", timings_ms={"a\0\n": 1}), result("b")), X_Request_ID="a\0b")
        peer.wait_until_empty()
        assert listed(client) == ["b"]
        assert [letter["reason"] for letter in dead_letters(client)] == [
            "results[0].timings_ms.a?? must match pattern '^[A-Za-z0-9_.-]{1,64}$'"
        ]


def test_a_dead_letter_can_be_mended_and_sent_again(storage, peer):
    peer.send(body(result("a"), result("b", prediction=10)), X_Request_ID="7f3a,7f3b")
    peer.wait_until_empty()
    (letter,) = dead_letters(storage)
    assert letter["request_id"] == "7f3a,7f3b"
    assert letter["id"].startswith("1-") and letter["id"].endswith(".0")
    assert json.loads(letter["body"]) == {"results": [result("b", prediction=10)]}
    peer.send(letter["body"].replace('"prediction":10', '"prediction":1').encode())
    wait_until(lambda: sorted(listed(storage)) == ["a", "b"])


def test_pages_of_dead_letters_go_from_the_newest_to_the_oldest(url, serve, broker, peer):
    with serve(broker, database_url=url) as client:
        for number in range(7):
            peer.send(body(*[number] * 5))
        peer.wait_until_empty()
        found, query = [], "?limit=4"
        while query:
            page = client.get("/dead-letters" + query).json()
            found += [letter["body"] for letter in page["dead_letters"]]
            query = page["next"] and f"?limit=4&before={page['next']}"
        assert found == [json.dumps({"results": [6 - number // 5]}, separators=(",", ":")) for number in range(35)]
        assert len(client.get("/dead-letters").json()["dead_letters"]) == 20
        reply = client.get("/dead-letters?before=nowhere")
        says = "before: there is no dead letter with the id nowhere"
        assert (reply.status_code, reply.json()) == (422, {"error": says})


def test_a_result_that_only_the_database_refuses_is_a_dead_letter(serve, broker, peer, monkeypatch, caplog):
    insert = Database.insert

    def fussy_insert(self, rows):
        if any(row["id"] == "poison" for row in rows):
            raise ValueError("no check has foreseen this")
        insert(self, rows)

    monkeypatch.setattr(Database, "insert", fussy_insert)
    with serve(broker) as client:
        peer.send(body(result("a"), result("poison"), result("b")), body(result("c")))
        peer.wait_until_empty()
        assert sorted(listed(client)) == ["a", "b", "c"]
        (letter,) = dead_letters(client)
        assert letter["reason"] == "it cannot be stored: ValueError"
        assert json.loads(letter["body"])["results"][0]["id"] == "poison"
        assert "no check has foreseen this" in caplog.text


def test_headers_that_make_no_sense_hold_up_nobody(storage, broker, peer, caplog):
    headers = [
        b"NATS/1.0\r\nStatus: 404\r\n\r\n",  # as if the broker said so
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0",
        b"NATS/1.0 \xff\xfe\xff\r\n\r\n",
        b"\xff\x00",
        b"NATS/1.0\r\n\xff: \x00\xff\r\nX-Request-ID: a b\x00\xff\r\n\r\n",
    ]
    with socket.create_connection(("127.0.0.1", broker.port)) as raw:
        raw.sendall(b'CONNECT {"verbose":false,"headers":true,"protocol":1}\r\n')
        for number, header in enumerate(headers):
            for subject, content in (
                (b"results", body(result(str(number)))),
                (b"results", b"junk"),
                (b"storage.summary a.\xff", b""),  # where to send the answer
                (b"storage.results _INBOX.x", b"junk"),
            ):
                sizes = b"%d %d" % (len(header), len(header + content))
                raw.sendall(b"HPUB %s %s\r\n%s%s\r\n" % (subject, sizes, header, content))
        raw.sendall(b"PING\r\n")
        received = b""
        while b"PONG\r\n" not in received:
            received += raw.recv(4096)
        peer.send_results(result("last"))
        peer.wait_until_empty()
    assert sorted(listed(storage)) == [*map(str, range(len(headers))), "last"]
    assert [letter["reason"] for letter in dead_letters(storage)] == ["the body is not JSON"] * len(headers)
    assert peer.consumer().delivered.consumer_seq == 2 * len(headers) + 1
    assert is_ready(storage)
    assert peer.ask("storage.summary")[0] == "200"
    assert caplog.messages == []


# Requests


def test_requests_get_what_the_routes_answer(storage, peer):
    for number in range(5):
        peer.send_results(result(str(number), seconds=number, prediction=number % 2))
    peer.wait_until_empty()
    assert peer.ask("storage.summary") == ("200", storage.get("/results/summary").json())
    assert peer.ask("storage.ready") == ("200", {"status": "ready"})
    for query in (
        {},
        {"limit": 2},
        {"limit": 2, "before": "3", "digit": None},
        {"limit": 9, "before": None, "digit": 1},
    ):
        asked = {name: value for name, value in query.items() if value is not None}
        assert peer.ask("storage.results", json.dumps(query).encode()) == (
            "200",
            storage.get("/results", params=asked).json(),
        )


@pytest.mark.parametrize(
    ("question", "status", "sentence"),
    [
        (b"{", "400", "the body is not JSON"),
        (b"", "400", "the body is not JSON"),
        (b"7", "422", "the body must be a JSON object"),
        (b'{"limit": 0}', "422", "limit must be greater than or equal to 1"),
        (b'{"limit": 101}', "422", "limit must be less than or equal to 100"),
        (b'{"digit": 10}', "422", "digit must be less than 10"),
        (b'{"before": "/etc"}', "422", "before must match pattern"),
        (b'{"before": "nowhere"}', "422", "before: there is no result with the id nowhere"),
        (b"[" * 100_000, "400", "the body is not JSON"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_question_that_makes_no_sense_is_refused(storage, peer, question, status, sentence):
    answered, error = peer.ask("storage.results", question)
    assert (answered, list(error)) == (status, ["error"])
    assert error["error"].startswith(sentence)


def test_a_bug_is_answered_without_a_traceback(storage, peer, monkeypatch, caplog):
    monkeypatch.setattr(Database, "count", None)
    assert peer.ask("storage.summary") == ("500", {"error": "the service has failed on this request; its log says how"})
    assert "storage.summary has failed" in caplog.messages
    assert peer.ask("storage.ready")[0] == "200"


def test_requests_are_answered_while_another_one_takes_long(serve, broker, peer, monkeypatch):
    gate, begun = threading.Event(), threading.Event()

    def slow_count(self):
        begun.set()
        assert gate.wait(10)
        return []

    monkeypatch.setattr(Database, "count", slow_count)
    with serve(broker), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(peer.ask, "storage.summary")
        assert begun.wait(10)
        assert peer.ask("storage.results", b"{}")[0] == "200"
        gate.set()
        assert asked.result(10)[0] == "200"


def test_requests_beyond_what_can_wait_are_refused(serve, broker, peer, monkeypatch):
    monkeypatch.setattr("answers.MAX_TASKS", 1)
    gate, begun = threading.Event(), threading.Event()

    def slow_count(self):
        begun.set()
        assert gate.wait(10)
        return []

    monkeypatch.setattr(Database, "count", slow_count)
    with serve(broker), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(peer.ask, "storage.summary")
        assert begun.wait(10)
        too_many = {"error": "too many requests are waiting: try again in a second"}
        assert peer.ask("storage.results", b"{}") == ("503", too_many)
        gate.set()
        assert asked.result(10)[0] == "200"


# When something is not there


def test_while_the_database_is_down_nothing_is_lost_and_nobody_works_in_vain(serve, broker, peer, tmp_path):
    folder = tmp_path / "disk"
    url = f"sqlite:///{folder.as_posix()}/results.db"
    with serve(broker, ready=False, database_url=url) as client:
        peer.wait_for_stream()
        peer.send(*(body(result(str(number))) for number in range(1500)), b"junk")
        wait_until(lambda: peer.consumer().num_redelivered > 0)
        begin, delivered = time.monotonic(), peer.consumer().delivered.consumer_seq
        assert client.get("/readyz").json() == NO_FOLDER
        assert peer.ask("storage.ready") == ("503", NO_FOLDER)
        assert peer.ask("storage.results", b"{}") == ("503", NO_FOLDER)
        wait_until(lambda: time.monotonic() > begin + 3)
        # What can be fetched at once, each second
        more, seconds = peer.consumer().delivered.consumer_seq - delivered, time.monotonic() - begin
        assert 0 < more <= nats_consumer.PULL_MESSAGES * (seconds + 1)
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
    assert peer.ask("storage.ready")[0] == "200"
    assert len(caplog.messages) == 6  # lost and found, three times


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


def test_a_broker_without_jetstream_is_told_apart(serve, absent_broker):
    absent_broker.settings = ["max_payload: 4MB"]
    absent_broker.start()
    with serve(absent_broker, ready=False) as client:
        says = {"error": "the broker cannot be used (it has no JetStream)"}
        wait_until(lambda: client.get("/readyz").json() == says)


def test_a_queue_larger_than_the_brokers_disk_is_told(serve, broker):
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


def test_a_password_is_used_and_never_told(serve, absent_broker, caplog):
    allow(absent_broker, "mé@er", "sword:fi/sh#")
    absent_broker.start()
    address = absent_broker.url.removeprefix("nats://")
    with serve(absent_broker, nats_url=f"nats://m%C3%A9%40er:sword%3Afi%2Fsh%23@{address}"):
        pass
    assert caplog.messages == []
    with serve(absent_broker, ready=False, nats_url=f"nats://me:swordfish@{address}") as client:
        wait_until(lambda: "Authorization Violation" in caplog.text)
        assert client.get("/readyz").json() == UNREACHABLE
    assert "sword" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://me:swordfish@a",
        "me:swordfish@a:4222",
        "nats://me:swordfish@",
        "nats://me:swordfish@a:port",
        "nats://me:sword#fish@a",
        "nats://me:swordfish@a/path",
        "nats://me:swordfish@a,nats://b",
        "nats://me:swordfish@a,",
    ],
)
def test_a_broker_url_of_another_kind_ends_the_program_without_telling_a_password(monkeypatch, url):
    monkeypatch.setenv("NATS_URL", url)
    with pytest.raises(SystemExit, match="^NATS_URL: nats://host:port or nats://user:password@host:port is ") as ended:
        read_settings()
    assert "fish" not in str(ended.value)


def test_any_broker_of_a_cluster_will_do(serve, broker, peer):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"nats://127.0.0.1:{free.getsockname()[1]}"
    with serve(broker, nats_url=f"{nobody}, {broker.url}") as client:
        peer.send_results(result("a"))
        wait_until(lambda: listed(client) == ["a"])
