"""A copy of steps 03 and 04, in which a test changes some lines, as a reader would."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack import STEP, Stack

NOT_COPIED = shutil.ignore_patterns(
    *("tests", "model", ".venv*", ".env", "api_key", "password", "node_modules", "__pycache__", ".*cache", "*.db*")
)


def copy_steps(folder: Path) -> Path:
    """Copy 03_pipeline and 04_docker side by side into `folder`. Returns the copy of 04_docker."""
    for name in ("03_pipeline", STEP.name):
        shutil.copytree(STEP.parent / name, folder / name, ignore=NOT_COPIED)
    return folder / STEP.name


@contextmanager
def copied_stack(folder: Path, **settings: str) -> Iterator[Stack]:
    """A stack from a copy of the steps in `folder`. It is not started yet. Nothing of it is left at the end."""
    with Stack(copy_steps(folder), **settings) as stack:
        yield stack


def override(stack: Stack, **environments: dict[str, str | int]) -> None:
    """Give services more environment variables, in a file that Compose reads after compose.yaml."""
    services = {service: {"environment": variables} for service, variables in environments.items()}
    (stack.folder / "compose.override.yaml").write_text(json.dumps({"services": services}), "utf-8")


def change(file: Path, *changes: tuple[str, str]) -> None:
    """Replace texts. The file has each of them exactly once."""
    text = file.read_text("utf-8")
    for old, new in changes:
        assert text.count(old) == 1, f"{file.name} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    file.write_text(text, "utf-8", newline="\n")
