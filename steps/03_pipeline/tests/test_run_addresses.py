"""Where run.py says that services listen, from the settings alone; and the sentences for settings that are wrong."""

import os
import re
import socket

import pytest

import addresses
from ports import free_port, free_settings, port_of
from runs import eventually

REST = {"gateway": {"http": 8000}, "preprocess": {"http": 8001}, "inference": {"http": 8002}, "storage": {"http": 8003}}
GRPC = {"inference": {"grpc": 8012, "http": 8002}}
NATS = {"broker": {"nats": 4222}}
STORAGE = "http://127.0.0.1:8003 or nats://127.0.0.1:4222"
INFERENCE = "http://127.0.0.1:8002 or grpc://127.0.0.1:8012"


@pytest.fixture
def environ(monkeypatch) -> dict[str, str]:
    """The environment that run.py reads, with no settings in it."""
    monkeypatch.setattr(os, "environ", {})
    return os.environ


def find_all(wires: list[str]) -> list[addresses.Address]:
    settings = addresses.set_defaults(wires)
    return [address for service in settings for address in addresses.find_addresses(service, settings[service])]


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
    found = find_all(wires)
    grpc, nats = "grpc" in wires, "nats" in wires
    assert environ["INFERENCE_URL"] == ("grpc://127.0.0.1:8012" if grpc else "http://127.0.0.1:8002")
    assert environ["STORAGE_URL"] == ("nats://127.0.0.1:4222" if nats else "http://127.0.0.1:8003")
    assert environ.get("STORAGE_HTTP_URL") == ("http://127.0.0.1:8003" if nats else None)
    assert environ.get("NATS_URL") == ("nats://127.0.0.1:4222" if nats else None)
    assert {address.name: address.ports for address in found} == ports
    assert {address.host for address in found} == {"127.0.0.1"}


def test_a_url_on_another_machine_is_not_started_here(environ):
    environ |= {"PREPROCESS_URL": "http://preprocess.example.org,http://localhost:8011"}
    environ |= {"STORAGE_URL": "nats://broker.example.org:4222", "STORAGE_HTTP_URL": "https://storage.example.org"}
    assert [address.urls for address in find_all([])] == [
        ["http://127.0.0.1:8000"],
        ["http://localhost:8011"],
        ["http://127.0.0.1:8002"],
    ]


@pytest.mark.parametrize(
    ("wires", "settings", "sentence"),
    [
        ([], {"PORT": "http"}, "PORT is 'http': it should look like 8000"),
        ([], {"PORT": "0"}, "PORT is '0': it should look like 8000"),
        ([], {"PORT": "65536"}, "PORT is '65536': it should look like 8000"),
        ([], {"PORT": "8000,8001"}, "PORT is '8000,8001': it should look like 8000"),
        ([], {"STORAGE_URL": "127.0.0.1:8003"}, f"STORAGE_URL is '127.0.0.1:8003': it should look like {STORAGE}"),
        (
            [],
            {"STORAGE_URL": "http://127.0.0.1:8003,nats://127.0.0.1:4222"},
            f"STORAGE_URL is 'http://127.0.0.1:8003,nats://127.0.0.1:4222': it should look like {STORAGE}",
        ),
        (
            [],
            {"STORAGE_URL": "nats://127.0.0.1:4222", "STORAGE_HTTP_URL": "127.0.0.1"},
            "STORAGE_HTTP_URL is '127.0.0.1': it should look like http://127.0.0.1:8003",
        ),
        ([], {"INFERENCE_URL": "http://[::1]"}, f"INFERENCE_URL is 'http://[::1]': it should look like {INFERENCE}"),
        (
            [],
            {"INFERENCE_URL": "grpc://127.0.0.1:10"},
            f"INFERENCE_URL is 'grpc://127.0.0.1:10': it should look like {INFERENCE}",
        ),
        (
            [],
            {"PREPROCESS_URL": "http://127.0.0.1:8001,"},
            "PREPROCESS_URL is 'http://127.0.0.1:8001,': it should look like http://127.0.0.1:8001",
        ),
        (
            [],
            {"PREPROCESS_URL": "grpc://127.0.0.1:8011"},
            "PREPROCESS_URL is 'grpc://127.0.0.1:8011': it should look like http://127.0.0.1:8001",
        ),
        (
            ["grpc", "nats"],
            {"INFERENCE_URL": "http://127.0.0.1:8002"},
            "INFERENCE_URL is 'http://127.0.0.1:8002': with --wires grpc,nats it should look like grpc://127.0.0.1:8012",
        ),
        (
            ["nats"],
            {"STORAGE_URL": "https://storage.example.org"},
            "STORAGE_URL is 'https://storage.example.org': with --wires nats it should look like nats://127.0.0.1:4222",
        ),
        (
            ["rest"],
            {"STORAGE_URL": "nats://user:secret@broker.example.org"},
            "STORAGE_URL is 'nats://...@broker.example.org': with --wires rest it should look like http://127.0.0.1:8003",
        ),
        (
            [],
            {"STORAGE_URL": "nats://user:secret@127.0.0.1"},
            f"STORAGE_URL is 'nats://...@127.0.0.1': it should look like {STORAGE}",
        ),
        (
            [],
            {"STORAGE_URL": "nats://user:secret@127.0.0.1:4222"},
            "STORAGE_URL is 'nats://...@127.0.0.1:4222': "
            "the broker that is started here has no users: leave out the user and the password",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_an_example(environ, wires, settings, sentence):
    environ |= settings
    with pytest.raises(SystemExit) as exit:
        find_all(wires)
    assert exit.value.code == sentence


def test_only_the_broker_needs_a_url_of_one(run):
    started = run("--only", "broker", STORAGE_URL="http://127.0.0.1:8003")
    assert started.end() == 1
    assert started.text == (
        "STORAGE_URL is 'http://127.0.0.1:8003': a broker needs --wires nats, or a URL like nats://127.0.0.1:4222"
    )


def test_a_wire_that_does_not_exist_is_refused(run):
    started = run("--wires", "grpc,smoke")
    assert started.end() == 2
    assert "argument --wires: 'grpc,smoke' should be one or several of rest,grpc,nats" in started.text


def cannot_listen(name: str, port: int, setting: str) -> str:
    return rf"{name} cannot listen on 127\.0\.0\.1:{port} \(.+\): stop the program there, or change {setting}\."


@pytest.mark.parametrize(
    ("setting", "name", "below"),
    [
        ("PREPROCESS_URL", "preprocess", 0),
        ("INFERENCE_URL", "inference", 0),
        ("INFERENCE_URL", "inference", 10),
        ("STORAGE_URL", "broker", 0),
        ("STORAGE_HTTP_URL", "storage", 0),
    ],
)
def test_a_port_that_is_taken_is_reported_before_anything_starts(environ, settings, wires, setting, name, below):
    environ |= settings | wires
    port = port_of(environ[setting]) - below
    with socket.create_server(("127.0.0.1", port)), pytest.raises(SystemExit) as exit:
        addresses.require_free_ports(find_all([]))
    assert re.fullmatch(cannot_listen(name, port, setting), exit.value.code)


def test_a_port_that_two_of_ours_would_share_is_reported(run):
    port = free_port()
    started = run(INFERENCE_URL=f"grpc://127.0.0.1:{port},grpc://127.0.0.1:{port + 10}")
    assert started.end() == 1
    assert re.fullmatch(cannot_listen(f"inference:{port + 10}", port, "INFERENCE_URL"), started.text)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_addresses_are_of_this_machine_and_printed_with_brackets(run):
    settings = {name: value.replace("127.0.0.1", "[::1]") for name, value in free_settings().items()}
    started = run(**settings, HOST="::1")
    assert started.wait_for("^The pipeline is ready: (.*)$")[1] == f"http://[::1]:{settings['PORT']}"
    for service in ("preprocess", "inference", "storage"):
        assert started.wait_for(rf"^{service} +pid \d+  (.*)$")[1] == settings[f"{service.upper()}_URL"]
    started.interrupt()
    assert started.end() == 0
    assert eventually(started.is_gone)


@pytest.mark.parametrize("host", ["x86_64-conda-linux-gnu", "192.0.2.1"])
def test_a_host_that_is_not_of_this_machine_is_reported_by_its_name(run, host):
    started = run(HOST=host)
    assert started.end() == 1
    assert started.text.startswith(f"HOST is '{host}': this machine cannot listen there (")
