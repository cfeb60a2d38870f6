"""The pipeline of step 03 over gRPC and NATS, as real processes: killed, cut off, late, and nothing lost."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
import pytest
import requests
from sklearn.datasets import load_digits

from conftest import database_in, wait_until
from contract import row_of
from launch import STEPS, Broker, free_port, launch, launch_pipeline, stop_all
from outages import Load, audit, kill, metric, wait_until_drained

ROW = {"json": {"features": row_of(7)}}
ROWS = load_digits().data
STEP = STEPS / "03_pipeline"
DEADLINE = 2
KILLS = {"storage": 10, "broker": 10, "gateway": 2}


@pytest.fixture
def start(trained, tmp_path):
    """A function that starts a pipeline over some wires; all of it is stopped in the end."""
    started = []

    def start(wires: str = "grpc,nats", **env: str) -> dict:
        own = {"MODEL_DIR": str(trained("03_pipeline")), "BROKER_DIR": str(tmp_path / "broker")}
        services = launch_pipeline(wires=wires, **{**own, "DATABASE_URL": database_in(tmp_path), **env})
        started.extend(services.values())
        return services

    yield start
    stop_all(*started)


def post(services: dict, **sent) -> requests.Response:
    return requests.post(services["gateway"].url + "/inferir", timeout=10, **(sent or ROW))


def get(services: dict, path: str) -> dict:
    return requests.get(services["gateway"].url + path, timeout=10).json()


def test_nothing_acknowledged_is_lost_or_doubled_while_storage_broker_and_gateway_are_killed(start, tmp_path):
    services, kills = start(), []
    with Load(services["gateway"].url, ROWS, rate=350, name="proof") as load:
        kill(services, KILLS, seconds=55, seed=7, done=kills)
        wait_until(lambda: len(load.answers) >= 20_000, timeout=60)
    wait_until_drained(services["gateway"], 60)
    found = audit(load.answers, tmp_path / "results.db")
    print(found, Counter(name for name, _ in kills))
    assert Counter(name for name, _ in kills) == KILLS
    assert found.answered >= 20_000
    assert (found.lost, found.doubled) == (0, 0)
    assert found.acknowledged > 0.9 * found.answered  # the broker is not away for long
    assert any(answer.attempts > 1 for answer in load.answers)  # the kills were felt
    assert requests.get(services["storage"].url + "/dead-letters", timeout=10).json()["dead_letters"] == []


def test_over_rest_what_storage_misses_is_gone_and_the_client_is_told(start, tmp_path):
    services = start(wires="")
    with Load(services["gateway"].url, ROWS, rate=200, name="rest") as load:
        kill(services, {"storage": 3, "gateway": 1}, seconds=8, seed=7, done=[])
    found = audit(load.answers, tmp_path / "results.db")
    assert (found.lost, found.doubled) == (0, 0)
    assert found.not_kept > 0
    assert {answer.why for answer in load.answers if not answer.stored} <= {
        "storage cannot be reached",
        "storage has not answered in time",
    }


def test_an_outage_of_storage_for_30_seconds_slows_nobody_and_its_backlog_drains(start, tmp_path):
    services = start()
    gateway, storage = services["gateway"], services["storage"]
    with Load(gateway.url, ROWS, rate=100) as load:
        wait_until(lambda: load.elapsed() > 12, timeout=20, pause=0.2)
        storage.kill()
        away = load.elapsed()
        wait_until(lambda: load.elapsed() > away + 30, timeout=40, pause=0.2)
        backlog = metric(gateway, "queue_messages")
        back = load.elapsed()
        began = time.monotonic()
        storage.restart("/livez")
        wait_until(lambda: metric(storage, "stored_results_total") >= backlog, timeout=30, pause=0.1)
        drained = backlog / (time.monotonic() - began)  # results in a second, the start of storage included
    wait_until_drained(gateway, 30)
    assert sum(answer.stored == "queued" for answer in load.answers) >= 0.99 * len(load.answers)
    before = [answer.seconds for answer in load.answers if 2 < answer.at < away]
    during = [answer.seconds for answer in load.answers if away < answer.at < back]
    assert median(during) <= 2 * median(before)
    assert np.percentile(during, 95) <= 2 * np.percentile(before, 95)
    assert 1_500 <= backlog <= 3_200  # messages; requests that come together share one
    assert drained > 150  # where 100 come in
    assert audit(load.answers, tmp_path / "results.db").lost == 0


EXPECTED = {  # of a row: the status, `stored`, and whether the history answers
    "preprocess": (200, "queued", True),
    "inference": (503, None, True),
    "storage": (200, "queued", False),
    "broker": (200, False, False),
}


@pytest.mark.parametrize("how", ["killed", "suspended"])
def test_what_works_while_a_service_is_gone(start, how):
    services = start()
    assert post(services).json()["stored"] == "queued"
    for name, (status, stored, history) in EXPECTED.items():
        services[name].kill() if how == "killed" else services[name].process().suspend()
        begin = time.monotonic()
        reply = post(services)
        listing = requests.get(services["gateway"].url + "/results", timeout=10)
        assert time.monotonic() - begin < 2 * DEADLINE + 0.5, name
        assert reply.status_code == status, (name, reply.text)
        assert reply.json().get("stored") == stored, (name, reply.text)
        if status == 503:
            assert reply.headers["Retry-After"] and reply.json()["error"].startswith(name)
        assert (listing.status_code == 200) is history, (name, listing.text)
        gone = "storage" if name == "broker" else name
        health = get(services, "/services")
        assert [service for service in health if not health[service]["ready"]] == [gone], (name, health)
        services[name].restart("/livez") if how == "killed" else services[name].process().resume()
        wait_until(lambda: all(service["ready"] for service in get(services, "/services").values()))
        wait_until(lambda: post(services).json().get("stored") == "queued")  # noqa: B023


def test_without_a_broker_everything_starts_and_says_so_and_connects_when_it_comes(trained, tmp_path):
    url, env = f"nats://127.0.0.1:{free_port()}", {"DATABASE_URL": database_in(tmp_path)}
    port = int(url.rpartition(":")[2])
    inference = launch("03_pipeline/inference", env={"MODEL_DIR": str(trained("03_pipeline"))})
    storage = launch("03_pipeline/storage", env={**env, "NATS_URL": url}, wait_for="/livez")
    env = {"STORAGE_URL": url, "INFERENCE_URL": inference.url}
    services = {"gateway": launch("03_pipeline/gateway", env=env), "storage": storage, "inference": inference}
    try:
        assert requests.get(storage.url + "/readyz", timeout=10).json() == {"error": "the broker cannot be reached"}
        answer = post(services).json()
        assert answer["prediction"] == [7] and answer["stored"] is False and "broker" in answer["storage"]
        services["broker"] = Broker(STEP, tmp_path / "broker", port)
        storage.wait("/readyz", 20)
        wait_until(lambda: post(services).json()["stored"] == "queued")
        wait_until(lambda: get(services, "/results")["results"])
    finally:
        stop_all(*services.values())


def test_round_robin_gives_each_replica_its_third_and_a_killed_one_fails_nobody(trained, tmp_path):
    ports = [free_port() for _ in range(3)]
    env = {"MODEL_DIR": str(trained("03_pipeline")), "DATABASE_URL": database_in(tmp_path)}
    with ThreadPoolExecutor() as starts:
        begun = [starts.submit(launch, "03_pipeline/inference", env={**env, "GRPC_PORT": str(port)}) for port in ports]
        begun.append(starts.submit(launch, "03_pipeline/storage", env=env))
    *replicas, storage = [service.result() for service in begun]
    env = {"INFERENCE_URL": ",".join(f"grpc://127.0.0.1:{port}" for port in ports), "STORAGE_URL": storage.url}
    services = {"gateway": launch("03_pipeline/gateway", env=env)}
    try:
        for _ in range(300):
            assert post(services).status_code == 200
        calls = [metric(replica, "predict_seconds_count") for replica in replicas]
        assert sum(calls) == 300
        assert all(0.28 * 300 <= count <= 0.38 * 300 for count in calls), calls
        replicas[0].kill()
        assert {post(services).status_code for _ in range(100)} == {200}
        replicas[0].restart()
        wait_until(lambda: post(services).status_code == 200 and metric(replicas[0], "predict_seconds_count") > 5)
    finally:
        stop_all(*replicas, storage, *services.values())


def test_what_nobody_waits_for_any_more_is_not_predicted(start):
    services = start()
    assert post(services).status_code == 200
    inference = services["inference"].process()
    before = metric(services["inference"], "batch_rows_sum")
    inference.suspend()
    try:
        late = post(services)
    finally:
        inference.resume()
    assert (late.status_code, late.json()["error"]) == (503, "inference has not answered in time")
    assert post(services).status_code == 200
    assert metric(services["inference"], "batch_rows_sum") == before + 1


def test_the_same_picture_gets_the_same_answer_over_every_wire(start, tmp_path):
    drawing = (STEP / "sample_drawing.png").read_bytes()
    answers = []
    for number, wires in enumerate(["", "grpc,nats"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        services = start(wires, DATABASE_URL=database_in(folder), BROKER_DIR=str(folder))
        picture = post(services, data=drawing, headers={"Content-Type": "image/png", "X-Request-ID": "same"}).json()
        wait_until(lambda: get(services, "/results")["results"])  # noqa: B023
        (stored,) = get(services, "/results")["results"]
        assert picture["id"] == stored["id"] and stored["request_id"] == "same"
        assert picture["probabilities"] == [stored["probabilities"]]
        same = [picture[key] for key in ("prediction", "model", "features", "preprocess")]
        answers.append([*same, np.float32(picture["probabilities"]).tolist()])
        stop_all(*services.values())
    assert answers[0] == answers[1]
