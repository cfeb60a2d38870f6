"""The step as its reader changes it: a copy in which some lines are others."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack import STEP, Stack

NOT_COPIED = shutil.ignore_patterns("tests", "model", ".venv", ".env", "__pycache__", ".pytest_cache", "*.db*")


@contextmanager
def copied_stack(folder: Path, **settings: str) -> Iterator[Stack]:
    """A stack from a copy of the step in `folder`, which must not exist. It is not started yet, and gone at the end."""
    shutil.copytree(STEP, folder, ignore=NOT_COPIED)
    with Stack(folder, **settings) as stack:
        yield stack


def override(stack: Stack, **environments: dict[str, str | int]) -> None:
    """Give services more environment variables, in a file that Compose reads after compose.yaml."""
    services = {service: {"environment": variables} for service, variables in environments.items()}
    (stack.folder / "compose.override.yaml").write_text(json.dumps({"services": services}), "utf-8")


def change(file: Path, *changes: tuple[str, str]) -> None:
    """Replace texts, each of which the file has once."""
    text = file.read_text("utf-8")
    for old, new in changes:
        assert text.count(old) == 1, f"{file.name} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    file.write_text(text, "utf-8", newline="\n")
