"""Each exercise: its stub and each typical wrong answer get a sentence that helps, its solution passes."""

import ast
import dis
import json
import re
from types import CodeType

import pytest
from nbval.plugin import get_sanitize_patterns

from conftest import ROOT
from lab import exercises

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MINUTES = {5, 15, 30}


@pytest.mark.parametrize("name", exercises.names())
def test_a_stub_fails_and_its_solution_passes(name):
    loaded = exercises.load(name)
    assert exercises.verdict(name, loaded.solution) == ""
    assert exercises.verdict(name, loaded.stub)
    assert loaded.minutes in MINUTES and len(loaded.hints) >= 2 and len(loaded.wrong) >= 2
    assert loaded.solution.__doc__, "the solution says why it is one"


@pytest.mark.parametrize("name", exercises.names())
def test_a_solution_needs_only_what_its_notebook_imports(name):
    loaded = exercises.load(name)
    cells = json.loads((ROOT / "notebooks" / f"{loaded.notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    lines = re.findall(r"^(?:from [\w.]+ )?import .*", "\n".join(code), re.MULTILINE)
    imported = {alias.asname or alias.name for line in lines for alias in ast.parse(line).body[0].names}
    assert outside(loaded.solution.__code__) & vars(loaded).keys() <= imported | {name}


def outside(code: CodeType) -> set[str]:
    """The names that a function, and the functions in it, take from outside."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    return names.union(*(outside(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


WRONG = [(name, answer, words) for name in exercises.names() for answer, words in exercises.load(name).wrong]


@pytest.mark.parametrize(("name", "answer", "words"), WRONG, ids=[f"{name}-{each.__name__}" for name, each, _ in WRONG])
def test_a_typical_wrong_answer_gets_the_sentence_meant_for_it(name, answer, words):
    sentence = exercises.verdict(name, answer)
    assert words in sentence and "raised" not in words
    others = [other for each, other in exercises.load(name).wrong if each is not answer]
    assert not [other for other in others if other in sentence], "this sentence does for another wrong answer, too"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_its_exercises_with_their_stubs_and_what_they_print(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    here = [name for name in exercises.names() if exercises.load(name).notebook == path.stem]
    for name in here:
        loaded = exercises.load(name)
        at = next((at for at, text in enumerate(texts) if text.startswith(f'@exercise("{name}")\n')), None)
        assert at, f"{name} is not in the notebook"
        assert texts[at] == f'@exercise("{name}")\n{exercises.source(name, loaded.stub).strip()}'
        assert f"({loaded.minutes} minutes)" in texts[at - 1]
        assert "".join(cells[at]["outputs"][0]["text"]).startswith("Not yet: ")
    if here:
        assert {exercises.load(name).minutes for name in here} == MINUTES


def test_the_toy_batcher_of_exercises_is_the_one_that_notebook_02_writes():
    cells = json.loads((ROOT / "notebooks" / "02_fastapi.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = ["".join(cell["source"]).partition("\n") for cell in cells]
    written = "\n".join(text for magic, _, text in parts if magic.startswith("%%writefile") and "toy.py" in magic)
    ours = (ROOT / "notebooks" / "lab" / "toy_batcher.py").read_text(encoding="utf-8")
    assert ours.partition("import asyncio")[2].strip() == written.partition("import asyncio")[2].strip()


def test_what_is_done_outlives_the_kernel(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exercises, "DONE", tmp_path / "done.json")
    loaded = exercises.load("may_see")
    exercises.exercise("may_see")(loaded.stub)
    exercises.progress()
    assert "01_flask: 0 of " in capsys.readouterr().out
    assert exercises.exercise("may_see")(loaded.solution) is loaded.solution
    assert "Right" in capsys.readouterr().out
    exercises.progress()
    assert "may_see" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("01_flask"))


def test_hints_come_one_by_one_and_the_solution_when_asked(capsys):
    hints = exercises.load("may_see").hints
    for number, text in enumerate(hints, 1):
        exercises.hint("may_see", number)
        assert capsys.readouterr().out.startswith(text)
    with pytest.raises(ValueError, match="may_see has the hints 1 to 2"):
        exercises.hint("may_see", 3)
    with pytest.raises(ValueError, match="no exercise 'may_sea': there are .*may_see"):
        exercises.hint("may_sea")
    assert "def may_see(features):" in exercises.solution("may_see").data


def test_an_answer_that_raises_is_told_its_line():
    def answer(features):
        return features["row"]

    sentence = exercises.verdict("may_see", answer)
    assert sentence == (
        'your answer raised TypeError in its line `return features["row"]`: list indices must be integers or slices, '
        "not str."
    )


def test_a_measured_number_may_differ_and_its_verdict_may_not(request):
    with open(request.config.option.nbval_sanitize_with, encoding="utf-8") as file:
        ((pattern, stands_for),) = get_sanitize_patterns(file.read())
    lines = ["≈63.5 % (yes)", "≈1,234 % (yes)", "≈-3 % (yes)", "≈63.5 % (no)", "63.5 % (yes)"]
    compared = [re.sub(pattern, stands_for, line) for line in lines]
    assert compared == ["about # % (yes)"] * 3 + ["about # % (no)", "63.5 % (yes)"]
