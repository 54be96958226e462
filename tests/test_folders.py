"""Report folders: one for each implementation, below the given directory."""

import json
from textwrap import dedent

import pytest

from lossspec.judging import known_deviations
from lossspec.report.folders import LONGEST, folders

HARMLESS = {
    "torch.nn": "torch.nn",
    "torch.nn:functional": "torch.nn.functional",
    "módulo": "módulo",
    "path/to/mylib.py": "path.to.mylib.py",
    "./mylib.py:losses": "mylib.py.losses",
    "/home/me/my-lib.py": "home.me.my-lib.py",
}
ODD = ("..", ".", "...", "a/../../b c", "a\\b", "a\0b", "\x1b[31m", " ", "x" * 300, "é" * 300, "-n")
QUICK = ("--loss=l1_loss", "--clause=result-shape", "--profile=quick")


@pytest.mark.parametrize(("name", "want"), HARMLESS.items())
def test_a_name_of_safe_characters_is_its_folder(name, want):
    assert folders([name]) == {name: want}


@pytest.mark.parametrize("name", ODD)
def test_any_name_gets_a_folder_below_the_reports(name, tmp_path):
    (folder,) = folders([name]).values()
    place = (tmp_path / folder).resolve()
    assert place.parent == tmp_path.resolve()
    place.mkdir()
    assert not folder.startswith((".", "-"))
    assert folder.isprintable()
    assert len(folder.encode()) <= LONGEST + 9


@pytest.mark.parametrize(
    "names",
    [
        ("torch.nn:functional", "torch.nn.functional"),
        ("torch.nn.functional", "torch.nn:functional"),
        ("a:b", "a/b"),
        ("Mine", "mine"),
        ("mylib.py", "./mylib.py"),
        ("x" * 300, "x" * 301),
        ("ﬁt", "fit"),
        ("..", "...", "."),
    ],
)
def test_similar_names_get_folders_that_differ_beyond_case(names):
    made = folders(names)
    assert list(made) == list(names)
    assert len({folder.casefold() for folder in made.values()}) == len(names)
    assert folders(names[::-1]) == made


def test_the_name_that_needs_no_escaping_keeps_its_folder():
    made = folders(["torch.nn:functional", "torch.nn.functional"])
    assert made["torch.nn.functional"] == "torch.nn.functional"
    assert made["torch.nn:functional"].startswith("torch.nn.functional-")


def test_two_names_of_one_implementation_write_two_reports(workplace):
    names = ("torch.nn:functional", "torch.nn.functional")
    result = workplace.run(f"--impl={','.join(names)}", *QUICK)
    assert result.status == 0, result.out
    written = {
        json.loads(path.read_text())["implementation"]["name"]: path.parent.name
        for path in (workplace.path / "reports").glob("*/conformance.json")
    }
    assert written == folders(names)
    for folder in written.values():
        assert f"report: reports/{folder}/index.html" in result.out


def test_an_entry_point_named_with_dots_writes_below_the_reports(workplace, monkeypatch):
    monkeypatch.syspath_prepend(workplace.path)
    about = workplace.path / "evil-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[lossspec.implementations]\n.. = torch.nn.functional\n../../x = torch.nn.functional\n"
    )
    result = workplace.run("--impl=..,../../x", "--reports=deep/down", *QUICK)
    assert result.status == 0, result.out
    found = sorted(path.parent.parent for path in workplace.path.rglob("conformance.json"))
    assert found == [workplace.path / "deep" / "down"] * 2
    assert not list(workplace.path.parent.glob("conformance.json"))


def test_the_report_of_another_implementation_is_not_overwritten(workplace):
    assert workplace.run("--impl=torch.nn.functional", *QUICK).status == 0
    result = workplace.run("--impl=torch.nn:functional", *QUICK)
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.err if line] == [
        "ERROR: --reports reports: its folder torch.nn.functional holds the report of "
        "torch.nn.functional; choose another directory for torch.nn:functional, or remove that "
        "report"
    ]
    assert workplace.artifact("torch.nn.functional")["implementation"]["name"] == (
        "torch.nn.functional"
    )
    assert workplace.run("--impl=torch.nn.functional", *QUICK).status == 0


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", "--reports takes a directory, got ''"),
        (" ", "--reports takes a directory, got ' '"),
        ("a\0b", "--reports takes a directory, got 'a\\x00b'"),
        ("x" * 300, f"--reports {'x' * 300}: File name too long"),
    ],
)
def test_a_reports_path_that_is_no_directory_is_refused_before_the_run(workplace, given, wanted):
    result = workplace.run("--impl=torch.nn", f"--reports={given}", *QUICK)
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.err if line] == [f"ERROR: {wanted}"]
    assert list(workplace.path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../../evil", "x" * 300, "\0", ".."])
def test_a_name_cannot_read_another_file_of_known_deviations(name, tmp_path, monkeypatch):
    shipped = tmp_path / "a" / "b" / "c"
    shipped.mkdir(parents=True)
    (tmp_path / "evil.toml").write_text(dedent("[[deviation]]"))
    monkeypatch.setattr(known_deviations, "SHIPPED", shipped)
    assert known_deviations.shipped.__wrapped__(name) == []
