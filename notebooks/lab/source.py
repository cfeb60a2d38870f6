"""Show the code of the steps in a notebook, read from the steps' files: a notebook holds no second copy."""

import difflib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

from IPython.display import Code, Markdown


def show(*objects: Callable) -> Markdown:
    """Show the source of some functions or classes, in colour."""
    return Markdown("```python\n" + "\n\n".join(map(inspect.getsource, objects)) + "```")


def excerpt(path: Path, start: str, end: str) -> Code:
    """Show a part of a file: from the first line that matches `start` to just before the next that matches `end`."""
    lines = part(path.read_text(encoding="utf-8").splitlines(), start, end)
    return Code(dedent("\n".join(lines)), language={"Dockerfile": "docker"}.get(path.name, path.suffix[1:]))


def diff(one: Path, two: Path, start: str, end: str) -> Code:
    """Show how a part of file `one` differs from the same part of file `two`; `start` and `end` as for excerpt()."""
    before, after = (part(path.read_text(encoding="utf-8").splitlines(), start, end) for path in (one, two))
    lines = list(difflib.unified_diff(before, after, n=100, lineterm=""))[3:]
    return Code("\n".join(lines), language="diff")


def part(lines: list[str], start: str, end: str) -> list[str]:
    first = next(number for number, line in enumerate(lines) if re.search(start, line))
    last = next(number for number, line in enumerate(lines) if number > first and re.search(end, line))
    return lines[first:last]
