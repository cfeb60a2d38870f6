"""kubernetes/local on a cluster: answers, rows in the history, closed doors, a rollout that fails no request."""

import json
import os
import time
import uuid

import pytest
import requests

from cluster import CONTEXT, PREFIX, Pipeline, lacking, load_images, run, running_cluster
from load import DRAWING, Load
from stack import wait_until

PORTS = {"gateway": [8000], "preprocess": [8001], "inference": [8002, 8012], "storage": [8003]}
PORTS |= {"broker": [4222, 8222], "database": [5432]}
MAY = {  # who may speak to whom: the picture in the README
    "gateway": {("preprocess", 8001), ("inference", 8012), ("broker", 4222), ("storage", 8003)},
    "preprocess": set(),
    "inference": set(),
    "storage": {("broker", 4222), ("database", 5432)},
    "stranger": set(),
}
EVERYBODY_MAY = {("gateway", 8000)}
# Connect to all at once. What a policy refuses does not answer, so each attempt gets two seconds.
CONNECT = """
import asyncio, json, sys
async def connects(host, port):
    try:
        async with asyncio.timeout(2):
            await asyncio.open_connection(host, port)
        return True
    except OSError:
        return False
async def main(targets):
    print(json.dumps(await asyncio.gather(*(connects(*target) for target in targets))))
asyncio.run(main(json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    if reason := lacking():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with running_cluster():
        load_images()
        with Pipeline(tmp_path_factory.mktemp("manifests")) as pipeline:
            yield pipeline


@pytest.fixture
def stranger(pipeline):
    """A pod in another namespace."""
    namespace = f"stranger-{uuid.uuid4().hex[:8]}"
    kubectl = ("kubectl", f"--context={CONTEXT}", f"--namespace={namespace}")
    run(*kubectl, "create", "namespace", namespace)
    try:
        image = f"--image={PREFIX}-gateway:local"
        run(*kubectl, "run", "stranger", image, "--restart=Never", "--command", "--", "sleep", "600")
        run(*kubectl, "wait", "pod/stranger", "--for=condition=Ready", "--timeout=60s")
        yield [*kubectl, "exec", "stranger", "--"]
    finally:
        run(*kubectl, "delete", "pod", "stranger", "--ignore-not-found", "--force", "--grace-period=0")
        run(*kubectl, "delete", "namespace", namespace, "--timeout=60s")


def test_a_drawing_is_answered_and_stored(pipeline):
    with pipeline.forwarded() as url:
        body, deadline = {}, time.monotonic() + 30
        while not body.get("prediction") and time.monotonic() < deadline:  # the gateway is ready before the others
            body = requests.post(f"{url}/inferir", timeout=10, **DRAWING).json()
        assert (body["prediction"], body["stored"]) == ([3], "queued"), pipeline.trouble()

        def is_stored() -> bool:
            rows = requests.get(f"{url}/results", timeout=10).json()["results"]
            return body["id"] in [row["id"] for row in rows]

        wait_until(is_stored)


def test_nobody_reaches_what_the_picture_does_not_show(pipeline, stranger):
    targets = [
        (name, pod["status"]["podIP"], port)
        for name, pods in pipeline.pods().items()
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        for port in PORTS[name]
    ]
    assert {name for name, _, _ in targets} == {*PORTS}
    for source, expected in MAY.items():
        in_pipeline = [
            "kubectl",
            f"--context={CONTEXT}",
            "exec",
            f"--namespace={pipeline.namespace}",
            f"deployment/{source}",
        ]
        inside = stranger if source == "stranger" else [*in_pipeline, "--"]
        others = [target for target in targets if target[0] != source]
        said = run(*inside, "python", "-c", CONNECT, json.dumps([target[1:] for target in others]))
        reached = {(name, port) for (name, _, port), yes in zip(others, json.loads(said), strict=True) if yes}
        # From inside the namespace, nobody has a reason to go in by the front door.
        assert reached == (EVERYBODY_MAY if source == "stranger" else expected), source


def test_a_rollout_of_inference_fails_no_request(pipeline):
    before = {pod["metadata"]["name"] for pod in pipeline.pods()["inference"]}
    with pipeline.forwarded() as url, Load(Forwarded(url), clients=4) as load:
        load.wait_for(20)
        pipeline.kubectl("rollout", "restart", "deployment/inference")
        pipeline.kubectl("rollout", "status", "deployment/inference", "--timeout=120s", seconds=150)
        wait_until(lambda: not before & {pod["metadata"]["name"] for pod in pipeline.pods()["inference"]}, 120, 1)
        load.wait_for(20)
    failed = [answer for answer in load.answers if answer.status != 200]
    print(f"{len(load.answers)} requests, {len(failed)} failed")
    assert not failed, failed[:5]


class Forwarded:
    """What Load needs of a stack."""

    def __init__(self, url: str):
        self.url = url
