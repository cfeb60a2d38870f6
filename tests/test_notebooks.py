"""What nbval does not look at: it runs the notebooks and compares outputs, but passes a cell that was never run."""

import json
import re
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from lab import cluster

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BLOCKS = ["\n**What you'll do**", "\n**What you'll learn**", "\n**What you'll need**", "\n**Time**"]
SECTIONS = ["\n## On your own", "\n## In practice", "\n## Recap", "\n## Next"]
# A home or temporary folder, a drive, a mount: what an output holds of the machine that it was made on.
FOLDERS = "Applications|Users|Volumes|content|home|media|mnt|opt|private|root|srv|tmp|usr|var|work|workspaces?"
MACHINE_PATH = re.compile(rf"(?:(?<![\w.<])|(?<=://))/(?:{FOLDERS})/\w|\b[A-Z]:\\+\w")
HERE = [str(ROOT), str(Path.home()), sys.prefix]


def flaws(notebook: dict) -> list[str]:
    """What is wrong with a committed notebook, a sentence each."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    counts = [cell["execution_count"] for cell in cells]
    found = []
    if None in counts:
        found.append(f"cell {counts.index(None) + 1} was never run")
    elif counts != list(range(1, len(cells) + 1)):
        found.append("was not run from top to bottom on one kernel")
    for number, cell in enumerate(cells, 1):
        tags = cell["metadata"].get("tags", [])
        for output in cell["outputs"]:
            if output["output_type"] == "error" and "raises-exception" not in tags:
                found.append(f"cell {number} failed")
            if output.get("name") == "stderr":
                found.append(f"cell {number} printed a warning")
            text = text_of(output)
            if MACHINE_PATH.search(text) or any(path in text for path in HERE):
                found.append(f"cell {number} shows a path of the machine")
    loose = sum("nbval-ignore-output" in cell["metadata"].get("tags", []) for cell in cells)
    if loose > len(cells) / 3:
        found.append(f"{loose} of {len(cells)} cells are not compared")
    return found


def text_of(output: dict) -> str:
    parts = [output.get("text", "")]
    parts += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    parts += output.get("traceback", [])
    return "\n".join("".join(part) for part in parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_was_run_whole_and_shows_nothing_of_the_machine(path):
    assert flaws(json.loads(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_the_blocks_and_sections_that_readers_expect(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert re.match(r"# [A-Z]\w+ .+[^.]\n", text)
    places = [text.find(mark) for mark in (*BLOCKS, *SECTIONS)]
    assert -1 not in places and places == sorted(places)
    assert "```mermaid" in text


def test_numbers_of_notebooks_and_steps_match():
    steps = {path.name[:2] for path in (ROOT / "steps").iterdir() if path.is_dir()}
    assert {path.name[:2] for path in NOTEBOOKS} == steps | {"00", "05"}  # 05 makes a service of its own from step 02


def test_where_there_is_no_cluster_a_sentence_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "lacking", lambda: "")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(cluster.ClusterIsMissing, match="run `kind create cluster --config .*` in the folder steps/04_"):
        cluster.Cluster(tmp_path)


def cell(count=1, outputs=(), tags=()) -> dict:
    metadata = {"tags": list(tags)}
    return {
        "cell_type": "code",
        "source": ["1"],
        "execution_count": count,
        "outputs": list(outputs),
        "metadata": metadata,
    }


def printed(text: str, name="stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": [text]}


@pytest.mark.parametrize(
    ("cells", "flaw"),
    [
        ([cell(None)], "never run"),
        ([cell(1), cell(3)], "top to bottom"),
        ([cell(1, [{"output_type": "error", "traceback": []}])], "failed"),
        ([cell(1, [printed("careful", "stderr")])], "warning"),
        ([cell(1, [printed("saved in /home/ana/inferir")])], "path of the machine"),
        ([cell(1, [printed("saved in C:\\Users\\ana")])], "path of the machine"),
        ([cell(1, [printed("saved in 'C:\\\\Users\\\\ana'")])], "path of the machine"),
        ([cell(1, [printed("file:///home/ana/x")])], "path of the machine"),
        ([cell(1, [printed("/usr/local/lib/python3.13")])], "path of the machine"),
        (
            [cell(1, [{"output_type": "display_data", "data": {"text/html": ["<p>/tmp/x1</p>"]}}])],
            "path of the machine",
        ),
        ([cell(1, tags=["nbval-ignore-output"]), cell(2)], "not compared"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_flaw_is_found(cells, flaw):
    assert [found for found in flaws({"cells": cells}) if flaw in found]


def test_a_notebook_without_flaws_passes():
    error = {"output_type": "error", "traceback": []}
    assert flaws({"cells": [cell(1, [printed("/inferir 200")]), cell(2, [error], ["raises-exception"])]}) == []
