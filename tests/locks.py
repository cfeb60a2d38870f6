"""The locks that the images of step 04 are built from. After a change of requirements: python tests/locks.py"""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEP = ROOT / "steps" / "04_docker"
LOCKS = {path.with_suffix(".lock"): path for path in sorted(STEP.glob("*/requirements*.txt"))}


def lock(requirements: Path, target: Path) -> None:
    """Pin and hash requirements and all that they need, in the versions of the project's own lock."""
    command = ["uv", "pip", "compile", requirements.name, "-o", target.name, "--generate-hashes", "--no-annotate"]
    command += ["--python-version=3.13", "--python-platform=linux"]
    told = " ".join(command)
    command += ["--quiet", "--no-emit-index-url", f"--constraint={ROOT / 'requirements.lock'}"]
    subprocess.run([*command, f"--custom-compile-command={told}"], cwd=requirements.parent, check=True)


if __name__ == "__main__":
    for target, requirements in LOCKS.items():
        lock(requirements, target)
