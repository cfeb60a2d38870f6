"""gRPC in processes of their own: a port that is taken, a shutdown under load, several workers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing

import grpc
import pytest
from calls import arrays, infer_request
from process import PYTHON, environment

from open_inference_pb2_grpc import GRPCInferenceServiceStub
from settings import read_settings


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return found.getsockname()[1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_ends_the_program_and_says_so(program, model_dir, workers):
    command, folder = program
    if workers == "2" and program != PYTHON:
        pytest.skip("in TypeScript there is one process")
    with socket.socket() as taken:
        if workers == "1" and hasattr(socket, "SO_REUSEPORT"):  # a program that would share it
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        env = environment({"model_dir": model_dir, "workers": workers, "grpc_port": address.partition(":")[2]})
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode > 0
    assert f"gRPC cannot listen on {address}: stop the program that does, or change GRPC_PORT" in done.stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRPC_PORT", "eighty"),
        ("GRPC_PORT", "99999"),
        ("PORT", "-1"),
        ("MAX_CONNECTION_AGE_SECONDS", "0"),
        ("MAX_CONNECTION_AGE_SECONDS", "1e9"),
        ("MAX_CONNECTION_AGE_SECONDS", "it's"),
        ("MAX_BODY_BYTES", "0"),
        ("MAX_QUEUE", "1.5"),
        ("HOST", "192.0.2.1"),
    ],
)
def test_an_invalid_setting_ends_the_program_in_typescript_with_the_sentence_of_python(typescript, name, value):
    command, folder = typescript
    env = environment({"grpc_port": 0, name: value})
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    if name == "HOST":
        assert re.match(r"HOST is '192.0.2.1': this machine cannot listen there \(.*\)\. Unset HOST", done.stderr)
        return
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setenv(name, value)
        read_settings()
    assert (done.stderr, done.stdout) == (f"{stopped.value}\n", "")


def test_without_grpc_port_nothing_listens(start, model_dir):
    assert start(model_dir=model_dir).said("gRPC running") == []


def test_it_listens_on_an_address_of_ipv6(start, program, model_dir):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = start(program, model_dir=model_dir, grpc_port=0, host="::1")
    assert arrays(server.stub.ModelInfer(infer_request(), timeout=20))["prediction"] == [7]
    assert server.logged_calls("", 1)[0]["client"].startswith("ipv6:%5B::1%5D:")
    assert server.rest.get("/readyz").status_code == 200


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_sigterm_under_load_loses_no_call_of_a_client_that_repeats_what_is_safe(start, program, model_dir):
    policy = {"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.1s", "backoffMultiplier": 2}
    # CANCELLED: the call reached the server while it closed, and was not begun.
    policy["retryableStatusCodes"] = ["UNAVAILABLE", "CANCELLED"]
    config = {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    settings = {"model_dir": model_dir, "grpc_port": 0}
    stopping, staying = start(program, **settings), start(program, **settings)
    target = "ipv4:" + ",".join(server.grpc_address for server in (stopping, staying))
    stop, answered, errors = threading.Event(), [0] * 16, []

    def ask(number: int, channel: grpc.Channel) -> None:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        try:
            while not stop.is_set():
                assert arrays(infer(infer_request(), timeout=20))["prediction"] == [7]
                answered[number] += 1
        except Exception as error:
            errors.append(error)

    with grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(config))]) as channel:
        clients = [threading.Thread(target=ask, args=(number, channel), daemon=True) for number in range(16)]
        for client in clients:
            client.start()

        def wait_for(more: int) -> None:
            before, end = sum(answered), time.monotonic() + 30
            while sum(answered) < before + more:
                assert not errors and time.monotonic() < end, errors
                time.sleep(0.01)

        wait_for(500)
        stopping.process.send_signal(signal.SIGTERM)
        stopping.process.wait(20)
        wait_for(500)
        stop.set()
        for client in clients:
            client.join(20)
    assert not errors
    assert stopping.other == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not spread connections over workers")
def test_workers_share_the_port_and_count_together(start, model_dir):
    port = free_port()
    server = start(model_dir=model_dir, grpc_port=port, workers=2)
    assert server.said("gRPC running") == [f"gRPC running on 127.0.0.1:{port}"] * 2
    for _ in range(40):  # each on a connection of its own
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            response = GRPCInferenceServiceStub(channel).ModelInfer(infer_request(), timeout=20)
            assert arrays(response)["prediction"] == [7]
    count = 'grpc_request_duration_seconds_count{code="OK",method="ModelInfer"} '
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=20) as response:
        assert count + "40.0" in response.read().decode().splitlines()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)
    assert server.other == []
