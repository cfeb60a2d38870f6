"""Exercises that check themselves. A cell with an exercise prints what is not right yet, or that it is right.

An exercise is a file of notebooks/exercises/, named like the exercise. It has `minutes`, `hints`, a function `stub` as
the notebook shows it, a `solution` whose docstring says why, and `check`, which takes an answer and returns a sentence
that helps, or "" if the answer is right. `wrong` lists typical wrong answers, each with words of the sentence that is
meant for it.
"""

import importlib
import inspect
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import TypeVar

from IPython.display import Markdown

FOLDER = Path(__file__).resolve().parents[1] / "exercises"
DONE = FOLDER / "done.json"  # outlives the kernel; git ignores it
Answer = TypeVar("Answer", bound=Callable)


def exercise(name: str) -> Callable[[Answer], Answer]:
    """Check the function below as the answer to an exercise."""

    def decorator(answer: Answer) -> Answer:
        answer.__globals__[answer.__name__] = answer  # bound now, so that it can call itself in the check
        if sentence := verdict(name, answer):
            print(f'Not yet: {sentence} More help: hint("{name}")')
        else:
            DONE.write_text(json.dumps(sorted({*done(), name}), indent=1), encoding="utf-8")
            print(f'Right. Compare with ours: solution("{name}")')
        return answer

    return decorator


def hint(name: str, number: int = 1) -> None:
    """Print a hint to an exercise. The next one says more."""
    hints = load(name).hints
    if not 1 <= number <= len(hints):
        raise ValueError(f"{name} has the hints 1 to {len(hints)}")
    print(hints[number - 1])
    print(f'There is more: hint("{name}", {number + 1})' if number < len(hints) else f'The rest: solution("{name}")')


def solution(name: str) -> Markdown:
    """Show our answer to an exercise, and why it is one."""
    return Markdown(f"```python\n{source(name, load(name).solution)}```")


def progress() -> None:
    """Print which exercises are done, by notebook."""
    for notebook in sorted({load(name).notebook for name in names()}):
        here = [name for name in names() if load(name).notebook == notebook]
        ready = [name for name in here if name in done()]
        print(f"{notebook}: {len(ready)} of {len(here)}", *ready, sep="  ")


def verdict(name: str, answer: Callable) -> str:
    """Return a sentence that helps, or "" if the answer is right."""
    try:
        return load(name).check(answer)
    except Exception as error:
        # The line of the answer, if the error came from there, and not the line in a library that it called.
        lines = [line for line in traceback.extract_tb(error.__traceback__) if line.filename == code_file(answer)]
        place = f" in its line `{lines[-1].line}`" if lines else ""
        return f"your answer raised {type(error).__name__}{place}: {error}."


def source(name: str, function: Callable) -> str:
    """Return the source of a function in an exercise's file as it stands in a notebook, under the exercise's name."""
    return dedent(inspect.getsource(function)).replace(f"def {function.__name__}(", f"def {name}(", 1)


def load(name: str) -> ModuleType:
    if name not in names():
        raise ValueError(f"there is no exercise {name!r}: there are {', '.join(names())}")
    return importlib.import_module(f"exercises.{name}")


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def done() -> list[str]:
    return json.loads(DONE.read_text(encoding="utf-8")) if DONE.exists() else []


def code_file(function: Callable) -> str:
    return inspect.unwrap(function).__code__.co_filename
