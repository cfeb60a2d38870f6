"""Every step answers every line of the contract, over HTTP, from a server of its own."""

import shutil

import pytest
import requests

from conftest import serve, serve_all, wait_until
from contract import CASES, JSON, LIMIT, break_model, check, check_error, features, row_of

# A step joins with a line here: its folder, whose number says which lines of the contract bind it.
STEPS = ["01_flask", "02_fastapi", "03_pipeline", "03_pipeline+grpc,nats"]


@pytest.fixture(scope="module", params=STEPS)
def step(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def service(step, trained):
    with serve(step, MODEL_DIR=str(trained(step))) as service:
        yield service


@pytest.mark.parametrize(
    ("step", "case"),
    [
        pytest.param(step, case, id=f"{step}-{case.name}")
        for step in STEPS
        for case in CASES
        if case.since <= int(step[:2])
    ],
    indirect=["step"],
    scope="module",
)
def test_inferir_answers_as_the_contract_says(service, case):
    check(case, service.url)


def test_the_limit_also_binds_a_body_without_a_length(service):
    body = features(row_of(0), LIMIT + 1)
    chunks = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    reply = requests.post(service.url + "/inferir", data=chunks, headers=JSON, timeout=10)
    assert reply.status_code == 413, reply.text
    check_error(reply)


def test_a_path_with_a_slash_at_its_end_is_not_found(service):
    for method, path in (("GET", "/livez/"), ("POST", "/inferir/")):
        reply = requests.request(method, service.url + path, allow_redirects=False, timeout=10)
        assert reply.status_code == 404
        check_error(reply)


def test_head_is_get_without_a_body(service):
    for path in ("/livez", "/readyz"):
        reply = requests.head(service.url + path, timeout=10)
        assert (reply.status_code, reply.content) == (200, b"")


def test_a_request_that_offers_another_protocol_is_answered(service):
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQ"}
    reply = requests.post(service.url + "/inferir", data=features(row_of(4)), headers=JSON | offer, timeout=10)
    assert (reply.status_code, reply.json()["prediction"]) == (200, [4])


def test_a_fit_service_is_alive_and_ready(service):
    assert requests.get(service.url + "/livez", timeout=10).status_code == 200
    assert requests.get(service.url + "/readyz", timeout=10).status_code == 200


# A way to make a model unusable, and what the service then says. Each step's own tests try all ways.
UNFIT = {
    "01_flask": ("of another scikit-learn", "saved by scikit-learn"),
    "02_fastapi": ("tampered with", "SHA-256"),
    "03_pipeline": ("missing", "manifest.json"),
    "03_pipeline+grpc,nats": ("missing", "manifest.json"),
}


def test_with_a_model_that_cannot_be_used_the_service_is_up_and_says_why(step, trained, tmp_path):
    how, says = UNFIT[step]
    folder = shutil.copytree(trained(step), tmp_path / "model")
    break_model(folder, how)
    with serve_all(step, "/livez", MODEL_DIR=str(folder)) as services:
        ready = requests.get(services["inference"].url + "/readyz", timeout=10)
        assert (ready.status_code, says in ready.json()["error"]) == (503, True), ready.text

        def ask() -> requests.Response:
            return requests.post(services["gateway"].url + "/inferir", json={"features": row_of(0)}, timeout=10)

        wait_until(lambda: says in ask().json()["error"])  # over gRPC, it takes up to a second to connect
        assert ask().status_code == 503
        assert not any("Traceback" in service.log() for service in services.values())
