"""The teacher's guide and the glossary say what the notebooks say: minutes, sections, questions, exercises, terms."""

import ast
import builtins
import json
import re
from itertools import accumulate

import pytest

from conftest import ROOT

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
GUIDE, GLOSSARY = ((FOLDER / name).read_text(encoding="utf-8") for name in ("TEACHING.md", "GLOSSARY.md"))
HEAD = re.compile(r"\*\*Time\*\*: (\d+) minutes to read, (\d+) to run[^.]*?, (\d+) for the exercises\.")
LINK = re.compile(r"\]\(([^)#\s]+)")
DAYS = {line: 4 if "Half" in line else 8 for line in re.findall(r"^## .*\bday\b.*", GUIDE, re.MULTILINE)}


def text_of(notebook, kinds=("markdown", "code")):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] in kinds)


def questions(notebook):
    """The headings of a notebook, and with each, how many questions stand under it."""
    prose = re.sub(r"^```.*?^```", "", text_of(notebook, ["markdown"]), flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    sections = zip(parts[1::2], parts[2::2], strict=True)
    return {name: len(re.findall(r"\b(?:Predict|Guess before)\b", text)) for name, text in sections}


def table(heading):
    """The rows of the table below a heading of the guide, each a list of its cells."""
    section = GUIDE.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    return [re.split(r" *\| *", line[2:]) for line in section.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_minutes_are_those_of_the_notebooks_head_and_of_its_exercises(notebook):
    (row,) = [row for row in table("## Minutes") if f"({notebook.name})" in row[0]]
    minutes = HEAD.search(" ".join(text_of(notebook).split())).groups()
    assert row[1:5] == [*minutes, str(sum(map(int, minutes)))]
    listed = dict(re.findall(r"`(\w+)` (\d+)", row[5]))
    for name, said in listed.items():
        exercise = (FOLDER / "exercises" / f"{name}.py").read_text(encoding="utf-8")
        assert f"\nminutes = {said}\n" in exercise, name
    assert list(listed) == re.findall(r'^@exercise\("(\w+)"\)', text_of(notebook), re.MULTILINE)
    assert sum(map(int, listed.values())) == int(minutes[2])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_question_has_its_answer_below_the_same_heading(notebook):
    expected = [f"*{heading}*" for heading, count in questions(notebook).items() for _ in range(count)]
    assert expected and [row[0] for row in table(f"### {notebook.stem}")] == expected


@pytest.mark.parametrize("day", DAYS)
def test_a_day_has_no_gaps_ends_in_time_and_names_what_is_there(day):
    rows = table(day)
    starts = [int(hour) * 60 + int(minute) for hour, minute in (row[0].split(":") for row in rows)]
    assert [*starts, DAYS[day] * 60] == [0, *accumulate(int(row[1]) for row in rows)]
    for row in rows:
        for name in re.findall(r"`(\w+)`", row[3]):
            assert f'@exercise("{name}")' in text_of(FOLDER / LINK.search(row[2]).group(1)), row


def test_the_guide_names_sections_that_are_there():
    for row in (row for heading in [*DAYS, "## Another choice"] for row in table(heading)):
        named = set(re.findall(r"\*([^*]+)\*", " ".join(row)))
        assert not named or named <= set(questions(FOLDER / LINK.search(" ".join(row)).group(1))), row


def names_of(code):
    """The names that a cell makes, and those that it needs from cells before it."""
    if code.startswith("%%"):
        return set(), set()
    code = re.sub(r"^[%!].*", "", code, flags=re.MULTILINE)
    nodes = list(ast.walk(compile(code, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    made |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    made |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    grown = {node.target.id for node in nodes if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)}
    return made, {node.id for node in names} - made - {*dir(builtins)} | grown


def sections(notebook):
    """The code cells of a notebook by the heading above them. Those before the first section are at its title."""
    found, heading = {}, ""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            found[heading].append(source)
        for heading in re.findall(r"^#+ (.+)$", source, re.MULTILINE) if cell["cell_type"] == "markdown" else ():
            found.setdefault(heading, [])
    return found


def missing(cells):
    """The names that cells need, and none before them makes. Functions may name what comes later."""
    made, lacking = set(), set()
    for own, needed in map(names_of, cells):
        lacking |= needed - made
        made |= own
    return lacking


def flat(lists):
    return [cell for cells in lists for cell in cells]


@pytest.mark.parametrize("day", DAYS)
def test_the_cells_of_a_day_need_no_cell_that_is_skipped(day):
    plans = {}
    for _, _, link, run, *_ in table(day):
        if link and "cells up to" not in run:
            plans.setdefault(FOLDER / LINK.search(link).group(1), []).extend(re.findall(r"\*([^*]+)\*", run))
    for notebook, headings in plans.items():
        all_cells = sections(notebook)
        kept = [cells for heading, cells in all_cells.items() if heading in [*all_cells][:1] + headings]
        assert missing(flat(kept)) <= missing(flat(all_cells.values())), notebook.stem


def test_what_may_be_skipped_is_not_needed_by_the_rest():
    for link, _, skipped, *_ in table("## Another choice"):
        all_cells = sections(FOLDER / LINK.search(link).group(1))
        for choice in re.split(r"[,;] (?![^(]*\))", skipped):
            headings, names = re.findall(r"\*([^*]+)\*", choice), [*all_cells]
            if "* to *" in choice:
                headings = names[names.index(headings[0]) : names.index(headings[1]) + 1]
            kept = all_cells | dict.fromkeys(headings, [])
            if "last cell" in choice:
                kept[headings[-1]] = all_cells[headings[-1]][-1:]
            assert missing(flat(kept.values())) <= missing(flat(all_cells.values())), choice


def test_each_term_stands_in_the_text_that_its_entry_links_and_entries_are_sorted():
    entries = re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=\n- |\Z)", GLOSSARY, re.MULTILINE | re.DOTALL)
    names = [name for name, _ in entries]
    assert len(names) == GLOSSARY.count("\n- ") and names == sorted(set(names), key=str.casefold)
    for name, entry in entries:
        links = LINK.findall(entry)
        assert links, name
        for word, link in ((word, FOLDER / link) for word in name.split(", ") for link in links):
            text = text_of(link) if link.suffix == ".ipynb" else f"{link}\n{link.read_text(encoding='utf-8')}"
            found = re.search(rf"(?<![a-z0-9]){re.escape(word)}", " ".join(text.split()), re.IGNORECASE)
            assert found, (word, link.name)
