"""The service in TypeScript, for tests: its command, with libraries that are installed once for each lock."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PIPELINE = Path(__file__).resolve().parents[2]
SERVICE = PIPELINE / "inference_ts"
sys.path.append(str(PIPELINE))  # for node.py


@contextmanager
def installed_service() -> Iterator[tuple[Path, Path]]:
    """Give Node and a copy of the service that it can run. The copy is gone after the block.

    Where it cannot run, the test is skipped. The CI machine lacks nothing: there, the test fails.
    """
    if not SERVICE.exists():
        pytest.skip("inference_ts is not beside this folder")
    from node import MISSING, find_node, npm_ci

    node = find_node()
    if not node:
        pytest.fail(MISSING) if os.environ.get("CI") else pytest.skip(MISSING)
    locked = [SERVICE / name for name in ("package.json", "package-lock.json")]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in locked)).hexdigest()[:16]
    kept = SERVICE / ".cache" / key
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            new = Path(folder) / "new"
            new.mkdir()
            for path in locked:
                shutil.copy(path, new)
            done = subprocess.run(npm_ci(node, new), capture_output=True, text=True, timeout=500)
            assert done.returncode == 0, done.stdout + done.stderr
            try:
                new.rename(kept)
            except OSError:  # other tests have installed the same meanwhile
                if not kept.exists():
                    raise
    with tempfile.TemporaryDirectory(dir=kept) as copy:  # Node looks for node_modules in the folders above
        for path in [*SERVICE.glob("*.ts"), *SERVICE.glob("*.proto"), *SERVICE.glob("*.json")]:
            shutil.copy(path, copy)
        yield node, Path(copy)
