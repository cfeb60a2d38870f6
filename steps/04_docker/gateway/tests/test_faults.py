"""What the gateway answers when a service is down, slow, or out of its mind, and when it is back."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic

import pytest

from conftest import DEADLINE, Fake, extract, predict, record

PICTURE = {"content": b"a picture", "headers": {"Content-Type": "image/png"}}
ROW = {"json": {"features": [0.5] * 64}}
NONSENSE = {
    "text": lambda body: (200, b"hello"),
    "an empty object": lambda body: (200, {}),
    "a list": lambda body: (200, []),
    "a failure": lambda body: (500, {"error": "it has failed"}),
    "a failure without a reason": lambda body: (502, b"<h1>Bad gateway</h1>"),
    "hanging up": lambda body: None,
}


def assert_unavailable(reply, service: str) -> None:
    assert reply.status_code == 503, reply.text
    assert reply.headers["Retry-After"] == "1"
    assert list(reply.json()) == ["error"] and reply.json()["error"].startswith(service)


def test_without_preprocess_rows_are_still_recognized(gateway, preprocess):
    preprocess.stop()
    assert_unavailable(gateway.post("/inferir", **PICTURE), "preprocess cannot be reached")
    assert gateway.post("/inferir", **ROW).json()["stored"] is True
    assert gateway.get("/readyz").status_code == 200
    preprocess.start()
    assert gateway.post("/inferir", **PICTURE).json()["prediction"] == [3]


def test_without_inference_the_history_is_still_there(gateway, inference, storage):
    storage.answers["/results"] = lambda body: (200, {"results": [], "next": None})
    inference.stop()
    assert_unavailable(gateway.post("/inferir", **ROW), "inference cannot be reached")
    assert gateway.get("/results").status_code == 200
    assert gateway.get("/readyz").json() == {"error": "inference is not ready: it cannot be reached"}
    storage.answers["/results"] = record
    inference.start()
    assert gateway.post("/inferir", **ROW).status_code == 200


def test_without_storage_predictions_go_on_and_say_that_they_are_not_stored(gateway, storage):
    storage.stop()
    answer = gateway.post("/inferir", **PICTURE).json()
    assert answer["prediction"] == [3]
    assert (answer["stored"], answer["storage"]) == (False, "storage cannot be reached")
    assert 'failed_attempts_total{service="storage"}' in gateway.get("/metrics").text
    assert_unavailable(gateway.get("/results"), "storage cannot be reached")
    assert gateway.get("/readyz").status_code == 200
    storage.start()
    assert gateway.post("/inferir", **PICTURE).json()["stored"] is True


@pytest.mark.parametrize(("service", "sent"), [("preprocess", PICTURE), ("inference", ROW)])
def test_a_slow_service_is_not_waited_for_beyond_the_deadline(gateway, request, hold, service, sent):
    fake, path = request.getfixturevalue(service), {"preprocess": "/features", "inference": "/inferir"}[service]
    healthy, fake.answers[path] = fake.answers[path], hold
    begin = monotonic()
    assert_unavailable(gateway.post("/inferir", **sent), f"{service} has not answered")
    assert 0.5 * DEADLINE < monotonic() - begin < DEADLINE
    fake.answers[path] = healthy
    assert gateway.post("/inferir", **sent).status_code == 200


def test_a_slow_storage_costs_its_share_of_the_deadline_and_no_prediction(gateway, storage, hold):
    storage.answers["/results"] = hold
    begin = monotonic()
    answer = gateway.post("/inferir", **ROW).json()
    assert monotonic() - begin < DEADLINE
    assert (answer["prediction"], answer["stored"]) == ([3], False)
    assert answer["storage"].startswith("storage has not answered")
    storage.answers["/results"] = record
    assert gateway.post("/inferir", **ROW).json()["stored"] is True


@pytest.mark.parametrize("how", NONSENSE)
@pytest.mark.parametrize(("service", "sent"), [("preprocess", PICTURE), ("inference", ROW)])
def test_a_service_that_talks_nonsense_gets_503(gateway, request, service, sent, how):
    fake = request.getfixturevalue(service)
    fake.answers.update(dict.fromkeys(("/features", "/inferir"), NONSENSE[how]))
    assert_unavailable(gateway.post("/inferir", **sent), service)


def test_fewer_answers_than_rows_are_no_answer(gateway, inference, storage):
    inference.answers["/inferir"] = lambda body: predict(b'{"features": [[]]}')
    assert_unavailable(gateway.post("/inferir", json={"features": [[0] * 64] * 2}), "inference")
    assert storage.asked == []


@pytest.mark.parametrize("how", NONSENSE)
def test_a_storage_that_talks_nonsense_has_not_stored(gateway, storage, how):
    storage.answers["/results"] = NONSENSE[how]
    answer = gateway.post("/inferir", **ROW).json()
    assert (answer["prediction"], answer["stored"]) == ([3], False)
    assert answer["storage"].startswith("storage ")
    assert_unavailable(gateway.get("/results"), "storage")


def test_what_a_service_refuses_is_the_answer(gateway, preprocess):
    preprocess.answers["/features"] = lambda body: (422, {"error": "the picture is blank"})
    reply = gateway.post("/inferir", **PICTURE)
    assert (reply.status_code, reply.json()) == (422, {"error": "the picture is blank"})


def test_the_reason_of_a_service_that_cannot_help_is_passed_on(gateway, inference):
    inference.answers["/inferir"] = inference.answers["/readyz"] = lambda body: (
        503,
        {"error": "manifest.json is gone"},
    )
    assert_unavailable(gateway.post("/inferir", **ROW), "inference cannot help: manifest.json is gone")
    assert gateway.get("/readyz").json() == {"error": "inference is not ready: manifest.json is gone"}


def test_a_call_that_was_cut_is_repeated_with_the_same_id(gateway, storage):
    answers = iter([None, None, record])  # hang up twice

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


def test_a_call_that_is_always_cut_is_made_three_times_with_waits_between(gateway, preprocess):
    preprocess.answers["/features"] = lambda body: None  # hang up
    begin = monotonic()
    assert_unavailable(gateway.post("/inferir", **PICTURE), "preprocess cannot be reached")
    assert len(preprocess.asked) == 3
    assert 0.06 <= monotonic() - begin


def test_a_replica_that_says_503_is_passed_over(open_gateway, preprocess):
    other = Fake(**{"/features": lambda body: (503, {"error": "it is not fit"})})
    try:
        gateway = open_gateway(preprocess_url=f"{other.url},{preprocess.url}")
        for _ in range(10):
            assert gateway.post("/inferir", **PICTURE).status_code == 200
        preprocess.answers["/features"] = other.answers["/features"]
        assert_unavailable(gateway.post("/inferir", **PICTURE), "preprocess cannot help: it is not fit")
    finally:
        other.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses connections")
def test_a_replica_that_does_not_take_connections_is_passed_over(open_gateway, preprocess):
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # nobody accepts them, so the queue is full, and further ones get no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        gateway = open_gateway(preprocess_url=f"http://127.0.0.1:{deaf.getsockname()[1]},{preprocess.url}")
        for _ in range(10):
            assert gateway.post("/inferir", **PICTURE).status_code == 200


def test_a_status_that_no_client_has_caused_is_the_services_fault(gateway, inference):
    inference.answers["/inferir"] = lambda body: (404, {"error": "not found"})
    assert_unavailable(gateway.post("/inferir", **ROW), "inference cannot help: not found")


def test_the_health_of_each_service_is_told(gateway, preprocess, inference, storage, hold):
    preprocess.stop()
    inference.answers["/readyz"] = lambda body: (503, {"error": "manifest.json is gone"})
    services = gateway.get("/services").json()
    assert {name: (health["ready"], health["reason"]) for name, health in services.items()} == {
        "preprocess": (False, "it cannot be reached"),
        "inference": (False, "manifest.json is gone"),
        "storage": (True, None),
    }
    assert services["storage"]["url"] == storage.url


def test_a_gateway_starts_before_the_others(open_gateway, inference):
    inference.stop()
    gateway = open_gateway()
    assert gateway.get("/livez").status_code == 200
    assert gateway.get("/readyz").status_code == 503
    inference.start()
    assert gateway.get("/readyz").status_code == 200
