"""The README's section on Kubernetes on a real cluster: what must go on while pods are replaced, killed or moved.

The tests run in this order, on one pipeline. Eight callers in a pod of another namespace ask meanwhile, without
retries. The rows that they were promised are counted at the end. The autoscaler is in the notebook.
"""

import contextlib
import json
import os
import re
import time
from collections import Counter
from ipaddress import ip_address

import pytest
import requests

from callers import Callers, Stranger
from changing import change
from cluster import DEPLOYMENTS, Pipeline, cached_names, forwarded, lacking, run, running_cluster
from load import Answer, audit
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
UNDER_WAY = 8  # requests, one of each caller
SCRIPT = re.MULTILINE | re.DOTALL
ARBITRARY_USER = 1000770000  # as OpenShift gives to each namespace


def skip(reason: str) -> None:
    """Skip where this machine or its cluster lacks something. On a CI machine, fail."""
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    if reason := lacking():
        skip(reason)
    with running_cluster(), Pipeline(tmp_path_factory.mktemp("cluster")) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def stranger(pipeline):
    with Stranger(f"{pipeline.prefix}-gateway:local") as stranger:
        yield stranger


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """All answers to the callers, for the count at the end."""
    return []


@pytest.fixture
def callers(pipeline, stranger, answers):
    with Callers(stranger, pipeline) as callers:
        yield callers
    answers += callers.answers


@pytest.fixture(scope="module")
def cached_dns(pipeline):
    """From here on, the cluster's DNS answers from a cache of 30 s."""
    with cached_names():
        yield


@pytest.fixture(scope="module")
def scaled(pipeline, cached_dns, stranger, answers):
    """kubernetes/scaled, with pods that run as any user. Gives the callers who asked while it was applied."""
    user = [{"op": "add", "path": "/spec/template/spec/securityContext/runAsUser", "value": ARBITRARY_USER}]
    overlay = {
        "resources": ["../scaled"],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(user)}],
    }
    with Callers(stranger, pipeline) as callers:
        pipeline.apply(overlay, "any_user")
        wait_until(lambda: replicas(pipeline) >= 2, 120, 1)  # as the autoscaler wants it
        pipeline.wait_until_ready()
        wait_until(lambda: answering(pipeline) >= pipeline.names("inference", ending=False), 90, 1)
    answers += callers.answers
    return callers


def figures(what: str, callers: Callers, capsys) -> None:
    """Print a line for the table of the README."""
    not_stored = sum(answer.status == 200 and not answer.body["stored"] for answer in callers.answers)
    with capsys.disabled():
        print(f"\n| {what} | {len(callers.answers):,} | {len(failed(callers.answers))} | {not_stored} |")


def failed(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status != 200]


def replicas(pipeline: Pipeline) -> int:
    """How many replicas of inference there shall be."""
    return json.loads(pipeline.kubectl("get", "deployment/inference", "--output=json"))["spec"]["replicas"]


def answering(pipeline: Pipeline) -> set[str]:
    """The pods of inference that have answered a call."""
    found = set()
    for pod in pipeline.names("inference"):
        with contextlib.suppress(RuntimeError):  # it may be gone by now, or not have begun
            found |= {pod} if "/ModelInfer" in pipeline.kubectl("logs", pod) else set()
    return found


def connections(pipeline: Pipeline, gateway: str) -> set[str]:
    """The IP addresses that a gateway's pod is connected to over gRPC."""
    with contextlib.suppress(RuntimeError):  # it may be gone by now
        lines = pipeline.kubectl("exec", gateway, "--", "sh", "-c", "cat /proc/net/tcp*").splitlines()
        remote = [line.split()[2].split(":") for line in lines if line.split()[3] == "01"]  # established
        return {str(ip_address(bytes.fromhex(ip[-8:])[::-1])) for ip, port in remote if int(port, 16) == 8012}
    return set()


def is_known(pipeline: Pipeline) -> bool:
    """Whether each gateway that asks inference is connected to all its replicas, and to no others."""
    replicas = {pod["status"].get("podIP") for pod in pipeline.pods("inference", ending=False)}
    found = [connections(pipeline, gateway) for gateway in pipeline.names("gateway", ending=False)]
    return replicas in found and all(known in (set(), replicas) for known in found)


def language(pipeline: Pipeline, pod: str) -> str:
    """What runs in a pod: python or node."""
    return pipeline.kubectl("exec", pod, "--", "cat", "/proc/1/cmdline").partition("\0")[0].rpartition("/")[2]


def test_a_drawing_gets_the_answer_that_the_readme_shows(pipeline):
    _, _, forward, ask, _ = pipeline.readme()
    with forwarded(forward) as url:
        page = requests.get(url, timeout=10)
        assert page.status_code == 200 and "<canvas" in page.text
        said = pipeline.follow(ask.replace("http://127.0.0.1:8000", url))
    assert '"prediction":[3]' in said and '"stored":"queued"' in said
    look = ask.splitlines()[-1]
    wait_until(lambda: re.search(r"\b3 +\| v2 +\| onnx", pipeline.follow(look)))  # storage commits it a moment later


def test_nobody_reaches_what_the_picture_does_not_show(pipeline, stranger):
    targets = [
        (name, pod["status"]["podIP"], port) for name in PORTS for pod in pipeline.pods(name) for port in PORTS[name]
    ]
    assert {name for name, _, _ in targets} == {*PORTS}
    for source, expected in MAY.items():
        others = [target for target in targets if target[0] != source]
        connect = "python", "-c", CONNECT, json.dumps([target[1:] for target in others])
        said = run(*stranger.exec, *connect) if source == "stranger" else pipeline.run_in(source, *connect)
        reached = {(name, port) for (name, _, port), yes in zip(others, json.loads(said), strict=True) if yes}
        # From inside the namespace, nobody has a reason to go in by the front door.
        assert reached == (EVERYBODY_MAY if source == "stranger" else expected), source


def test_the_gateway_finds_new_replicas_of_inference(pipeline, callers, capsys):
    pipeline.kubectl("scale", "deployment/inference", "--replicas=4")
    pipeline.wait_until_ready("deployment/inference")
    ready = time.monotonic()
    wait_until(lambda: len(answering(pipeline)) == 4, 60, 0.5)  # a connection ends after 10 s; a busy machine is late
    found = time.monotonic() - ready
    pipeline.kubectl("scale", "deployment/inference", "--replicas=1")
    figures(f"four replicas of inference instead of one (found after {found:.0f} s)", callers, capsys)
    assert not failed(callers.answers)


def test_a_rollout_of_each_service_and_a_new_model_that_is_taken_back_fail_no_request(
    pipeline, cached_dns, callers, capsys
):
    before, [[old]] = pipeline.names(*DEPLOYMENTS), pipeline.sql("SELECT DISTINCT model_version FROM results")
    *_, change_one = pipeline.readme()
    assert "deployment/preprocess" in change_one
    pipeline.follow(change_one)
    for service in ("gateway", "storage"):
        pipeline.kubectl("rollout", "restart", f"deployment/{service}")
        pipeline.wait_until_ready(f"deployment/{service}")

    change(pipeline.folder.parent / "03_pipeline/inference/train.py", ("COPIES = 15", "COPIES = 1"))
    image = f"{pipeline.prefix}-inference"
    pipeline.follow(f"docker tag {image}:local {image}:old && docker compose build inference")
    pipeline.follow(f"docker tag {image}:local {image}:new && kind load docker-image {image}:new")
    pipeline.kubectl("set", "image", "deployment/inference", f"service={image}:new")
    pipeline.wait_until_ready("deployment/inference")
    wait_until(lambda: callers.answers[-1].body["model"]["version"] != old, 60)
    pipeline.kubectl("rollout", "undo", "deployment/inference")
    pipeline.wait_until_ready("deployment/inference")
    begin = time.time()
    wait_until(lambda: {answer.body["model"]["version"] for answer in callers.since(begin)[-50:]} == {old}, 120)

    wait_until(lambda: not before & pipeline.names(*DEPLOYMENTS), 150, 1)  # a pod that ends works on for 45 s
    figures("each service is rolled out, inference to a new model and back", callers, capsys)
    assert not failed(callers.answers)
    answered = {answer.key: answer.body["model"]["version"] for answer in callers.answers}
    assert len({*answered.values()}) == 2
    audit(pipeline, callers.answers)  # it waits until all are stored
    stored = dict(pipeline.sql("SELECT request_id, model_version FROM results"))
    assert answered.items() <= stored.items()


def test_inference_in_typescript(pipeline, cached_dns, callers, capsys):
    pipeline.follow(pipeline.own(re.search(r"^```shell\n(.*?inference-ts.*?)^```$", pipeline.section(), SCRIPT)[1]))
    pipeline.kubectl("apply", f"--kustomize={pipeline.manifests / 'typescript'}")
    pipeline.wait_until_ready("deployment/inference")
    new = pipeline.names("inference", ending=False)
    wait_until(lambda: answering(pipeline) & new, 90, 1)
    assert {language(pipeline, pod) for pod in new} == {"node"}
    figures("inference is replaced by the one in TypeScript", callers, capsys)
    assert not failed(callers.answers)


def test_a_rollout_that_does_not_become_ready_stops_and_says_why(pipeline, callers, capsys):
    before = pipeline.names("inference", ending=False)
    wrong = [{"op": "replace", "path": "/spec/template/spec/containers/0/readinessProbe/httpGet/path", "value": "/no"}]
    pipeline.kubectl("patch", "deployment/inference", "--type=json", f"--patch={json.dumps(wrong)}")
    wait_until(lambda: "statuscode: 404" in pipeline.kubectl("events", "--types=Warning"), 120, 1)
    with pytest.raises(RuntimeError, match="(?s)inference does not become ready.*Readiness probe failed.*404"):
        pipeline.wait_until_ready("deployment/inference", seconds=1)
    assert before <= pipeline.names("inference", ending=False)
    pipeline.kubectl("rollout", "undo", "deployment/inference")
    pipeline.wait_until_ready("deployment/inference")
    figures("a rollout that stops: a probe asks for a wrong path", callers, capsys)
    assert not failed(callers.answers)


def test_scaled_runs_as_any_user_and_the_change_fails_no_request(pipeline, scaled, capsys):
    figures("`kubernetes/scaled` is applied, with inference in Python again", scaled, capsys)
    assert not failed(scaled.answers)
    assert {language(pipeline, pod) for pod in pipeline.names("inference", ending=False)} == {"python"}
    for pod in pipeline.names(*DEPLOYMENTS, ending=False):
        assert pipeline.kubectl("exec", pod, "--", "id", "-u").strip() == str(ARBITRARY_USER)


@pytest.mark.parametrize("service", ["inference", "gateway"])
def test_a_killed_pod_fails_only_what_it_was_working_on(pipeline, scaled, callers, capsys, service):
    wait_until(lambda: is_known(pipeline), 90, 1)  # a gateway may have started with an old answer of the DNS cache
    pod = min(pipeline.names(service, ending=False))
    pipeline.kubectl("delete", "pod", pod, "--force", "--grace-period=0")
    gone = time.time()
    pipeline.wait_until_ready(f"deployment/{service}")
    callers.wait_for(50)
    figures(f"a pod of {service} is killed", callers, capsys)
    assert len(failed(callers.answers)) <= UNDER_WAY, Counter(str(answer.body) for answer in failed(callers.answers))
    assert all(answer.at < gone + 10 for answer in failed(callers.answers))


def test_the_database_goes_and_no_request_fails(pipeline, scaled, callers, capsys):
    pipeline.kubectl("delete", "pod", "database-0", "--wait=false")
    callers.wait_for(50)
    pipeline.wait_until_ready("statefulset/database")
    figures("the database's pod is deleted", callers, capsys)
    assert not failed(callers.answers)
    assert all(answer.body["stored"] == "queued" for answer in callers.answers)


def test_the_broker_goes_and_the_history_stays(pipeline, scaled, stranger, callers, capsys):
    history = f"http://gateway.{pipeline.namespace}:8000/results?limit=1"
    ask = f"import urllib.request; print(urllib.request.urlopen({history!r}, timeout=5).status)"
    pipeline.kubectl("delete", "pod", "database-0", "--wait=false")  # so that messages wait in the queue
    pipeline.kubectl("scale", "statefulset/broker", "--replicas=0")
    wait_until(lambda: callers.answers[-1].body["stored"] is False, 60)
    pipeline.wait_until_ready("statefulset/database")
    gone = time.monotonic()
    wait_until(lambda: time.monotonic() - gone > 10, 20)  # Kubernetes takes six seconds to see that a pod is not ready
    assert run(*stranger.exec, "python", "-c", ask).strip() == "200"
    pipeline.kubectl("scale", "statefulset/broker", "--replicas=1")
    pipeline.wait_until_ready("statefulset/broker")
    wait_until(lambda: callers.answers[-1].body["stored"] == "queued", 60)
    figures("the broker is taken away and brought back", callers, capsys)
    assert not failed(callers.answers)


def test_a_drain_of_the_broker_s_node_fails_no_request(pipeline, scaled, callers, capsys):
    [broker] = pipeline.pods("broker")
    node = broker["spec"]["nodeName"]
    if len(pipeline.kubectl("get", "nodes", "--output=name").split()) < 2:
        skip("this cluster has one node: create one with kubernetes/kind.yaml")
    try:
        pipeline.drain(node)
        pipeline.wait_until_ready()
        assert node not in {pod["spec"]["nodeName"] for pod in pipeline.pods()}
    finally:
        pipeline.kubectl("uncordon", node)
    wait_until(lambda: callers.answers[-1].body.get("stored") == "queued", 60)
    figures("the broker's node is drained", callers, capsys)
    assert not failed(callers.answers)


def test_every_acknowledged_answer_is_stored_once(pipeline, answers, capsys):
    found = audit(pipeline, answers)
    with capsys.disabled():
        print(f"\n{found}")
    assert (found.lost, found.doubled) == (0, 0)
    assert found.acknowledged > 1000
