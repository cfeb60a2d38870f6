"""Each container is isolated: users, files, limits, networks and secrets."""

import base64
import json
import os
import re
import time

import pytest
import requests

from changing import copy_steps
from stack import Stack, wait_until

PYTHON = ["gateway", "preprocess", "inference", "storage"]
BUILT = [*PYTHON, "broker"]
RUNNING = [*BUILT, "database"]
PORTS = {"gateway": [8000], "preprocess": [8001], "inference": [8002, 8012], "storage": [8003]}
PORTS |= {"broker": [4222, 8222], "database": [5432]}
NETWORKS = {"front": False, "back": True, "queue": True, "data": True}  # whether it is internal
REACHED = {  # from each service, besides itself
    "gateway": {"preprocess", "inference", "broker", "storage"},
    "preprocess": {"gateway", "inference"},
    "inference": {"gateway", "preprocess"},
    "storage": {"gateway", "broker", "database"},
}
KEEPS = {"broker": {"/data"}, "database": {"/var/lib/postgresql/data", "/run/postgresql"}}  # volumes to write to
SECRETS = [("gateway", "api_key"), ("storage", "database_password"), ("database", "database_password")]
KEY = "a-key-of-the-test/4Zb8"


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The pipeline with a key, from a copy of the steps."""
    folder = copy_steps(tmp_path_factory.mktemp("copied out"))
    (folder / "api_key").write_text(KEY + "\n")
    (folder / "api_key").chmod(0o644)
    with Stack(folder, COMPOSE_FILE=os.pathsep.join(["compose.yaml", "compose.api-key.yaml"])) as stack:
        stack.up()
        yield stack


@pytest.fixture(scope="module")
def containers(stack):
    """What `docker inspect` says about the container of each service."""
    found = json.loads(stack.docker("inspect", *stack.compose("ps", "--all", "--quiet").split()))
    return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}


@pytest.fixture(scope="module")
def inside(stack, containers):
    """Run a shell script, or a list of words, in a service's container, and return what it prints."""

    def inside(service: str, script: str | list[str], *options: str) -> str:
        command = ["sh", "-c", script] if isinstance(script, str) else script
        return stack.docker("exec", *options, containers[service]["Id"], *command)

    return inside


@pytest.fixture(scope="module")
def password(inside):
    return inside("storage", "cat /run/secrets/database_password").strip()


# processes, files, limits


@pytest.mark.parametrize("service", RUNNING)
def test_no_process_is_root_or_can_become_it(inside, service):
    told = inside(service, "cat /proc/[0-9]*/status 2>/dev/null || true")  # a process may have ended
    status = [line.split() for line in told.splitlines()]
    assert [words[1] for words in status if words[0] == "Name:"].count("docker-init") == 1
    for name, *values in status:
        if name in ("Uid:", "Gid:", "Groups:"):
            assert "0" not in values, told
        if name.startswith("Cap"):
            assert int(values[0], 16) == 0, told
        if name == "NoNewPrivs:":
            assert values == ["1"], told
    if service in PYTHON:
        assert inside(service, "for tool in cc gcc g++ clang tcc ld make; do command -v $tool; done; true") == ""


@pytest.mark.parametrize("service", RUNNING)
def test_only_volumes_and_tmp_can_be_written_to(inside, service):
    mounts = [line.split() for line in inside(service, "cat /proc/mounts").splitlines()]
    options = {where: set(options.split(",")) for _, where, _, options, *_ in mounts}
    writable = {where for where in options if "rw" in options[where] and not re.match("/(dev|proc|sys)", where)}
    expected = {"/tmp"} | KEEPS.get(service, set())
    assert writable == expected
    assert options["/tmp"] >= {"noexec", "nosuid", "nodev"}

    folders = "/ /bin /etc /home /opt /root /run /srv /usr /usr/local/bin /var /var/log /venv/bin /service /run/secrets"
    trial = "(: > $each/try) 2>/dev/null && rm $each/try && echo $each"
    attempt = f"for each in {folders} {' '.join(expected)}; do {trial}; done; true"
    assert set(inside(service, attempt).split()) == expected
    # A root user cannot write there either.
    assert set(inside(service, attempt, "--user=0").split()) <= expected


def test_every_container_has_limits_and_no_privilege(containers):
    assert {*containers} == {*RUNNING, "secrets"}
    for service, told in containers.items():
        host = told["HostConfig"]
        assert host["NanoCpus"] > 0 and host["Memory"] > 0 and host["PidsLimit"] > 0, service
        assert host["ReadonlyRootfs"] and not host["Privileged"] and not host["Devices"], service
        assert host["CapDrop"] == ["ALL"] and not host["CapAdd"], service
        assert "no-new-privileges:true" in host["SecurityOpt"] and "unconfined" not in str(host["SecurityOpt"]), service
        assert "host" not in (host["NetworkMode"], host["PidMode"], host["IpcMode"], host["UTSMode"]), service
        assert told["Config"]["User"] not in ("", "0", "root"), service
        assert host["LogConfig"]["Config"]["max-size"], service
        assert host["RestartPolicy"]["Name"] == ("no" if service == "secrets" else "unless-stopped")
        binds = [(mount["Destination"], mount["RW"]) for mount in told["Mounts"] if mount["Type"] == "bind"]
        assert binds == ([("/run/secrets/api_key", False)] if service == "gateway" else [])


def test_docker_waits_longer_than_a_service_takes_to_stop(stack, containers):
    for service in PYTHON:
        config = containers[service]["Config"]
        assert not [setting for setting in config["Env"] if setting.startswith("DRAIN_SECONDS=")]
        drain = re.search(
            r"drain_seconds: float = Field\((\d+),", (stack.services / service / "settings.py").read_text()
        )[1]
        answers = re.search(
            r"timeout_graceful_shutdown=(\d+),", (stack.services / service / "chassis/server.py").read_text()
        )[1]
        assert config["StopTimeout"] > int(drain) + int(answers)
    assert min(containers[service]["Config"]["StopTimeout"] for service in ("broker", "database")) >= 30


# networks

REACH = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def reached(address):
    try:
        socket.create_connection(address.rsplit(":", 1), 2).close()
        return True
    except OSError:
        return False

with ThreadPoolExecutor(len(sys.argv)) as pool:
    print(json.dumps([one for one, well in zip(sys.argv[1:], pool.map(reached, sys.argv[1:])) if well]))
"""


@pytest.fixture(scope="module")
def ports(containers):
    """The service behind each "address:port" in all networks."""
    return {
        f"{network['IPAddress']}:{port}": service
        for service, ports in PORTS.items()
        for network in containers[service]["NetworkSettings"]["Networks"].values()
        for port in ports
    }


def test_only_the_gateway_is_published_and_only_to_this_machine(stack, containers):
    published = {service: told["NetworkSettings"]["Ports"] for service, told in containers.items()}
    published = {service: [*filter(None, ports.values())] for service, ports in published.items()}
    assert published.pop("gateway") == [[{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]]
    assert not any(published.values())


def test_from_the_front_network_only_the_gateway_is_reached(stack, ports):
    front = stack.inspect(f"{stack.project}_front")
    host = f"{front['IPAM']['Config'][0]['Gateway']}:{stack.port}"  # the port is published only to 127.0.0.1
    options = [f"--network={stack.project}_front", "--rm", "--read-only", "--cap-drop=ALL", stack.image("gateway")]
    found = json.loads(stack.docker("run", *options, "python", "-c", REACH, host, "gateway:8000", *ports))
    assert "gateway:8000" in found
    assert {ports.get(one, one) for one in found} == {"gateway", "gateway:8000"}


@pytest.mark.parametrize("service", PYTHON)
def test_a_service_reaches_only_those_in_its_networks(inside, ports, service):
    found = {ports[one] for one in json.loads(inside(service, ["python", "-c", REACH, *ports]))}
    assert found == {service, *REACHED[service]}


def test_only_the_gateway_has_a_way_out(stack, inside):
    assert {name: stack.inspect(f"{stack.project}_{name}")["Internal"] for name in NETWORKS} == NETWORKS
    for service in RUNNING:
        routes = [line.split() for line in inside(service, "cat /proc/net/route").splitlines()[1:]]
        assert any(destination == "00000000" for _, destination, *_ in routes) == (service == "gateway"), service


# secrets


def test_the_password_is_random_and_kept_and_each_project_has_its_own(stack, password):
    look = ["--entrypoint=cat", "secrets", "/var/run/postgresql/database_password"]
    assert len(base64.b64decode(password, validate=True)) >= 16  # bytes: 128 bits
    with Stack(stack.folder) as other:
        passwords = []
        for _ in range(2):
            other.compose("up", "--quiet-pull", "secrets")
            passwords.append(other.compose("run", "--rm", "--no-TTY", *look).strip())
            other.compose("down")
    assert passwords[0] == passwords[1] != password


def test_only_its_services_see_a_secret_and_nobody_can_change_it(inside, password):
    for service in RUNNING:
        wanted = [name for owner, name in SECRETS if owner == service]
        assert inside(service, "ls /run/secrets 2>/dev/null || true").split() == wanted
    for service, name in SECRETS:
        attempt = f"cd /run/secrets; (echo x >> {name}); rm -f {name}; (: > other); true"
        for options in ([], ["--user=0"]):
            inside(service, attempt, *options)
        assert inside(service, f"cat /run/secrets/{name}").strip() == {"api_key": KEY}.get(name, password)


def test_secrets_are_in_no_environment_command_log_or_setting(stack, containers, inside, password):
    requests.get(stack.url + "/results", headers={"Authorization": f"Bearer {KEY}"}, timeout=10)
    wait_until(lambda: "/results" in stack.compose("logs", "gateway"))
    told = {"config": stack.compose("config"), "logs": stack.compose("logs")}
    told["containers"] = stack.docker("inspect", *(one["Id"] for one in containers.values()))
    told["networks"] = stack.docker("network", "inspect", *(f"{stack.project}_{name}" for name in NETWORKS))
    for service in BUILT:
        told[f"history of {service}"] = stack.docker("history", "--no-trunc", stack.image(service))
        told[f"image of {service}"] = stack.docker("image", "inspect", stack.image(service))
    for service in RUNNING:
        # The public image of PostgreSQL puts the password into the environment of its server. Only the user of the
        # server can read that, and it can read the file, too.
        files = "/proc/[0-9]*/cmdline" + (" /proc/[0-9]*/environ" if service != "database" else "")
        told[f"processes of {service}"] = inside(service, f"cat {files} 2>/dev/null || true")
    assert "DATABASE_PASSWORD_FILE" in told["processes of storage"]
    assert {what for what, text in told.items() for secret in (password, KEY) if secret in text} == set()


def test_the_gateway_asks_for_its_key(stack):
    row = {"features": [0] * 64}

    def status(method: str, path: str, **headers: str) -> int:
        body = row if method == "POST" else None
        return requests.request(method, stack.url + path, json=body, headers=headers, timeout=10).status_code

    closed = [("POST", "/inferir"), ("GET", "/metrics"), ("GET", "/results"), ("GET", "/services")]
    for method, path in closed:
        assert status(method, path) == status(method, path, Authorization=f"Bearer {KEY}x") == 401
        assert status(method, path, Authorization=f"Bearer {KEY}") == 200
    for path in ("/", "/static/page.js", "/docs", "/openapi.json", "/livez", "/readyz"):
        assert status("GET", path) == 200


def test_a_key_file_that_the_service_cannot_read_is_named(stack):
    if "Docker Desktop" in stack.docker("info", "--format={{.OperatingSystem}}"):
        pytest.skip("Docker Desktop lets every container read what its user may read")
    (stack.folder / "api_key").chmod(0o600)
    try:
        with pytest.raises(RuntimeError, match=r"API_KEY_FILE: the file .* cannot be read \(Permission denied\)"):
            stack.compose("run", "--rm", "--no-TTY", "--no-deps", "gateway")
    finally:
        (stack.folder / "api_key").chmod(0o644)


def test_a_stop_is_quick_and_clean(stack, containers):
    """This is the last test of the file: it does not start the stack again."""
    begin = time.monotonic()
    stack.compose("stop")
    took = time.monotonic() - begin
    ended = {service: stack.inspect(containers[service]["Id"])["State"] for service in RUNNING}
    # 143: it ended after SIGTERM. 137: Docker had to kill it.
    assert {service: state["ExitCode"] for service, state in ended.items() if state["ExitCode"] not in (0, 143)} == {}
    assert took < 25  # three stop one after the other, each drains for up to 2 s
