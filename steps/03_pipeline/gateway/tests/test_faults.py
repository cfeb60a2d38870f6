"""What the gateway answers when a service is down, slow or sends nonsense, and when it is back."""

import json
from time import monotonic

import pytest
from brokers import wait_until
from fakes import predict

from chassis import telemetry
from conftest import DEADLINE

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
    healthy = storage.answers["/results"]
    storage.answers["/results"] = lambda body: (200, {"results": [], "next": None})
    inference.stop()
    assert_unavailable(gateway.post("/inferir", **ROW), "inference cannot be reached")
    assert gateway.get("/results").status_code == 200
    assert gateway.get("/readyz").status_code == 200  # the page, the history and its 503s are of use
    assert gateway.get("/services").json()["inference"]["reason"] == "it cannot be reached"
    storage.answers["/results"] = healthy
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
def test_a_slow_service_is_not_waited_for_beyond_the_deadline(hurried, request, hold, service, sent):
    fake, path = request.getfixturevalue(service), {"preprocess": "/features", "inference": "/inferir"}[service]
    healthy, fake.answers[path] = fake.answers[path], hold
    begin = monotonic()
    assert_unavailable(hurried.post("/inferir", **sent), f"{service} has not answered")
    assert 0.5 * DEADLINE < monotonic() - begin < 2 * DEADLINE
    fake.answers[path] = healthy
    assert hurried.post("/inferir", **sent).status_code == 200


def test_a_slow_storage_costs_its_share_of_the_deadline_and_no_prediction(hurried, storage, hold):
    healthy, storage.answers["/results"] = storage.answers["/results"], hold
    begin = monotonic()
    answer = hurried.post("/inferir", **ROW).json()
    assert monotonic() - begin < DEADLINE
    assert (answer["prediction"], answer["stored"]) == ([3], False)
    assert answer["storage"].startswith("storage has not answered")
    storage.answers["/results"] = healthy
    wait_until(lambda: hurried.post("/inferir", **ROW).json()["stored"])


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
    assert gateway.get("/services").json()["inference"]["reason"] == "manifest.json is gone"


def test_a_status_that_no_client_has_caused_is_the_services_fault(gateway, inference):
    inference.answers["/inferir"] = lambda body: (404, {"error": "not found"})
    assert_unavailable(gateway.post("/inferir", **ROW), "inference cannot help: not found")


def test_services_shows_the_health_of_each_service(gateway, preprocess, inference, storage):
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
    assert gateway.get("/livez").status_code == gateway.get("/readyz").status_code == 200
    assert_unavailable(gateway.post("/inferir", **ROW), "inference cannot be reached")
    inference.start()
    assert gateway.post("/inferir", **ROW).status_code == 200


def test_a_result_that_storage_refuses_leaves_a_line_in_the_log(gateway, storage, capsys):
    storage.answers["/results"] = lambda body: (422, {"error": "results[0].prediction must be a number or text"})
    answer = gateway.post("/inferir", **ROW, headers={"X-Request-ID": "from-outside"}).json()
    assert (answer["prediction"], answer["stored"]) == ([3], False)
    assert answer["storage"] == "results[0].prediction must be a number or text"
    gateway.portal.call(telemetry.log_lines.flush)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"from-outside"' in line]
    (line,) = [line for line in lines if line["level"] == "WARNING"]
    assert line["message"] == "storage has refused a result: results[0].prediction must be a number or text"
