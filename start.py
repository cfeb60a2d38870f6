"""Set inferir up, then hand over. Further arguments go to the program that takes over.

python3 start.py         open the first notebook in JupyterLab (the same as: start.py lab)
python3 start.py test    run every test and every notebook, with pytest
python3 start.py check   tell what this machine is ready for
"""

from __future__ import print_function

import platform
import sys

# Every line of this file parses under any old Python, so that its user reads this sentence and not a SyntaxError.
newest = 13 if (sys.platform, platform.machine()) == ("darwin", "x86_64") else 14  # onnxruntime has no more for it
if not (3, 11) <= sys.version_info[:2] <= (3, newest):
    sentence = "inferir needs Python 3.11 to 3.%d, this is %d.%d: get one from python.org and start this file with it"
    sys.exit(sentence % ((newest,) + sys.version_info[:2]))

import hashlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements.lock"
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / "set-up-is-complete"
DISK_GB = 2  # .venv and the downloads it came from
FIRST_PAGE = "/lab/tree/notebooks/00_train_and_pickle.ipynb"
LAB = ["jupyterlab", "--ServerApp.root_dir={}".format(ROOT), "--LabApp.default_url=" + FIRST_PAGE]
NO_NEWS = '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'  # or it asks when it opens
PROGRAMS = {"lab": LAB, "test": ["pytest"]}
PORTS = {8000: "a step's door", 8001: "preprocess", 8002: "inference", 8012: "gRPC", 8003: "storage", 4222: "broker"}
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "chrome", "msedge"]  # on Windows, Edge is always there
BROWSERS += ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"]
BROWSERS += ["C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe"]


def succeeds(*command):
    """Tell whether a command exists and exits with 0 within two minutes. What it prints is not shown."""
    try:
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def fingerprint():
    """What .venv has to be made from: this Python and the lock."""
    return "{} {}".format(sys.version_info[:2], hashlib.sha256(LOCK.read_bytes()).hexdigest())


def is_set_up():
    return STAMP.exists() and STAMP.read_text() == fingerprint() and succeeds(BIN / "python", "-c", "")


def set_up():
    """Make .venv anew from the lock, every download checked against its hash. Downloads stay in uv's own cache."""
    if shutil.disk_usage(ROOT).free < DISK_GB * 1e9:
        sys.exit("The disk is nearly full: free {} GB, then run this again.".format(DISK_GB))
    print("Setting up {} (once; about 290 MB to download)".format(VENV), flush=True)
    deadline = time.monotonic() + 15  # what an interrupted set-up left running may still write there
    while VENV.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        time.sleep(0.1)
        if time.monotonic() > deadline:
            sys.exit("{} cannot be replaced: stop what runs from it, JupyterLab say, then run this again.".format(VENV))
    uv, python = shutil.which("uv"), sys._base_executable  # sys.executable may be in the .venv just removed
    if not succeeds(*([uv, "venv", "--python", python, VENV] if uv else [python, "-m", "venv", VENV])):
        sys.exit("Python could not make {}: on Debian and Ubuntu, `apt install python3-venv` first.".format(VENV))
    if not uv:
        print("Fetching uv, which fetches the rest", flush=True)
        uv, pinned = BIN / "uv", VENV / "uv.txt"
        pinned.write_text(re.search(r"^uv==(.*\\\n)*.*", LOCK.read_text(), re.MULTILINE).group())
        if subprocess.call([BIN / "python", "-m", "pip", "install", "--require-hashes", "--retries=1", "-r", pinned]):
            sys.exit("uv could not be downloaded: check the network and run this again, or install uv yourself.")
    if subprocess.call([uv, "pip", "sync", "--require-hashes", "--python", VENV, LOCK]):
        sys.exit("The set-up is not complete: check the network (uv says more above), then run this again.")
    (VENV / "etc/jupyter/labconfig").mkdir(parents=True, exist_ok=True)
    (VENV / "etc/jupyter/labconfig/page_config.json").write_text(NO_NEWS)
    STAMP.write_text(fingerprint())


def check():
    """Print a line for each thing that inferir uses, with its remedy where it is missing."""

    def line(ok, thing, remedy=""):
        print("ok    " + thing if ok else "todo  {}: {}".format(thing, remedy))

    free, done = shutil.disk_usage(ROOT).free / 1e9, is_set_up()
    line(True, "Python {}.{}.{}".format(*sys.version_info))
    line(done or free > DISK_GB, "disk ({:.1f} GB free)".format(free), "free {} GB".format(DISK_GB))
    line(done, "set-up", "run `python3 start.py` once, on a good network")
    for port, user in PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(1)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        line(not taken, "port {} ({})".format(port, user), "stop the program that listens on it")
    line(succeeds("docker", "info"), "Docker daemon (for containers)", "install Docker Desktop or Engine, and start it")
    line(succeeds("docker", "compose", "version"), "Docker Compose (for containers)", "it comes with Docker Desktop")
    line(any(map(shutil.which, BROWSERS)), "browser (for the browser tests)", "install Chrome or Chromium")


def main(arguments):
    command = "lab" if not arguments or arguments[0].startswith("-") else arguments.pop(0)
    if arguments[:1] in (["-h"], ["--help"]) and command == "lab":
        return print(__doc__)
    if command == "check":
        return check()
    if command not in PROGRAMS:
        sys.exit("There is no `start.py {}`: it is lab (or nothing), test or check.".format(command))
    if not is_set_up():
        set_up()
    os.chdir(ROOT)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process compiles scikit-learn anew, for three seconds
    takes_over = [str(BIN / "python"), "-m"] + PROGRAMS[command] + arguments
    if os.name != "nt":
        os.execv(takes_over[0], takes_over)
    return subprocess.call(takes_over)  # Windows cannot put one program in the place of another


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Interrupted: run the same command again.")
