"""Show the code of the steps in a notebook as it stands in their files: a notebook holds no second copy."""

import difflib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

from IPython.display import Code, Markdown


def show(*objects: Callable) -> Markdown:
    """The source of some functions or classes, coloured."""
    return Markdown("```python\n" + "\n\n".join(map(inspect.getsource, objects)) + "```")


def excerpt(path: Path, start: str, end: str) -> Code:
    """A part of a file that is not Python: from the first line that matches `start` to the next that matches `end`."""
    lines = part(path.read_text(encoding="utf-8").splitlines(), start, end)
    return Code(dedent("\n".join(lines)), language={"Dockerfile": "docker"}.get(path.name, path.suffix[1:]))


def diff(one: Path, two: Path, start: str, end: str) -> Code:
    """What became of a part of a file: from the first line that matches `start` to the next that matches `end`."""
    texts = [part(path.read_text(encoding="utf-8").splitlines(), start, end) for path in (one, two)]
    lines = list(difflib.unified_diff(*texts, n=100, lineterm=""))[3:]
    return Code("\n".join(lines), language="diff")


def part(lines: list[str], start: str, end: str) -> list[str]:
    first = next(number for number, line in enumerate(lines) if re.search(start, line))
    last = next(number for number, line in enumerate(lines) if number > first and re.search(end, line))
    return lines[first:last]
