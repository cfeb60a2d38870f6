import copies


def test_identical_copies_are_identical():
    assert not copies.differing(), "run `python tests/copies.py`"


def test_every_license_in_a_step_is_kept_in_line():
    found = {path.relative_to(copies.ROOT).as_posix() for path in copies.ROOT.glob("steps/*/LICENSE")}
    assert found == set(copies.COPIES["LICENSE"])


def test_step_04_packages_the_services_of_step_03_and_adds_no_python_but_roll_py():
    folder = copies.ROOT / copies.DOCKER
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if ".venv" not in path.parts}
    assert {path for path in found if not path.startswith("tests/")} == {"roll.py"}


def test_a_changed_and_a_missing_copy_are_found_and_brought_in_line(tmp_path, capsys):
    (tmp_path / "model.py").write_text("right")
    (tmp_path / "same.py").write_text("right")
    (tmp_path / "changed.py").write_text("wrong")
    table = {"model.py": ["same.py", "changed.py", "deep/missing.py"]}

    assert [copy.name for _, copy in copies.differing(tmp_path, table)] == ["changed.py", "missing.py"]
    copies.bring_in_line(tmp_path, table)

    assert copies.differing(tmp_path, table) == []
    assert (tmp_path / "deep" / "missing.py").read_text() == "right"
    assert capsys.readouterr().out.splitlines() == [
        "model.py -> changed.py",
        "model.py -> deep/missing.py",
    ]
