"""Requests with an Idempotency-Key while a service is down."""

import pytest
from brokers import wait_until
from keyed import OTHER, TAKEN, send

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


def test_a_storage_that_hangs_costs_its_share_of_the_deadline_and_no_prediction(hurried, storage, hold):
    storage.answers["/claims"] = hold
    answer = send(hurried, "slow").json()
    assert (answer["prediction"], answer["stored"]) == ([3], False)
    assert answer["storage"] == "storage has not answered in time"
    assert storage.bodies("/results") == []


def test_without_a_broker_nothing_is_claimed_or_recorded(open_gateway, broker, peer):
    peer.make_stream()
    gateway = open_gateway(storage_url=broker.url)
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
    gateway = open_gateway(storage_url=broker.url)
    assert send(gateway, "order-66").json()["storage"].startswith("the broker has no queue")  # but claims are its own
    config = peer.stream("KV_claims").config
    assert (config.max_age, config.storage, config.max_msgs_per_subject) == (24 * 3600, "file", 1)


def test_claims_that_somebody_has_deleted_are_made_again(open_gateway, broker, peer):
    peer.make_stream()
    gateway = open_gateway(storage_url=broker.url)
    assert send(gateway, "order-66").json()["stored"] == "queued"
    peer.delete("KV_claims")
    assert send(gateway, "order-67").json()["stored"] == "queued"


def test_a_broker_without_a_disk_keeps_no_claims(open_gateway, absent_broker):
    absent_broker.disk = ""
    absent_broker.start()
    answer = send(open_gateway(storage_url=absent_broker.url), "order-66").json()
    assert answer["prediction"] == [3]
    assert (answer["stored"], answer["storage"]) == (False, "the broker cannot keep it: it has no JetStream")


def test_a_key_whose_first_request_died_before_it_was_recorded_can_be_used_again(keyed, inference):
    """The claim is there, and no result: inference failed, or the gateway died."""
    inference.stop()
    assert send(keyed.client, "again").status_code == 503
    inference.start()
    first, second = (send(keyed.client, "again").json() for _ in range(2))
    assert first["stored"] == keyed.promise
    assert (second["prediction"], second["id"]) == (first["prediction"], first["id"])


def test_a_result_that_the_broker_kept_but_did_not_queue_is_queued_by_the_next_request(open_gateway, broker, peer):
    """As if the gateway had died between the two."""
    gateway = open_gateway(storage_url=broker.url)
    assert send(gateway, "order-66").json()["stored"] is False  # there is no queue yet
    peer.make_stream()
    answer = send(gateway, "order-66").json()
    assert answer["stored"] == "queued"
    assert [(result["id"], result["prediction"]) for result in peer.results()] == [(answer["id"], 3)]


@pytest.mark.parametrize("taken", [False, True], ids=["free", "another request's"])
def test_a_claim_that_expires_before_the_result_comes_costs_no_result(open_gateway, broker, peer, inference, taken):
    peer.make_stream()
    gateway = open_gateway(storage_url=broker.url)
    predict = inference.answers["/inferir"]

    def predict_late(body: bytes) -> tuple[int, dict]:
        inference.answers["/inferir"] = predict
        peer.purge("KV_claims")
        if taken:
            assert send(gateway, "order-66", OTHER).json()["stored"] == "queued"
        return predict(body)

    inference.answers["/inferir"] = predict_late
    answer = send(gateway, "order-66").json()
    assert (answer["prediction"], answer["stored"]) == ([3], "queued")
    assert answer["id"] in [result["id"] for result in peer.results()]
    if not taken:
        assert send(gateway, "order-66").json()["id"] == answer["id"]


def test_a_claim_that_somebody_has_deleted_is_free_again(open_gateway, broker, peer):
    peer.make_stream()
    gateway = open_gateway(storage_url=broker.url)
    assert send(gateway, "order-66").json()["stored"] == "queued"
    peer.delete_keys("claims")
    assert send(gateway, "order-66", OTHER).json()["stored"] == "queued"


def test_a_storage_of_an_older_version_still_takes_the_key(gateway, storage):
    claim = storage.answers["/claims"]
    storage.answers["/claims"] = lambda body: (200, {"claimed": claim(body)[0] == 200})
    first, second = (send(gateway, "order-66").json() for _ in range(2))
    assert first["stored"] is second["stored"] is True and first["id"] == second["id"]
