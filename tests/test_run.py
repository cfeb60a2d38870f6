"""tests/run.py: every test is in one part, and a failure in any of them is seen."""

import re
from collections import Counter
from pathlib import Path

import pytest

import run
from lab.measured import holds


def names(quick: bool) -> list[str]:
    """The files that are run, one entry for each time."""
    everything = [part for stage in run.plan(quick) for lane in stage for part in lane]
    return [(part.folder / file).relative_to(run.ROOT).as_posix() for part in everything for file in part.files]


def test_every_file_of_tests_and_every_notebook_is_run_once():
    hidden = {".venv", "node_modules", ".ipynb_checkpoints"}
    folders = [run.ROOT / name for name in ("notebooks", "steps", "tests")]
    found = [path for folder in folders for kind in ("test_*.py", "*.ipynb") for path in folder.rglob(kind)]
    found = [path.relative_to(run.ROOT) for path in found]
    assert sorted(names(quick=False)) == sorted(path.as_posix() for path in found if not hidden & {*path.parts})


def test_the_quick_ones_are_some_of_them_and_need_no_docker_no_browser_and_no_notebook():
    quick = set(names(quick=True))
    assert quick < set(names(quick=False))
    assert not quick & run.files(*run.DOCKER, *run.CLUSTER, *run.ALONE)
    assert not [name for name in quick if name.endswith(".ipynb") or "browser" in name or "page" in name]


def test_each_name_of_a_slow_file_and_of_a_long_part_is_one_that_is_there():
    patterns = [f"steps/**/tests/test_{name}.py" for name in run.SLOW] + run.LONGEST_FIRST + run.CLUSTER + run.ALONE
    assert not [pattern for pattern in patterns if not run.files(pattern)]


def test_what_takes_longest_begins_first():
    (begun, helped, _), _ = run.plan(quick=False)
    assert [begun[0].name, begun[1].name] == ["tests/test_make_it_yours.py", "tests/test_start.py"]
    assert helped[0].name == "tests/test_images.py"


@pytest.mark.parametrize(("seconds", "fails"), [(29, True), (31, False), (239, False), (241, True)])
def test_a_notebook_that_does_not_take_the_minutes_in_its_head_fails(tmp_path, monkeypatch, capsys, seconds, fails):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setenv("CI", "true")
    (tmp_path / "a.ipynb").write_text("**Time**: 25 minutes to read, 2 to run, 50 for the exercises.")
    part = run.Part(tmp_path, ["a.ipynb"], seconds)
    assert run.report([part], seconds) is not fails
    assert (f"a.ipynb: its head says 2 minutes to run, and it took {seconds} s" in capsys.readouterr().out) is fails


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with two tests that pass and three that do not."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tests = {"pass": "def test_1(): pass\ndef test_2(): pass", "fail": "def test_3(): assert False"}
    tests |= {"break": "import nothing", "crash": "import os\ndef test_4(): os._exit(1)"}
    for name, code in tests.items():
        (tmp_path / f"test_{name}.py").write_text(code + "\n")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # to load them takes longer than these tests
    return tmp_path


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("pass", {"passed": 2}),
        ("fail", {"failed": 1}),
        ("break", {"error": 1}),
        ("crash", {"error": 1}),
        ("is_not_there", {"error": 1}),
    ],
)
def test_the_tests_of_a_part_are_counted(project, name, counts):
    part = run.Part(project, [f"test_{name}.py"])
    part.run(run.PORTS[0])
    assert part.counts == counts
    assert part.failed == (name != "pass")


def test_one_part_that_fails_fails_all_and_shows_in_the_closing_line(project, capsys):
    parts = [run.Part(project, ["test_fail.py"]), run.Part(project, ["test_pass.py"])]
    run.run([[parts, []]])
    assert run.report(parts, 61.5) is False
    printed = capsys.readouterr().out
    assert re.search(r"^ +\d+  test_fail\.py  FAILED$", printed, re.MULTILINE)
    assert re.fullmatch(r"=+ 1 failed, 2 passed in 61\.50s \(1 min 2 s\) =+", printed.splitlines()[-1])
    assert "assert False" in printed
    assert run.report(parts[1:], 1) is True


def test_only_what_failed_on_a_busy_machine_runs_once_more(project, capsys):
    (project / "test_busy.py").write_text(
        f"from pathlib import Path\n"
        f"def test_5():\n"
        f"    if not Path('ran').exists():\n"
        f"        Path('ran').touch()\n"
        f"        raise AssertionError({holds(False)!r})\n"
    )
    parts = [run.Part(project, [f"test_{name}.py"]) for name in ("busy", "fail", "pass")]
    run.run([[parts]])
    assert [part.failed for part in parts] == [True, True, False]
    capsys.readouterr()
    run.run_again(parts)
    assert [part.failed for part in parts] == [False, True, False]
    assert parts[0].counts == {"passed": 1}
    assert re.findall("=== (.*),", capsys.readouterr().out) == ["test_busy.py"]


def test_colours_and_warnings_do_not_hide_the_counts():
    line = "\x1b[31m\x1b[1m1 failed\x1b[0m, \x1b[32m12 passed\x1b[0m, 3 warnings, 2 errors in 0.10s\x1b[0m\n"
    assert run.count(f"2 passed\n{line}") == Counter(failed=1, passed=12, warning=3, error=2)
