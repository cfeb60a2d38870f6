"""The locks that the images are built from. After a change of requirements: python tests/locks.py"""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {  # each lock that a Dockerfile installs, and what it is made from
    path.with_suffix(".lock"): path
    for dockerfile in sorted((ROOT / "steps").rglob("Dockerfile"))
    for path in sorted(dockerfile.parent.glob("requirements*.txt"))
    if f"COPY {path.stem}.lock" in dockerfile.read_text()
}


def lock(requirements: Path, target: Path) -> None:
    """Pin and hash requirements and all that they need, in the versions of the project's own lock."""
    command = ["uv", "pip", "compile", requirements.name, "-o", target.name, "--generate-hashes", "--no-annotate"]
    command += ["--python-version=3.13", "--python-platform=linux"]
    shown = " ".join(command)
    command += ["--quiet", "--no-emit-index-url", f"--constraint={ROOT / 'requirements.lock'}"]
    subprocess.run([*command, f"--custom-compile-command={shown}"], cwd=requirements.parent, check=True)


if __name__ == "__main__":
    for target, requirements in LOCKS.items():
        lock(requirements, target)
