"""Measure steps 01 and 02 side by side: python tests/benchmarks/speed.py

README.md says what is measured, how and why. The exit status is 1 if a target is missed.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from datetime import date
from functools import partial
from http.client import HTTPConnection
from importlib.metadata import version
from itertools import product
from pathlib import Path
from time import monotonic, perf_counter

import report
from variants import BATCHING, CONSTANT, FASTAPI, HERE, MODELS, SAMPLE, SHIPPED, VARIANTS, Service, start, train_models

CONNECTIONS = [1, 16, 64]
WARM_UP = 1  # seconds
BATCH_ROWS, BATCHES = 1024, 20  # batches in a round
LIBRARIES = "fastapi flask numpy onnxruntime orjson pydantic scikit-learn starlette uvicorn uvloop waitress".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--seconds", type=int, default=3, help="how long a measurement takes (3)")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder for results.md and results.json (this one)")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    server_core, client_core = find_cores()
    os.sched_setaffinity(0, [client_core])  # our own, and with it that of wrk
    run = partial(start, server_core)

    with tempfile.TemporaryDirectory() as models:
        train_models(Path(models))
        results = {
            "setting": f"{describe_machine()} Rounds: {options.rounds}; seconds a measurement: {options.seconds}.",
            "growth": measure_growth(run, Path(models) / SHIPPED),
            "batches": measure_batches(run, Path(models) / SHIPPED, options.rounds * BATCHES),
            **measure_speed(run, Path(models), options.rounds, options.seconds),
        }
    text, reached = report.write(results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "results.md").write_text(text)
    print(text, end="")
    sys.exit(not reached)


def find_cores() -> list[int]:
    """The core that serves and the core that asks."""
    for tool, package in {"taskset": "util-linux", "wrk": "wrk"}.items():
        if not shutil.which(tool):
            sys.exit(f"the benchmark runs on Linux and needs {tool}: apt install {package}")
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("the benchmark needs two cores, one that serves and one that asks, and may use only one here")
    return cores


def describe_machine() -> str:
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    name = processor[1] if processor else platform.machine()  # ARM has no such line
    return f"{date.today()}, {name}, {os.cpu_count()} cores. Python {platform.python_version()}, {libraries}."


def measure_speed(run, models: Path, rounds: int, seconds: int) -> dict:
    """Measure each variant with each model over each number of connections, once a round; at the end, its memory."""
    speed, memory = [], {model: {} for model in MODELS}
    with ExitStack() as stack:
        services = start_all(stack, run, models)
        for number, connections in product(range(1, rounds + 1), CONNECTIONS):
            # Every other round runs backwards, so that a drift of the machine's speed favours neither end.
            for (model, variant), service in list(services.items())[:: 1 if number % 2 else -1]:
                service.process().resume()
                load(service, connections, WARM_UP)
                figures = load(service, connections, seconds)
                service.process().suspend()
                case = {"round": number, "model": model, "variant": variant, "connections": connections}
                speed.append(case | figures)
                say(
                    f"round {number}, {connections:2} at a time, {model} model, {variant}: "
                    "{rate:,.0f} requests/s, p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms".format(**figures)
                )
        for (model, variant), service in services.items():
            memory[model][variant] = resident_mb(service)
    return {"speed": speed, "memory": memory}


def start_all(stack: ExitStack, run, models: Path) -> dict[tuple[str, str], Service]:
    """Start every variant with every model, see that it recognizes the sample, and suspend it.

    Only the one that is measured runs: an idle server still wakes ten times a second, on the same core.
    """
    services = {}
    for model, variant in product(MODELS, VARIANTS):
        if variant == CONSTANT and model != SHIPPED:  # a constant needs no model
            continue
        say(f"starting {variant}, {model} model")
        service = services[model, variant] = stack.enter_context(run(models / model, *VARIANTS[variant]))
        with connect(service) as connection:
            answer = json.loads(ask(connection, SAMPLE.read_bytes()))
        if answer["prediction"] != [3]:
            sys.exit(f"the sample is a 3; the answer was {answer}")
        stack.callback(service.process().resume)  # at the end, so that it hears that it is to stop
        service.process().suspend()
    return services


def measure_growth(run, models: Path, requests: int = 20_000) -> dict[str, list[float]]:
    """Take the memory of step 02 after a tenth of so many requests, and after so many more."""
    growth = {}
    for variant in BATCHING:
        with run(models, *VARIANTS[variant]) as service:
            growth[variant] = []
            for enough in (requests // 10, requests):
                answered = 0
                while answered < enough:
                    answered += load(service, 16, seconds=1)["requests"]
                growth[variant].append(resident_mb(service))
        say("{}: {:.1f} MB, then {:.1f} MB".format(variant, *growth[variant]))
    return growth


def measure_batches(run, models: Path, batches: int) -> dict[str, list[dict[str, float]]]:
    """Time batches, in ms, over one connection: step 02's answer, and by turns each part of its work (parts.py)."""
    body = json.dumps({"features": [json.loads(SAMPLE.read_bytes())["features"]] * BATCH_ROWS}).encode()
    taken = {variant: [] for variant in BATCHING}
    with ExitStack() as stack:
        connections = {}
        for variant, command in product(taken, (["app.py"], [f"{HERE}/parts.py"])):
            service = stack.enter_context(run(models, FASTAPI, command, VARIANTS[variant][-1]))
            connections.setdefault(variant, []).append(stack.enter_context(connect(service)))
        for number, (variant, (service, parts)) in product(range(-3, batches), connections.items()):
            begin = perf_counter()
            ask(service, body)
            took = {"service": 1000 * (perf_counter() - begin)} | json.loads(ask(parts, body))
            if number >= 0:  # the first few warm up
                taken[variant].append(took)
    say(f"{batches} batches of {BATCH_ROWS:,} rows in each format")
    return taken


def load(service: Service, connections: int, seconds: int) -> dict[str, float]:
    """Let wrk ask, and return its figures when the service has come to rest.

    It may go on for a while with what wrk no longer waits for.
    """
    figures = run_wrk(service.url, connections, seconds)
    process, deadline = service.process(), monotonic() + 60
    while process.cpu_percent(interval=0.1) > 20:  # the system counts in steps of 10 %
        if monotonic() > deadline:
            sys.exit(f"a minute after the load of {connections} connections the service still works on it")
    return figures


def run_wrk(
    url: str, connections: int, seconds: int, body: Path = SAMPLE, content_type: str = "application/json"
) -> dict[str, float]:
    """Let wrk send requests over some connections, each as soon as the last on it is answered; return its figures."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s", "-s", HERE / "request.lua", url],
        env={**os.environ, "BODY_FILE": str(body), "CONTENT_TYPE": content_type},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    if any(figures.pop("errors").values()) or not figures["requests"]:
        sys.exit(f"requests failed or were not answered, so these figures mean nothing:\n{done.stdout}")
    return figures


def connect(service: Service) -> closing[HTTPConnection]:
    return closing(HTTPConnection(service.url.removeprefix("http://"), timeout=60))


def ask(connection: HTTPConnection, body: bytes) -> bytes:
    connection.request("POST", "/inferir", body, {"Content-Type": "application/json"})
    with connection.getresponse() as reply:
        answer = reply.read()
    if reply.status != 200:
        sys.exit(f"{reply.status} for POST /inferir: {answer.decode(errors='replace')}")
    return answer


def resident_mb(service: Service) -> float:
    return service.process().memory_info().rss / 1e6


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
