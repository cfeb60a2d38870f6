"""Measure step 03 against step 02, and its wires against each other: python tests/benchmarks/pipeline.py

README.md says what is measured, how and why. The exit status is 1 if a target is missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from statistics import median

import psutil
import requests
from speed import HERE, describe_machine, find_cores, run_wrk, say
from variants import PYTHON, SAMPLE, STEPS, Service, free_port

from lab.launch import Broker

CONNECTIONS = [1, 16, 64]
PIPELINE = STEPS / "03_pipeline"
ALONE, ROWS, PICTURES = "step 02 alone", "pipeline, a row", "pipeline, a picture"
# A gateway for each way to reach inference and storage. All of them share the services behind.
WIRES = {
    ROWS: (),
    "a row, gRPC": ("INFERENCE_URL",),
    "a row, NATS": ("STORAGE_URL",),
    "a row, gRPC and NATS": ("INFERENCE_URL", "STORAGE_URL"),
}
SENT = {  # what is asked, and the media type
    ALONE: (SAMPLE, "application/json"),
    **dict.fromkeys(WIRES, (SAMPLE, "application/json")),
    PICTURES: (PIPELINE / "sample_drawing.png", "image/png"),
}
HOPS = ["preprocess", "inference", "storage"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--seconds", type=int, default=4, help="how long a measurement takes (4)")
    options = parser.parse_args()
    cores = find_cores()
    os.sched_setaffinity(0, cores)  # ours, and so that of wrk and of every service: all share two cores
    measured = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        services = start_all(stack, Path(folder))
        for number, connections in product(range(options.rounds), CONNECTIONS):
            for variant in SENT if number % 2 else reversed(SENT):
                load(services, variant, connections, 1)
                figures = load(services, variant, connections, options.seconds)
                measured.append({"variant": variant, "connections": connections, **figures})
                say(f"round {number + 1}, {connections:2} at a time, {variant}: {figures['rate']:,.0f} requests/s")
    text, reached = report(measured)
    setting = f"{describe_machine()} Rounds: {options.rounds}; seconds: {options.seconds}."
    text = f"# Speed of step 03\n\n{setting}\n\n{text}"
    (HERE / "pipeline.md").write_text(text)
    print(text, end="")
    sys.exit(not reached)


def start_all(stack: ExitStack, folder: Path) -> dict[str, Service]:
    """Start step 02 and step 03, with a gateway for each of WIRES. What they log is written, but not read."""
    subprocess.run(
        [PYTHON, "train.py"], cwd=STEPS / "02_fastapi", env={**os.environ, "MODEL_DIR": str(folder)}, check=True
    )
    broker = Broker(PIPELINE, folder, free_port())
    stack.callback(broker.stop)
    broker.wait("", timeout=20)
    ports = {name: free_port() for name in ("alone", *HOPS, *WIRES)}
    rpc_port = free_port()
    env = {"MODEL_DIR": str(folder), "DATABASE_URL": f"sqlite:///{folder.as_posix()}/results.db"}
    env |= {f"{name.upper()}_URL": f"http://127.0.0.1:{ports[name]}" for name in HOPS}
    other = {"INFERENCE_URL": f"grpc://127.0.0.1:{rpc_port}", "STORAGE_URL": broker.url}
    own = {"inference": {"GRPC_PORT": str(rpc_port)}, "storage": {"NATS_URL": broker.url}}
    own |= {name: {setting: other[setting] for setting in wires} for name, wires in WIRES.items()}
    services = {"broker": broker}
    for name, port in ports.items():
        place = STEPS / "02_fastapi" if name == "alone" else PIPELINE / ("gateway" if name in WIRES else name)
        command = ["sh", "-c", 'exec "$@" > /dev/null 2>&1', "sh", PYTHON, "app.py"]
        services[name] = Service(command, place, port, env | own.get(name, {}))
        stack.callback(services[name].stop)
    for service in services.values():
        service.wait("/readyz", timeout=60)
    return services


def load(services: dict[str, Service], variant: str, connections: int, seconds: int) -> dict:
    """Let wrk ask; return its figures, the CPU time of each process and the gateway's waits, all per request."""
    body, kind = SENT[variant]
    asked = services[{ALONE: "alone", PICTURES: ROWS}.get(variant, variant)]
    cpu, waits = cpu_seconds(services), waited(asked)
    figures = run_wrk(asked.url, connections, seconds, body, kind)
    spent = {name: 1e6 * (after - cpu[name]) / figures["requests"] for name, after in cpu_seconds(services).items()}
    spent["gateway"] = sum(spent[name] for name in WIRES)
    more = {name: after - waits.get(name, 0) for name, after in waited(asked).items()}
    ms = {hop: 1000 * more.get(hop, 0) / figures["requests"] for hop in [*HOPS, "total"]}
    return {**figures, "cpu_us": spent, "wait_ms": ms}


def cpu_seconds(services: dict[str, Service]) -> dict[str, float]:
    """The CPU time of each service with its workers, and of what this program has run (wrk)."""
    spent = {"client": psutil.Process().cpu_times().children_user + psutil.Process().cpu_times().children_system}
    for name, service in services.items():
        process = service.process()
        family = [process, *process.children(recursive=True)]
        spent[name] = sum(times.user + times.system for times in (each.cpu_times() for each in family))
    return spent


def waited(service: Service) -> dict[str, float]:
    """The seconds that a gateway has waited for each service so far, and its requests took in `total`."""
    found = {"total": 0.0}
    for line in requests.get(service.url + "/metrics", timeout=10).text.splitlines():
        if line.startswith("hop_seconds_sum"):
            name = line.split('service="')[1].partition('"')[0]
            found[name] = found.get(name, 0) + float(line.rpartition(" ")[2])
        elif line.startswith("http_request_duration_seconds_sum") and 'route="/inferir"' in line:
            found["total"] += float(line.rpartition(" ")[2])
    return found


def report(measured: list[dict]) -> tuple[str, bool]:
    """Return tables of medians, as Markdown, and whether the targets are reached."""

    def series(variant: str, connections: int, *keys: str) -> list[float]:
        found = [each for each in measured if (each["variant"], each["connections"]) == (variant, connections)]
        for key in keys:
            found = [each[key] for each in found]
        return found

    def ratios(variant: str, connections: int) -> list[float]:
        pairs = zip(series(variant, connections, "rate"), series(ALONE, connections, "rate"), strict=True)
        return [one / two for one, two in pairs]

    lines = ["| connections | what | requests/s | of step 02 (min–max) | p50 ms | p99 ms |"]
    lines.append("| ---: | --- | ---: | ---: | ---: | ---: |")
    for connections, variant in product(CONNECTIONS, SENT):
        rate, p50, p99 = (median(series(variant, connections, key)) for key in ("rate", "p50_ms", "p99_ms"))
        share = ratios(variant, connections)
        span = f"{median(share):.0%} ({min(share):.0%}–{max(share):.0%})"
        lines.append(f"| {connections} | {variant} | {rate:,.0f} | {span} | {p50:.1f} | {p99:.1f} |")

    places = ["gateway", *HOPS, "broker", "alone", "client"]
    lines += ["", "CPU time for a request, in microseconds:", ""]
    lines += [f"| connections | what | {' | '.join(places)} |", "| ---: | --- |" + " ---: |" * len(places)]
    for connections, variant in product(CONNECTIONS, SENT):
        spent = (median(series(variant, connections, "cpu_us", place)) for place in places)
        lines.append(f"| {connections} | {variant} | {' | '.join(f'{each:.0f}' for each in spent)} |")

    lines += ["", "What a request waits for, in milliseconds, as the gateway measures it:", ""]
    lines += [f"| connections | what | {' | '.join(HOPS)} | the rest |", "| ---: | --- |" + " ---: |" * 4]
    for connections, variant in product(CONNECTIONS, (*WIRES, PICTURES)):
        waits = [median(series(variant, connections, "wait_ms", hop)) for hop in [*HOPS, "total"]]
        waits[-1] -= sum(waits[:-1])
        lines.append(f"| {connections} | {variant} | {' | '.join(f'{each:.2f}' for each in waits)} |")

    share, p99 = median(ratios(ROWS, 16)), median(series(ROWS, 16, "p99_ms"))
    reached = {
        f"{share:.0%} of step 02's requests/s (at least 30 %)": share >= 0.3,
        f"p99 {p99:.1f} ms (below 100)": p99 < 100,
    }
    lines += ["", "A row, 16 at a time:", ""]
    lines += [f"- {'reached' if good else '**missed**'}: {what}" for what, good in reached.items()]
    return "\n".join(lines) + "\n", all(reached.values())


if __name__ == "__main__":
    main()
