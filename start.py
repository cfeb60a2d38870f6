"""Set inferir up, then hand over to a program. Further arguments go to that program.

python3 start.py               open the first notebook in JupyterLab (the same as: start.py lab)
python3 start.py test          run every test and every notebook; print how long each part takes
python3 start.py test --quick  run the tests that need no Docker, no browser and no notebook
python3 start.py test -k name  give arguments to pytest, which then runs once over tests/ and notebooks/
python3 start.py check         tell what this machine is ready for
python3 start.py prepare       do all that needs a network; --help tells how to carry it to other machines
"""

import platform
import sys

# Python 3.6 can parse this file, so that its user reads this sentence and not a SyntaxError.
newest = 13 if (sys.platform, platform.machine()) == ("darwin", "x86_64") else 14  # onnxruntime has no more for it
if not (3, 11) <= sys.version_info[:2] <= (3, newest):
    found = "{}.{}".format(*sys.version_info)
    sys.exit(
        f"inferir needs Python 3.11 to 3.{newest}, this is {found}: get one from python.org and start this file with it"
    )

import hashlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements.lock"
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / "set-up-is-complete"
PYTHON = getattr(sys, "_base_executable", sys.executable)  # sys.executable may be in the .venv that is removed
DISK_GB = 2  # .venv and the downloads it came from
FIRST_PAGE = "/lab/tree/notebooks/00_train_and_pickle.ipynb"
LAB = ["-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url={FIRST_PAGE}"]
NO_NEWS = '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'  # or it asks when it opens
LEAKS = ["PYTHONPATH", "PYTHONHOME", "JUPYTER_PATH", "PYTEST_PLUGINS", "PIP_TARGET", "PIP_PREFIX"]
LEAKS += ["HOST", "PORT", "WORKERS", "DATABASE_URL"]  # settings of the services that other programs use, too
LEAKS += ["PYTHONDONTWRITEBYTECODE"]  # with it, each process compiles scikit-learn again, for three seconds
EVERY_TEST, PYTEST = ["tests/run.py"], ["-m", "pytest"]
COMMANDS = ["lab", "test", "check", "prepare"]
PORTS = {8000: "a step's service", 8001: "preprocess", 8002: "inference", 8012: "gRPC", 8003: "storage", 4222: "broker"}
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome", "msedge"]  # on Windows, Edge is always there
BROWSERS += ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"]
BROWSERS += ["C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe"]


def succeeds(*command: "str | Path") -> bool:
    """Tell whether a command exists and exits with 0 within two minutes. What it prints is not shown."""
    try:
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def fingerprint() -> str:
    """What .venv has to be made from: this Python and the lock."""
    return f"{sys.version_info[:2]} {hashlib.sha256(LOCK.read_bytes()).hexdigest()}"


def is_set_up() -> bool:
    return STAMP.exists() and STAMP.read_text() == fingerprint() and succeeds(BIN / "python", "-c", "")


def stop(reason: str) -> NoReturn:
    sys.exit(f"{reason} Then run this again.")


def run(*command: "str | Path") -> None:
    """Run a tool, which prints what it does and why it fails. If it fails, end the program."""
    try:
        if subprocess.call(command) == 0:
            return
    except OSError as error:
        print(error, file=sys.stderr)
    stop(f"The set-up is not complete: `{Path(command[0]).stem}` failed, and says why above. Correct that.")


def set_up(wheels: "Path | None" = None) -> None:
    """Make a new .venv from the lock: from a folder of wheels, or from the network into uv's own cache.

    Each file is checked against its hash.
    """
    if shutil.disk_usage(ROOT).free < DISK_GB * 1e9:
        stop(f"The disk is nearly full: free {DISK_GB} GB.")
    if VENV.is_symlink() or VENV.is_file():
        stop(f"{VENV} is a link or a file, not a folder: move it away.")
    for folder in (ROOT, VENV):
        if folder.exists() and not os.access(folder, os.W_OK):
            stop(f"You may not write to {folder}: copy the project to a folder of your own, or change its owner.")
    print(f"Setting up {VENV} (once; {f'from {wheels}' if wheels else 'about 500 MB to download'})", flush=True)
    deadline = time.monotonic() + 15  # a process of an interrupted set-up may still write there
    while VENV.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        time.sleep(0.1)
        if time.monotonic() > deadline:
            stop(f"{VENV} cannot be replaced: stop what runs from it (JupyterLab?), or remove it yourself.")
    source = ["--no-index", f"--find-links={wheels}"] if wheels else []
    uv = shutil.which("uv")
    if uv and succeeds(uv, "--version"):  # pyenv puts programs on PATH that only say that they are not installed
        run(uv, "venv", "--quiet", "--python", PYTHON, VENV)
    else:
        run(PYTHON, "-m", "venv", VENV)
        print("Fetching uv, which fetches the rest", flush=True)
        uv, pinned = str(BIN / "uv"), VENV / "uv.txt"
        pinned.write_text("\n".join(re.findall(r"^uv==(?:.*\\\n)*.*", LOCK.read_text(), re.MULTILINE)))
        run(BIN / "python", "-m", "pip", "install", "--require-hashes", "--retries=1", *source, "-r", pinned)
    run(uv, "pip", "sync", "--require-hashes", *source, "--python", VENV, LOCK)
    (VENV / "etc/jupyter/labconfig").mkdir(parents=True, exist_ok=True)
    (VENV / "etc/jupyter/labconfig/page_config.json").write_text(NO_NEWS)
    STAMP.write_text(fingerprint())


def clean_environment() -> None:
    """Drop what would change what we start, and hand pip's mirror on to uv."""
    for name in LEAKS:
        os.environ.pop(name, None)
    os.environ["PIP_USER"] = "0"  # pip's own settings may say otherwise
    if os.environ.get("PIP_INDEX_URL"):
        os.environ.setdefault("UV_INDEX_URL", os.environ["PIP_INDEX_URL"])


def line(ok: bool, thing: str, remedy: str = "") -> None:
    print(f"ok    {thing}" if ok else f"todo  {thing}: {remedy}")


def check() -> None:
    """Print a line for each thing that inferir uses, with what to do where it is missing."""
    free, done = shutil.disk_usage(ROOT).free / 1e9, is_set_up()
    line(True, "Python {}.{}.{}".format(*sys.version_info))
    line(done or free > DISK_GB, f"disk ({free:.1f} GB free)", f"free {DISK_GB} GB")
    line(done, "set-up", "run `python3 start.py prepare` once, on a good network")
    for port, user in PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(1)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        line(not taken, f"port {port} ({user})", "stop the program that listens on it")
    line(succeeds("docker", "info"), "Docker daemon (for containers)", "install Docker Desktop or Engine, and start it")
    line(succeeds("docker", "compose", "version"), "Docker Compose (for containers)", "it comes with Docker Desktop")
    line(any(map(shutil.which, BROWSERS)), "browser (for the browser tests)", "install Chrome or Chromium")


def program(command: str, arguments: list) -> list:
    """What Python runs for a command: its own arguments."""
    if command == "lab":
        return LAB + arguments
    return (EVERY_TEST if arguments in ([], ["--quick"]) else PYTEST) + arguments


def main(arguments: list) -> int:
    command = "lab" if not arguments or arguments[0].startswith("-") else arguments.pop(0)
    if arguments[:1] in (["-h"], ["--help"]) and command == "lab":
        print(__doc__)
        return 0
    if command not in COMMANDS:
        sys.exit(f"There is no `start.py {command}`: it is lab (or nothing), test, check or prepare.")
    clean_environment()
    if command == "check":
        check()
        return 0
    if command == "prepare":
        from prepare import prepare  # which uses this file, too

        return prepare(arguments)
    if not is_set_up():
        set_up()
    os.chdir(ROOT)
    takes_over = [str(BIN / "python"), *program(command, arguments)]
    if os.name != "nt":
        os.execv(takes_over[0], takes_over)
    return subprocess.call(takes_over)  # Windows cannot put one program in the place of another


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Interrupted: run the same command again.")
    except OSError as error:
        sys.exit(f"The set-up cannot go on: {error}")
