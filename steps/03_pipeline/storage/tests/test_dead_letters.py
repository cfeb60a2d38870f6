"""Messages that cannot be stored become dead letters, and hold up no other message."""

import json
import socket
import tracemalloc

import pytest
from asking import body, count, dead_letters, is_ready, listed
from brokers import wait_until
from samples import result

from database import Database
from dead_letters import sort

MIXED = body(result("a"), result("b", features=[float("nan")] * 64), 7, result("c"), result("d e"))
MIXED_REASONS = [
    "results[0].features[0] must be a finite number",
    "results[0] must be an object",
    "results[0].id must match pattern",
]


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
        (body(result(features=[])), ["results[0].features must have at least 1 number"], []),
        (body(result(prediction=None)), ["results[0].prediction must be a finite number"], []),
        (MIXED, MIXED_REASONS, ["a", "c"]),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_message_is_sorted_into_results_and_parts_with_a_reason(sent, reasons, stored):
    results, rejected = sort(sent)
    assert [each.id for each in results] == stored
    for part, reason in zip(rejected, reasons, strict=True):
        assert part.reason.startswith(reason)
        assert part.body == sent or len(reasons) > 1


def test_a_message_of_many_small_parts_costs_no_multiple_of_its_memory():
    tracemalloc.start()
    try:
        assert sort(b'{"results":[{"x":[' + b",".join([b'{"":{}}'] * 50_000) + b"]}]}")[1]
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_what_is_wrong_is_kept_as_dead_letters_once_and_its_neighbours_are_stored(storage, peer):
    before, junk = count(storage, "dead_letters"), b"\x00\xff\xfe" * 1000
    peer.send(body(result("first")), MIXED, junk, body(result("last")))
    peer.wait_until_empty()
    assert sorted(listed(storage)) == ["a", "c", "first", "last"]
    newest, *others = dead_letters(storage)
    assert (newest["size"], newest["body"]) == (len(junk), junk[:1000].decode(errors="replace"))
    assert len(others) + 1 == len(MIXED_REASONS) + 1 == count(storage, "dead_letters") - before
    for letter, reason in zip(reversed(others), MIXED_REASONS, strict=True):
        assert letter["reason"].startswith(reason)
        assert letter["subject"] == "results"
    assert peer.consumer().delivered.consumer_seq == 4  # nothing came again


def test_a_reason_that_quotes_what_cannot_be_stored_is_stored(url, serve, broker, peer):
    with serve(broker, database_url=url) as client:
        peer.send(body(result("a", timings_ms={"a\0\n": 1}), result("b")), X_Request_ID="a\0b")
        peer.wait_until_empty()
        assert listed(client) == ["b"]
        assert [letter["reason"] for letter in dead_letters(client)] == [
            "results[0].timings_ms.a?? must match pattern '^[A-Za-z0-9_.-]{1,64}$'"
        ]


def test_a_dead_letter_can_be_mended_and_sent_again(storage, peer):
    peer.send(body(result("a"), result("b", prediction=None)), X_Request_ID="7f3a,7f3b")
    peer.wait_until_empty()
    (letter,) = dead_letters(storage)
    assert letter["request_id"] == "7f3a,7f3b"
    assert letter["id"].startswith("1-") and letter["id"].endswith(".0")
    assert json.loads(letter["body"]) == {"results": [result("b", prediction=None)]}
    peer.send(letter["body"].replace('"prediction":null', '"prediction":1').encode())
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
    insert, calls = Database.insert, []

    def fussy_insert(self, rows):
        calls.append(len(rows))
        if any(row["id"] == "poison" for row in rows):
            raise ValueError("no check has foreseen this")
        insert(self, rows)

    monkeypatch.setattr(Database, "insert", fussy_insert)
    with serve(broker) as client:
        neighbours = [result(f"{number:02}") for number in range(60)]
        peer.send(body(*neighbours[:40], result("poison"), *neighbours[40:]), body(result("99")))
        peer.wait_until_empty()
        assert sorted(listed(client)) == [*(result["id"] for result in neighbours), "99"]
        assert len([rows for rows in calls if rows]) <= 15  # halved, instead of one by one
        (letter,) = dead_letters(client)
        assert letter["reason"] == "it cannot be stored: ValueError"
        assert json.loads(letter["body"])["results"][0]["id"] == "poison"
        assert "no check has foreseen this" in caplog.text


def test_headers_that_make_no_sense_hold_up_no_message(storage, broker, peer, caplog):
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
    assert caplog.messages == []
