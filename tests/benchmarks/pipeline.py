"""Measure step 03 against step 02, and its wires against each other: python tests/benchmarks/pipeline.py

With --before FOLDER, a checkout of an older commit, the same is measured there by turns, and compared.
README.md says what is measured, how and why. The exit status is 1 if a target is missed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import psutil
import requests
from speed import HERE, describe_machine, find_cores, run_wrk, say
from variants import PYTHON, SAMPLE, STEPS, Service, free_port

from lab.launch import Broker

CONNECTIONS = [1, 16, 64]
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
    PICTURES: (STEPS / "03_pipeline" / "sample_drawing.png", "image/png"),
}
HOPS = ["preprocess", "inference", "storage"]
SPENT = ["gateway", *HOPS, "broker", "alone"]  # whose CPU time is counted, beside the client's
NOW, BEFORE = "now", "before"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--seconds", type=int, default=4, help="how long a measurement takes (4)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="a checkout of an older commit to compare with")
    parser.add_argument("--out", type=Path, default=HERE / "pipeline.md", help="the file to write (pipeline.md)")
    options = parser.parse_args()
    cores = find_cores()
    os.sched_setaffinity(0, cores)  # ours, and so that of wrk and of every service: all share two cores
    checkouts = {NOW: STEPS} | ({BEFORE: options.before.resolve() / "steps"} if options.before else {})
    measured: dict[str, list[dict]] = {checkout: [] for checkout in checkouts}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        started = {checkout: start_all(stack, steps, Path(folder, checkout)) for checkout, steps in checkouts.items()}
        for number, connections in product(range(options.rounds), CONNECTIONS):
            for variant, checkout in list(product(SENT, checkouts))[:: 1 if number % 2 else -1]:
                load(started[checkout], variant, connections, 1)
                figures = load(started[checkout], variant, connections, options.seconds)
                measured[checkout].append({"variant": variant, "connections": connections, **figures})
                what = f"{connections:2} at a time, {variant}, {checkout}"
                say(f"round {number + 1}, {what}: {figures['rate']:,.0f} requests/s")
    text, reached = report(measured[NOW])
    setting = f"{describe_machine()} Rounds: {options.rounds}; seconds: {options.seconds}."
    text = f"# Speed of step 03\n\n{setting}\n\n{text}"
    if options.before:
        text += "\n" + compare(measured[NOW], measured[BEFORE])
    options.out.write_text(text)
    print(text, end="")
    sys.exit(not reached)


def start_all(stack: ExitStack, steps: Path, folder: Path) -> dict[str, Service]:
    """Start step 02 and step 03, with a gateway for each of WIRES. What they log is written, but not read."""
    folder.mkdir()
    subprocess.run(
        [PYTHON, "train.py"], cwd=steps / "02_fastapi", env={**os.environ, "MODEL_DIR": str(folder)}, check=True
    )
    broker = Broker(steps / "03_pipeline", folder, free_port())
    stack.callback(broker.stop)
    broker.wait("", timeout=60)
    ports = {name: free_port() for name in ("alone", *HOPS, *WIRES)}
    rpc_port = free_port()
    env = {"MODEL_DIR": str(folder), "DATABASE_URL": f"sqlite:///{folder.as_posix()}/results.db"}
    env |= {f"{name.upper()}_URL": f"http://127.0.0.1:{ports[name]}" for name in HOPS}
    env["STORAGE_HTTP_URL"] = env["STORAGE_URL"]
    other = {"INFERENCE_URL": f"grpc://127.0.0.1:{rpc_port}", "STORAGE_URL": broker.url}
    own = {"inference": {"GRPC_PORT": str(rpc_port)}, "storage": {"NATS_URL": broker.url}}
    own |= {name: {setting: other[setting] for setting in wires} for name, wires in WIRES.items()}
    services = {"broker": broker}
    for name, port in ports.items():
        place = Path("02_fastapi") if name == "alone" else Path("03_pipeline", "gateway" if name in WIRES else name)
        command = ["sh", "-c", 'exec "$@" > /dev/null 2>&1', "sh", PYTHON, "app.py"]
        services[name] = Service(command, steps / place, port, env | own.get(name, {}))
        stack.callback(services[name].stop)
    for service in services.values():
        service.wait("/readyz", timeout=300)
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


def series(measured: list[dict], variant: str, connections: int, *keys: str) -> list[float]:
    """The figures of all rounds under these keys."""
    found = [each for each in measured if (each["variant"], each["connections"]) == (variant, connections)]
    for key in keys:
        found = [each[key] for each in found]
    return found


def compare(now: list[dict], before: list[dict]) -> str:
    """Return a table of requests/s and CPU time beside those of an older commit. Ratios are paired, round by round."""
    lines = ["Compared with the older commit: requests/s, and the CPU time of a request in all services together:", ""]
    lines.append("| connections | what | before | now | ratio (min–max) | CPU µs before | now | p99 ms before | now |")
    lines.append("| ---: | --- |" + " ---: |" * 7)
    for connections, variant in product(CONNECTIONS, SENT):
        old, new = (series(each, variant, connections, "rate") for each in (before, now))
        ratios = [one / two for one, two in zip(new, old, strict=True)]
        span = f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        line = f"| {connections} | {variant} | {median(old):,.0f} | {median(new):,.0f} | {span} |"
        for figures in (before, now):
            spent = zip(*(series(figures, variant, connections, "cpu_us", name) for name in SPENT), strict=True)
            line += f" {median(map(sum, spent)):,.0f} |"
        for figures in (before, now):
            line += f" {median(series(figures, variant, connections, 'p99_ms')):.1f} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def report(measured: list[dict]) -> tuple[str, bool]:
    """Return tables of medians, as Markdown, and whether the targets are reached."""
    figures = partial(series, measured)

    def ratios(variant: str, connections: int) -> list[float]:
        pairs = zip(figures(variant, connections, "rate"), figures(ALONE, connections, "rate"), strict=True)
        return [one / two for one, two in pairs]

    lines = ["| connections | what | requests/s | of step 02 (min–max) | p50 ms | p99 ms |"]
    lines.append("| ---: | --- | ---: | ---: | ---: | ---: |")
    for connections, variant in product(CONNECTIONS, SENT):
        rate, p50, p99 = (median(figures(variant, connections, key)) for key in ("rate", "p50_ms", "p99_ms"))
        share = ratios(variant, connections)
        span = f"{median(share):.0%} ({min(share):.0%}–{max(share):.0%})"
        lines.append(f"| {connections} | {variant} | {rate:,.0f} | {span} | {p50:.1f} | {p99:.1f} |")

    places = [*SPENT, "client"]
    lines += ["", "CPU time for a request, in microseconds:", ""]
    lines += [f"| connections | what | {' | '.join(places)} |", "| ---: | --- |" + " ---: |" * len(places)]
    for connections, variant in product(CONNECTIONS, SENT):
        spent = (median(figures(variant, connections, "cpu_us", place)) for place in places)
        lines.append(f"| {connections} | {variant} | {' | '.join(f'{each:.0f}' for each in spent)} |")

    lines += ["", "What a request waits for, in milliseconds, as the gateway measures it:", ""]
    lines += [f"| connections | what | {' | '.join(HOPS)} | the rest |", "| ---: | --- |" + " ---: |" * 4]
    for connections, variant in product(CONNECTIONS, (*WIRES, PICTURES)):
        waits = [median(figures(variant, connections, "wait_ms", hop)) for hop in [*HOPS, "total"]]
        waits[-1] -= sum(waits[:-1])
        lines.append(f"| {connections} | {variant} | {' | '.join(f'{each:.2f}' for each in waits)} |")

    share, p99 = median(ratios(ROWS, 16)), median(figures(ROWS, 16, "p99_ms"))
    reached = {
        f"{share:.0%} of step 02's requests/s (at least 30 %)": share >= 0.3,
        f"p99 {p99:.1f} ms (below 100)": p99 < 100,
    }
    lines += ["", "A row, 16 at a time:", ""]
    lines += [f"- {'reached' if good else '**missed**'}: {what}" for what, good in reached.items()]
    return "\n".join(lines) + "\n", all(reached.values())


if __name__ == "__main__":
    main()
