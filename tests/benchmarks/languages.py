"""Measure inference in TypeScript against inference in Python: python tests/benchmarks/languages.py

README.md says what is measured, and how. The report goes to standard output and to languages.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil
import requests
from speed import HERE, describe_machine, find_cores, say
from variants import PYTHON, STEPS, free_port

PIPELINE = STEPS / "03_pipeline"
sys.path += [str(PIPELINE / "inference_ts" / "tests"), str(PIPELINE / "inference"), str(HERE.parent)]

import contract  # noqa: E402
from open_inference_pb2 import ModelInferRequest  # noqa: E402
from trained import trained  # noqa: E402
from typescript import installed_service  # noqa: E402

CALLERS = [1, 16, 64]
PROGRAMS = ["Python", "Python, no batching", "TypeScript", "TypeScript, no batching"]


class Server:
    """A process of the service on one core."""

    def __init__(self, command: list[str | Path], folder: Path, core: int, **settings: str):
        self.grpc_port, self.http_port = free_port(), free_port()
        env = {**os.environ, "MODEL_DIR": str(trained("02_fastapi")), "MODEL_FORMAT": "onnx", **settings}
        env |= {"PORT": str(self.http_port), "GRPC_PORT": str(self.grpc_port), "MAX_CONNECTION_AGE_SECONDS": "3600"}
        begin = time.monotonic()
        self.popen = subprocess.Popen(
            ["taskset", "-c", str(core), *command], cwd=folder, env=env, stdout=subprocess.DEVNULL
        )
        while not self.is_ready():
            if time.monotonic() > begin + 60:
                self.popen.kill()
                raise TimeoutError(command)
            time.sleep(0.005)
        self.seconds = time.monotonic() - begin
        self.process = psutil.Process(self.popen.pid)

    def is_ready(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.http_port}/readyz", timeout=5).ok
        except requests.ConnectionError:
            return False

    @property
    def cpu(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        self.popen.kill()
        self.popen.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=7, help="how often everything is measured (7)")
    parser.add_argument("--seconds", type=int, default=3, help="how long a measurement takes (3)")
    options = parser.parse_args()
    serving, asking = find_cores()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        node, typescript = stack.enter_context(installed_service())
        tensor = {"name": "features", "datatype": "FP32", "shape": [1, len(contract.EXAMPLE)]}
        tensor["contents"] = {"fp32_contents": contract.EXAMPLE}
        message = Path(folder) / "message"
        message.write_bytes(ModelInferRequest(model_name=contract.NAME, inputs=[tensor]).SerializeToString())

        def start(name: str) -> Server:
            settings = {"MAX_BATCH": "1"} if "no batching" in name else {}
            command, place = ([PYTHON, "app.py"], PIPELINE / "inference")
            if name.startswith("TypeScript"):
                command, place = [str(node), "app.ts"], typescript
            return Server(command, place, serving, **settings)

        def load(server: Server, callers: int, seconds: float) -> dict[str, float]:
            before = server.cpu
            command = ["taskset", "-c", str(asking), node, HERE / "calls.mjs", str(server.grpc_port)]
            command += [str(callers), str(seconds), message]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
            figures = json.loads(done.stdout)
            cpu = 1e6 * (server.cpu - before) / figures["calls"]
            return {"rate": figures["calls"] / seconds, "cpu": cpu, "p50": figures["p50"], "p99": figures["p99"]}

        starts: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        measured: dict[tuple[str, int], list[dict[str, float]]] = {}
        for number in range(options.rounds):
            for name in PROGRAMS[::2][:: 1 if number % 2 else -1]:
                server = start(name)
                starts[name].append(server.seconds)
                server.stop()
        servers = {name: start(name) for name in PROGRAMS}
        for server in servers.values():
            stack.callback(server.stop)
            load(server, 16, 2)  # to warm up
        for number in range(options.rounds):
            for callers in CALLERS:
                for name in PROGRAMS[:: 1 if number % 2 else -1]:
                    figures = load(servers[name], callers, options.seconds)
                    measured.setdefault((name, callers), []).append(figures)
                    say(f"round {number + 1}, {callers:2} callers, {name}: {figures['rate']:,.0f} calls/s")
        memory = {name: server.process.memory_info().rss / 1e6 for name, server in servers.items()}
    text = report(measured, starts, memory)
    setting = f"{describe_machine()} Rounds: {options.rounds}; seconds: {options.seconds}."
    text = f"# Speed of inference in two languages\n\n{setting}\n\n{text}"
    (HERE / "languages.md").write_text(text)
    print(text, end="")


def report(measured: dict, starts: dict[str, list[float]], memory: dict[str, float]) -> str:
    def middle(name: str, what: str, format: str) -> str:
        return " / ".join(f"{median(each[what] for each in measured[name, callers]):{format}}" for callers in CALLERS)

    def ratios(name: str) -> str:
        found = []
        for callers in CALLERS:
            pairs = zip(measured[name, callers], measured["Python", callers], strict=True)
            found.append(sorted(one["rate"] / other["rate"] for one, other in pairs))
        return " / ".join(f"{median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})" for each in found)

    lines = ["| | calls/s | of Python's | CPU µs a call | p50 ms | p99 ms | MB | s to start |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in PROGRAMS:
        cells = [middle(name, "rate", ",.0f"), ratios(name), middle(name, "cpu", ",.0f")]
        cells += [middle(name, "p50", ".2f"), middle(name, "p99", ".1f"), f"{memory[name]:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{median(starts[name]):.1f}' if starts[name] else ''} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
