"""Every test, with the seconds that each part takes: python3 start.py test

--quick skips what needs Docker, a browser or a notebook, and in the steps what starts processes or waits: see SLOW.

A part is one pytest process. Two workers run parts side by side: one begins with what needs a Kubernetes cluster, the
other with the rest, and both end with what needs Docker. So there is never more than one part that uses the cluster.
What compares times closely has the machine to itself, at the end. So has a notebook that fails and says that something
else may keep the machine busy: it runs once more. What a part prints is shown when it ends. A file of tests or a
notebook that is not named here is a part of "the rest".
"""

import collections
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from trained import ROOT, trained

DOCKER = ["steps/04_docker/tests", "notebooks/04_*.ipynb", "notebooks/05_*.ipynb"]
DOCKER += [f"tests/test_{name}.py" for name in ("containers", "docker_readmes", "images")]
CLUSTER = ["steps/04_docker/tests/test_kubernetes.py", "notebooks/04_kubernetes.ipynb"]
ALONE = ["tests/test_wires.py", "steps/04_docker/tests/test_scaling.py"]
QUICK = ["steps/0[12]*/tests", "steps/03_pipeline/*/tests"]
QUICK += [f"tests/test_{name}.py" for name in ("contract", "copies", "notebooks", "project", "run", "stubs")]
QUICK += [f"tests/test_{name}.py" for name in ("devcontainer", "manifests", "teaching")]
# Files of the steps that start processes or a broker, train a model, wait for a time limit, or try many pictures.
SLOW = ["server", "process", "train", "readme", "crash*", "*outages", "*faults", "*nats*", "dead_letters", "retries"]
SLOW += ["api_key_file", "fuzz", "photo", "grpc_health", "grpc_replicas"]
SLOW += ["grpc_slow", "unusable_model", "other_models"]
# What takes longest begins first, so that no worker ends long after the other. What is not named here comes last.
# The tests on the cluster come before its notebook, whose cells have no time to build all images for the first time.
LONGEST_FIRST = [
    "steps/04_docker/tests/test_kubernetes.py",
    "tests/test_make_it_yours.py",
    "tests/test_start.py",
    "steps/03_pipeline/tests",
]
LONGEST_FIRST += ["tests/test_project.py", "tests/test_images.py", "notebooks/*.ipynb", "steps/02_fastapi/tests"]
LONGEST_FIRST += ["steps/03_pipeline/*/tests", "tests/test_browser.py", "tests/test_wires.py", "tests/test_starters.py"]
LONGEST_FIRST += [f"tests/test_{name}.py" for name in ("page", "openapi", "prepare", "show")]
# Only a notebook needs nbval: to import it takes two seconds of a core. pyproject.toml has options of it.
WITHOUT_NBVAL = ["-pno:nbval", "-oaddopts=--strict-markers"]
TOGETHER = QUICK  # files of one folder that share a process, since each takes a second or two
BUSY = "something else may keep this machine busy"  # as notebooks/lab/measured.py says it
PORTS = ["20000-24999", "25000-29999"]  # of each worker: two services must not get the same


@dataclass
class Part:
    """Some files of tests in one folder, run by one pytest process."""

    folder: Path
    files: list[str]
    seconds: float = 0
    counts: Counter[str] = field(default_factory=Counter)
    failed: bool = False
    busy: bool = False  # a bound failed that a busy machine breaks

    @property
    def name(self) -> str:
        inside = self.folder.relative_to(ROOT).as_posix()
        if len(self.files) == 1:
            return self.files[0] if inside == "." else f"{inside}/{self.files[0]}"
        return "tests (the short ones)" if inside == "." else f"{inside}/tests"

    def run(self, ports: str) -> str:
        """Run the part and return what it printed."""
        env = {**os.environ, "FREE_PORTS": ports}
        if re.match("0[123]", self.folder.name) or self.folder.parent.name == "03_pipeline":
            env["TRAINED_MODEL"] = str(trained(self.folder.relative_to(ROOT / "steps").as_posix()))
        command = [sys.executable, "-m", "pytest", "-q", "-pno:cacheprovider", "-pno:schemathesis", *self.files]
        command += [] if self.files[0].endswith(".ipynb") else WITHOUT_NBVAL
        command += ["--color=yes"] if sys.stdout.isatty() else []
        begin = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.seconds = time.monotonic() - begin
        printed = done.stdout.decode(errors="replace")
        self.counts = count(printed)
        self.failed, self.busy = done.returncode != 0, BUSY in printed
        if self.failed and not self.counts["failed"] + self.counts["error"]:
            self.counts["error"] += 1  # it ended before it could count, or found no test
        return printed


def count(printed: str) -> Counter[str]:
    """Return the numbers in the last line of pytest: passed, failed, error, skipped and so on."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", printed).splitlines()
    closing = next((line for line in reversed(lines) if re.search(r" in [\d.]+s\b", line)), "")
    found = re.findall(r"(\d+) (passed|failed|error|skipped|deselected|xfailed|xpassed|warning)s?\b", closing)
    return Counter({kind: int(number) for number, kind in found})


def files(*patterns: str) -> set[str]:
    """The files of tests and the notebooks that these patterns name, relative to the repository."""
    found: set[Path] = set()
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        found |= set(path.glob("test_*.py")) if path.is_dir() else {path}
    return {path.relative_to(ROOT).as_posix() for path in found}


def parts(names: set[str]) -> list[Part]:
    """The parts that run these files. The tests of a service share a process, and so do the short ones of tests/."""
    groups = collections.defaultdict(list)
    for name in sorted(names):
        folder, _, inside = name.rpartition("tests/")
        if folder:
            groups[folder].append(f"tests/{inside}")
        else:
            groups["short" if name in files(*TOGETHER) else name].append(name)
    order = [files(pattern) for pattern in LONGEST_FIRST]

    def place(part: Part) -> int:
        names = {(part.folder / name).relative_to(ROOT).as_posix() for name in part.files}
        return next((place for place, long in enumerate(order) if names & long), len(order))

    made = [Part(ROOT / key if key.endswith("/") else ROOT, group) for key, group in groups.items()]
    return sorted(made, key=place)


def plan(quick: bool) -> list[list[list[Part]]]:
    """The stages, one after the other: what to run in each. Of three queues, only one worker takes from the last."""
    if quick:
        slow = files(*(f"steps/**/tests/test_{name}.py" for name in SLOW))
        return [[parts(files(*QUICK) - slow), [], []]]
    alone, cluster = files(*ALONE), files(*CLUSTER)
    docker = files(*DOCKER) - alone - cluster
    rest = files("tests", "notebooks/*.ipynb", "steps/*/tests", "steps/*/*/tests") - alone - cluster - docker
    return [[parts(rest), parts(docker), parts(cluster)], [parts(alone)]]


def place_models() -> None:
    """Train each model once and put it where the notebooks look for it, as if the reader had trained it."""
    for folder in ("01_flask", "02_fastapi", "03_pipeline/inference"):
        place = ROOT / "steps" / folder / "model"
        if not place.exists():
            shutil.copytree(trained(folder), place)


def work(queues: list[collections.deque[Part]], ports: str, lock: threading.Lock) -> None:
    """Run the parts of the first queue, then those of the next."""
    while True:
        with lock:
            left = next(filter(None, queues), None)
            if not left:
                return
            part = left.popleft()
        printed = part.run(ports)
        with lock:
            print(f"\n=== {part.name}, {part.seconds:.0f} s\n{printed}", end="", flush=True)


def run(stages: list[list[list[Part]]]) -> None:
    lock = threading.Lock()
    for stage in stages:
        queues = [collections.deque(parts) for parts in stage]
        workers = [queues[:2], queues[::-1]] if len(queues) > 1 else [queues]
        with ThreadPoolExecutor(len(workers)) as threads:
            try:
                for working in [threads.submit(work, *each, lock) for each in zip(workers, PORTS, strict=False)]:
                    working.result()
            finally:
                for queue in queues:
                    queue.clear()  # after an interrupt, which pytest gets too, nothing new is started


def run_again(done: list[Part]) -> None:
    """Run each part that failed on a busy machine once more, by itself."""
    if again := [part for part in done if part.failed and part.busy]:
        print("\nonce more, with the machine to itself:", *(part.name for part in again))
        run([[again]])


def check_minutes(part: Part) -> None:
    """Let a notebook fail that takes less than half of the minutes in its head, or more than twice of them."""
    found = re.search(r"\*\*Time\*\*:[^.]*?\b(\d+) to run", (part.folder / part.files[0]).read_text(encoding="utf-8"))
    said = int(found[1]) if found else 0
    if not 60 * (said - 1) / 2 <= part.seconds <= 60 * said * 2:  # said is rounded up to a minute
        print(f"\n{part.name}: its head says {said} minutes to run, and it took {part.seconds:.0f} s")
        part.failed = True
        part.counts["failed"] += 1


def report(done: list[Part], seconds: float) -> bool:
    """Print the seconds of each part, the longest first, and a last line like pytest's. Return whether all passed."""
    for part in done:
        # Other machines may be slower. And where Docker is missing, a notebook takes no time.
        if os.environ.get("CI") and part.files[0].endswith(".ipynb") and not part.failed:
            check_minutes(part)
    print("\nseconds  part")
    for part in sorted(done, key=lambda part: -part.seconds):
        print(f"{part.seconds:7.0f}  {part.name}{'  FAILED' if part.failed else ''}")
    total = sum((part.counts for part in done), Counter())
    kinds = [kind for kind in ("failed", "error", "passed", "skipped", "xfailed", "xpassed") if total[kind]]
    said = ", ".join(f"{total[kind]} {kind}" for kind in kinds)
    print(f" {said} in {seconds:.2f}s ({int(seconds) // 60} min {seconds % 60:.0f} s) ".center(100, "="))
    return not any(part.failed for part in done)


def main(arguments: list[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # Windows may have no character for what a test prints
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background ignores it
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process compiles scikit-learn again, for three seconds
    begin, stages = time.monotonic(), plan("--quick" in arguments)
    if "--quick" in arguments:
        os.environ.setdefault("TEST_DATABASE_URL", "")  # or storage's tests would start PostgreSQL in Docker
    else:
        place_models()
    run(stages)
    done = [part for stage in stages for queue in stage for part in queue]
    run_again(done)
    passed = report(done, time.monotonic() - begin)
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
