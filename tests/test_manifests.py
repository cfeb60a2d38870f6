"""The manifests of step 04, as `kubectl kustomize` prints them: what they name exists and fits. Needs no cluster."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from conftest import STEPS, skip
from copies import SERVICES

STEP = STEPS / "04_docker"
MANIFESTS = STEP / "kubernetes"
PIPELINE = STEPS / "03_pipeline"
OVERLAYS = ["local", "scaled", "typescript"]
FIRST_VERSION, TRIED_VERSION = "1.30", "1.35"  # the first that knows preStop with sleep, and the one it was run on
PODS = [*SERVICES, "broker", "database"]
ANSWER_SECONDS = 30  # timeout_graceful_shutdown in chassis/server.py
NATS_HEALTH = "/healthz"
OWN = {"database": {"PGDATA": "/var/lib/postgresql/data/pgdata"}}  # what Compose does not set


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the manifests, with a password."""
    if not shutil.which("kubectl"):
        skip("no kubectl: see https://kubernetes.io/docs/tasks/tools")
    folder = tmp_path_factory.mktemp("manifests") / "kubernetes"
    shutil.copytree(MANIFESTS, folder, ignore=shutil.ignore_patterns("password"))
    (folder / "local" / "password").write_text("a-password-of-the-test\n")
    return folder


def kustomize(folder) -> list[dict]:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def manifests(overlay, folder) -> list[dict]:
    return kustomize(folder / overlay)


@pytest.fixture(scope="module")
def compose(overlay) -> dict:
    """The services of compose.yaml, with its defaults for variables, and of the Compose file for the overlay."""
    services = read_compose("compose.yaml")
    if (STEP / f"compose.{overlay}.yaml").exists():
        for name, changes in read_compose(f"compose.{overlay}.yaml").items():
            services[name] |= changes
    return services


def read_compose(name: str) -> dict:
    text = (STEP / name).read_text().replace("${COMPOSE_PROJECT_NAME}", "inferir")
    return yaml.safe_load(re.sub(r"(?<!\$)\$\{\w+:-([^}]*)\}", r"\1", text))["services"]


def source(compose: dict, name: str) -> Path:
    """The folder that an image is built from."""
    build = compose[name]["build"]
    return STEP / (build if isinstance(build, str) else build["context"])


def code(compose: dict, service: str, name: str) -> str:
    """The text of a file of a service, in its language: app.py or app.ts for "app"."""
    [path] = [path for path in source(compose, service).glob(f"{name}.*") if path.suffix in (".py", ".ts")]
    return path.read_text()


def of(manifests: list[dict], *kinds: str) -> dict[str, dict]:
    """The specs of these kinds, by name."""
    return {found["metadata"]["name"]: found.get("spec", {}) for found in manifests if found["kind"] in kinds}


def workloads(manifests) -> dict[str, dict]:
    return of(manifests, "Deployment", "StatefulSet")


def container(workload: dict) -> dict:
    [only] = workload["template"]["spec"]["containers"]
    return only


def environment(workload: dict) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(workload)["env"]}


def ports(workload: dict) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(workload)["ports"]}


def chosen(manifests, selector: dict) -> set[str]:
    """The workloads whose pods a selector selects."""
    found = set()
    for name, workload in workloads(manifests).items():
        labels = workload["template"]["metadata"]["labels"]
        has = selector.get("matchLabels", {}).items() <= labels.items()
        for wanted in selector.get("matchExpressions", []):
            assert wanted["operator"] == "In"
            has = has and labels.get(wanted["key"]) in wanted["values"]
        found |= {name} if has else set()
    return found


def edges(manifests) -> set[tuple[str, str, int]]:
    """Who speaks to whom at which port, by the URLs in the settings."""
    found = set()
    for name, workload in workloads(manifests).items():
        for setting, value in environment(workload).items():
            if setting.endswith("_URL"):
                url = urlsplit(value)
                port = url.port or {"postgresql+psycopg": 5432}[url.scheme]
                found.add((name, url.hostname, port))
    return found


@pytest.mark.parametrize("version", [FIRST_VERSION, TRIED_VERSION])
def test_manifests_follow_the_schemas_of_kubernetes(manifests, version):
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_there_is_a_workload_and_a_service_for_each_part_all_in_one_namespace(manifests):
    assert {*workloads(manifests)} == {*of(manifests, "Service")} == {*PODS}
    [namespace] = of(manifests, "Namespace")
    rest = [manifest for manifest in manifests if manifest["kind"] != "Namespace"]
    assert {manifest["metadata"]["namespace"] for manifest in rest} == {namespace}


def test_each_url_names_a_service_and_its_port_which_is_one_of_the_pod(manifests):
    services = of(manifests, "Service")
    assert len(edges(manifests)) == 6
    for _, name, port in edges(manifests):
        [served] = services[name]["ports"]  # nothing that nobody asks for
        assert served["port"] == port
    for name, service in services.items():
        for port in service["ports"]:
            assert ports(workloads(manifests)[name])[port["targetPort"]] == port["port"]


@pytest.mark.parametrize("service", [*SERVICES])
def test_ports_are_those_of_the_image(manifests, compose, service):
    exposed = re.search(r"^EXPOSE (.*)$", (source(compose, service) / "Dockerfile").read_text(), re.MULTILINE)[1]
    assert {*ports(workloads(manifests)[service]).values()} == {*map(int, exposed.split())}


def test_policies_allow_what_the_urls_need_and_nothing_else(manifests):
    policies = of(manifests, "NetworkPolicy")
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies.values()
    out, into, lookups = set(), set(), set()
    for policy in policies.values():
        pods = chosen(manifests, policy["podSelector"])
        for rule in policy.get("egress", []):
            for peer in rule["to"]:
                if "namespaceSelector" in peer or "ipBlock" in peer:  # the cluster's DNS
                    assert [port["port"] for port in rule["ports"]] == [53, 53]
                    lookups |= pods
                else:
                    names = chosen(manifests, peer["podSelector"])
                    out |= {(pod, name, port["port"]) for pod in pods for name in names for port in rule["ports"]}
        for rule in policy.get("ingress", []):
            peers = [chosen(manifests, peer["podSelector"]) for peer in rule.get("from", [])] or [{"everybody"}]
            names = set().union(*peers)
            into |= {(name, pod, port["port"]) for pod in pods for name in names for port in rule["ports"]}
    assert out == edges(manifests)
    assert into == edges(manifests) | {("everybody", "gateway", 8000)}
    assert lookups == {source for source, _, _ in edges(manifests)}


def test_each_selector_selects_the_pods_of_one_workload(manifests):
    for name, workload in workloads(manifests).items():
        assert chosen(manifests, workload["selector"]) == {name}
    for name, service in of(manifests, "Service").items():
        assert chosen(manifests, {"matchLabels": service["selector"]}) == {name}
    for name, budget in of(manifests, "PodDisruptionBudget").items():
        assert chosen(manifests, budget["selector"]) == {name}


def test_inference_alone_is_headless(manifests):
    services = of(manifests, "Service")
    assert [name for name, service in services.items() if service.get("clusterIP") == "None"] == ["inference"]


def served(compose: dict, service: str) -> str:
    """The code with the routes of a service."""
    is_typescript = (source(compose, service) / "app.ts").exists()
    return code(compose, service, "http_server" if is_typescript else "app")


@pytest.mark.parametrize("service", [*SERVICES])
def test_probes_ask_for_what_the_service_serves(manifests, compose, service):
    paths = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    if service == "storage":  # once it has started, it answers the history while the broker is away
        paths |= {"startupProbe": "/readyz", "readinessProbe": "/livez"}
    routes = re.findall(r'@app.get\("([^"]*)"|const PROBES = (.*);', served(compose, service))
    for probe, path in paths.items():
        assert container(workloads(manifests)[service])[probe]["httpGet"] == {"path": path, "port": "http"}
        assert path in str(routes)


def test_the_broker_is_asked_where_it_says_how_it_is(manifests):
    broker = container(workloads(manifests)["broker"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = broker[probe]["httpGet"]
        assert (urlsplit(asked["path"]).path, asked["port"]) == (NATS_HEALTH, "monitor")
    assert NATS_HEALTH in (PIPELINE / "broker" / "Dockerfile").read_text()


def test_a_pod_has_the_time_to_give_its_last_responses(manifests, compose):
    for service in SERVICES:
        workload = workloads(manifests)[service]
        default = re.search(r"drain_seconds: float = Field\((\d+)", code(compose, service, "settings"))
        drain = float(environment(workload).get("DRAIN_SECONDS", default[1] if default else 0))
        waits = container(workload)["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert workload["template"]["spec"]["terminationGracePeriodSeconds"] >= waits + drain + ANSWER_SECONDS
        assert workload["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert f"timeout_graceful_shutdown={ANSWER_SECONDS}" in (PIPELINE / "gateway/chassis/server.py").read_text()
    assert f"const STOP_SECONDS = {ANSWER_SECONDS};" in (PIPELINE / "inference_ts/grpc_server.ts").read_text()


def test_an_autoscaler_has_a_request_to_count_in_and_the_replicas_for_itself(folder):
    manifests = kustomize(folder / "scaled")
    scalers = of(manifests, "HorizontalPodAutoscaler")
    assert {*scalers} == {"inference"}
    for scaler in scalers.values():
        target = workloads(manifests)[scaler["scaleTargetRef"]["name"]]
        assert "replicas" not in target
        assert container(target)["resources"]["requests"]["cpu"]
        assert scaler["minReplicas"] > 1


def test_a_budget_always_lets_one_pod_go(folder):
    budgets = of(kustomize(folder / "scaled"), "PodDisruptionBudget")
    assert {*budgets} == {*SERVICES}
    for budget in budgets.values():
        assert (budget["maxUnavailable"], "minAvailable" in budget) == (1, False)


def test_each_file_that_a_setting_names_is_mounted(manifests):
    secrets = {found["metadata"]["name"]: found["data"] for found in manifests if found["kind"] == "Secret"}
    for name, workload in workloads(manifests).items():
        files = {value for setting, value in environment(workload).items() if setting.endswith("_FILE")}
        volumes = {volume["name"]: volume for volume in workload["template"]["spec"]["volumes"]}
        mounted = set()
        for mount in container(workload)["volumeMounts"]:
            if secret := volumes.get(mount["name"], {}).get("secret"):
                assert mount["readOnly"]
                mounted |= {f"{mount['mountPath']}/{key}" for key in secrets[secret["secretName"]]}
        assert files == mounted, name


def test_images_settings_and_memory_are_those_of_compose(manifests, compose):
    for name, workload in workloads(manifests).items():
        assert container(workload)["image"] == compose[name]["image"]
        assert not container(workload)["image"].endswith(":latest") and ":" in container(workload)["image"]
        expected = {setting: str(value) for setting, value in compose[name].get("environment", {}).items()}
        assert environment(workload) == expected | OWN.get(name, {})
        memory = compose[name]["deploy"]["resources"]["limits"]["memory"]
        assert container(workload)["resources"]["limits"] == {"memory": f"{memory}i"}  # and none of CPU


def test_each_pod_has_few_rights_and_asks_for_what_it_needs(manifests):
    [labels] = [found["metadata"]["labels"] for found in manifests if found["kind"] == "Namespace"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for workload in workloads(manifests).values():
        pod, only = workload["template"]["spec"], container(workload)
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        rights = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert only["securityContext"] == rights
        assert {*only["resources"]["requests"]} == {"cpu", "memory"}


def test_users_are_numbers_since_kubernetes_cannot_know_who_a_name_is(manifests, compose):
    for name, workload in workloads(manifests).items():
        user = workload["template"]["spec"]["securityContext"].get("runAsUser")
        if "build" in compose[name]:
            dockerfile = source(compose, name) / "Dockerfile"
            user = re.search(r"^USER (\d+)", dockerfile.read_text(), re.MULTILINE)[1]
        assert int(user) > 0


def test_without_the_password_the_error_names_its_file(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "kubernetes", ignore=shutil.ignore_patterns("password"))
    done = subprocess.run(["kubectl", "kustomize", copied / "local"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "local/password" in done.stderr.replace("\\", "/")


def test_git_ignores_the_password_also_in_a_copy_of_local():
    assert "kubernetes/*/password" in (STEPS / "04_docker" / ".gitignore").read_text().splitlines()
