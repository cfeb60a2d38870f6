"""Do all that needs a network, and say what is left: python3 start.py prepare

prepare                    sets up .venv, installs the Node packages, builds the images if there is Docker
prepare --download FOLDER  does the same, and keeps in a folder what other machines need for it
prepare --offline FOLDER   does the same from that folder, without a network

FOLDER serves machines of the same kind: the same system, processor and version of Python. It holds wheels/, npm/ (a
cache of npm), images.tar if there was Docker, and contents.json, which is written last and says what has to be there.
"""

import argparse
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import start

STEPS = start.ROOT / "steps"
PIPELINE = STEPS / "03_pipeline"
TYPESCRIPT = PIPELINE / "inference_ts"
sys.path.append(str(PIPELINE))
from node import is_installed  # type: ignore[import-not-found] # noqa: E402 # node.py of step 03

COMPOSE = ["docker", "compose", f"--project-directory={STEPS / '04_docker'}"]
COMPOSE += [f"--file={STEPS / '04_docker' / 'compose.yaml'}"]
IN_TYPESCRIPT = [*COMPOSE, f"--file={STEPS / '04_docker' / 'compose.typescript.yaml'}"]
BUILDS = {  # the images of the steps, under the names that their READMEs use
    "step 01": ["docker", "build", "--tag=inferir-flask", str(STEPS / "01_flask")],
    "step 02": ["docker", "build", "--tag=inferir-fastapi", str(STEPS / "02_fastapi")],
    "step 04": [*COMPOSE, "build"],
    "step 04 in TypeScript": [*IN_TYPESCRIPT, "build", "inference"],
}
KIND = f"{platform.system()} {platform.machine()}, Python {sys.version_info[0]}.{sys.version_info[1]}"
LOCK = hashlib.sha256(start.LOCK.read_bytes()).hexdigest()
FOLDER_GB = 4  # the packages 0.7, the images up to 3
FAILED = "this failed, and says above why: correct that and run the command again"
NO_DOCKER = "install Docker and start it, then run this again; without it, notebook 04 and the end of 05 are skipped"
NO_IMAGES = "the folder has none, as there was no Docker where it was filled; fill it on a machine with Docker"
NO_CLUSTER = "install kind and kubectl, or do without notebook 04_kubernetes"
CLUSTER = "while there is a network, run `kind create cluster --config steps/04_docker/kubernetes/kind.yaml`"


def prepare(arguments: list[str]) -> int:
    """Return the exit code: 1 if something failed. What this machine cannot have is no failure."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("start.py prepare", description=__doc__, formatter_class=layout)
    folders = parser.add_mutually_exclusive_group()
    folders.add_argument("--download", type=Path, metavar="FOLDER", help="a new folder, or one to go on with")
    folders.add_argument("--offline", type=Path, metavar="FOLDER", help="one that --download has filled")
    options = parser.parse_args(arguments)
    folder = options.download or options.offline
    if options.offline:
        check(folder)
    if options.download:
        download_wheels(folder)
    if not start.is_set_up():
        start.set_up(folder.resolve() / "wheels" if folder else None)

    todo = {f"set-up ({start.VENV})": "", "Node packages": packages(folder, fill=bool(options.download))}
    if not (start.succeeds("docker", "info") and start.succeeds("docker", "compose", "version")):
        todo["images"] = NO_DOCKER
    elif options.offline:
        todo["images"] = load(folder)
    else:
        todo |= build()
    if options.download:
        failed = FAILED in todo.values() or ("images" not in todo and not save(folder))
        todo[f"{folder}, for {KIND}"] = FAILED if failed else write_contents(folder)
    has_kind = shutil.which("kind") and shutil.which("kubectl")
    cluster = has_kind and start.succeeds("kubectl", "config", "get-contexts", "kind-kind")  # asks no cluster
    todo["a Kubernetes cluster"] = "" if cluster else CLUSTER if has_kind else NO_CLUSTER
    print()
    for thing, remedy in todo.items():
        start.line(not remedy, thing, remedy)
    return int(FAILED in todo.values())


# the folder


def check(folder: Path) -> None:
    """End the program, with the reason, if this machine cannot be set up from the folder."""
    try:
        contents = json.loads((folder / "contents.json").read_text())
    except (OSError, ValueError):
        start.stop(f"{folder} is not complete: on a network, run `prepare --download {folder}` until all is ok.")
    if contents["kind"] != KIND:
        start.stop(f"{folder} is for {contents['kind']}, this is {KIND}: fill one on a machine of this kind.")
    if contents["lock"] != LOCK:
        start.stop(f"{folder} is for another version of inferir: fill it again, or take that version.")
    lost = sorted(name for name, size in contents["files"].items() if size != size_of(folder / name))
    if lost:
        start.stop(f"{folder} lacks {len(lost)} files, or parts of them ({', '.join(lost[:2])}): copy it again.")


def write_contents(folder: Path) -> str:
    """Say in the folder what it is for, and which files make it complete."""
    contents = folder / "contents.json"  # one of an earlier download may be there
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != contents]
    sizes = {file.relative_to(folder).as_posix(): size_of(file) for file in files}
    contents.write_text(json.dumps({"kind": KIND, "lock": LOCK, "files": sizes}, indent=1))
    return ""


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


# packages


def download_wheels(folder: Path) -> None:
    """Put what requirements.lock names into folder/wheels. What is there already is not downloaded again."""
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < FOLDER_GB * 1e9:
        start.stop(f"The disk of {folder} is nearly full: free {FOLDER_GB} GB.")
    with tempfile.TemporaryDirectory() as place:  # .venv has no pip if uv made it, and uv downloads for itself alone
        start.run(start.PYTHON, "-m", "venv", place)
        pip = [f"{place}/{start.BIN.name}/python", "-m", "pip", "download", "--require-hashes"]
        start.run(*pip, "--only-binary=:all:", f"--dest={folder / 'wheels'}", f"--requirement={start.LOCK}")


def packages(folder: Path | None, fill: bool) -> str:
    """Install the libraries of inference in TypeScript; `fill` the folder's cache first. Returns what is left to do."""
    install = [start.BIN / "python", PIPELINE / "node.py"]
    with tempfile.TemporaryDirectory() as place:
        if folder and fill:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(TYPESCRIPT / name, place)
            if not done(*install, place, "--logs-max=0", f"--cache={folder.resolve() / 'npm'}"):
                return FAILED
        if is_installed(TYPESCRIPT):
            return ""
        cache = Path(place) / "npm"
        if folder:
            shutil.copytree(folder / "npm", cache)  # npm writes into its cache, and others may use the folder, too
        return "" if done(*install, TYPESCRIPT, *(["--offline", f"--cache={cache}"] if folder else [])) else FAILED


# images


def bases() -> list[str]:
    """The images that ours are built on, as our Dockerfiles name them."""
    files = [file for file in STEPS.rglob("Dockerfile") if "node_modules" not in file.parts]
    return sorted({name for file in files for name in re.findall(r"^ARG \w+=(\S+:\S+)$", file.read_text(), re.M)})


def composed() -> set[str]:
    """The images that Compose starts, built here or not."""
    configs = [[*files, "config", "--images"] for files in (COMPOSE, IN_TYPESCRIPT)]
    return {name for config in configs for name in subprocess.check_output(config, text=True).split()}


def build() -> dict[str, str]:
    """Fetch and build all images. Returns what is left to do, by thing."""
    names = [*bases(), *(name for name in sorted(composed()) if not name.endswith(":local"))]
    todo = {}
    for name in names:
        there = start.succeeds("docker", "image", "inspect", name) or done("docker", "pull", name)
        todo[f"image {name}"] = "" if there else FAILED
    for name, command in BUILDS.items():
        todo[f"images of {name}"] = "" if done(*command) else FAILED
    return todo


def started() -> list[str]:
    """The images that Compose and the READMEs of steps 01 and 02 start, and those that they are built on."""
    return sorted({*bases(), *composed(), "inferir-flask", "inferir-fastapi"})


def save(folder: Path) -> bool:
    tar = folder / "images.tar"
    saved = done("docker", "save", f"--output={tar}", *started())
    if saved:
        tar.chmod(0o644)  # Docker lets nobody else read it, and a folder may be shared
    return saved


def load(folder: Path) -> str:
    tar = folder / "images.tar"
    if not tar.exists():
        return NO_IMAGES
    return "" if done("docker", "load", f"--input={tar}") else FAILED


def done(*command: str | Path) -> bool:
    """Run a tool, which prints what it does and why it fails."""
    print("$", *command, flush=True)
    return subprocess.call(command, stdin=subprocess.DEVNULL) == 0
