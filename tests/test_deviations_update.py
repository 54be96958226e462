"""In-place updates by `lossspec deviations --update`, which keep all other bytes."""

import os
import tomllib

import pytest
from listed_deviations import HALF, PLAIN, RIGHT, WEIGHTED, WRONG, known

from lossspec.cli import main
from lossspec.errors import DeviationsError
from lossspec.execution.timeout import CallTimeout
from lossspec.judging import known_deviations, known_file, known_update
from lossspec.judging.known_deviations import as_toml

STAYS = known(WEIGHTED, when={"options": ["weight"]}, reason="it stays")
GOES = known(PLAIN, reason="it goes")
ELSEWHERE = known(HALF, when={"version": ">9"}, reason="another version")
NEW = as_toml(known(HALF, when={"dtype": ["float16"]}, reason="it is new"))


def update(workplace, *words: str):
    command = ["deviations", "wrong", "--update", "--file=known.toml", "--profile=quick", *words]
    return workplace.within(lambda: main(command))


def edited(tmp_path, text, dropped=(), signed=None, added=()) -> str:
    return known_file.edited(tmp_path / "known.toml", text, dropped, signed or {}, added)


FILE = f"""\
# Known deviations of wrong.

# A weight adds 1.
{as_toml(STAYS)}
# This one is fixed.
# It took a while.
{as_toml(GOES)}
# Seen by another user.
{as_toml(ELSEWHERE).replace("reason", "  reason").replace("{ version", "{   version")}# The end.
"""


def test_a_stale_entry_is_removed_with_its_comment_and_other_bytes_are_kept(tmp_path):
    gone = f"# This one is fixed.\n# It took a while.\n{as_toml(GOES)}\n"
    assert FILE.count(gone) == 1
    assert edited(tmp_path, FILE, dropped=[1]) == FILE.replace(gone, "")


def test_a_new_entry_is_appended(tmp_path):
    assert edited(tmp_path, FILE, added=[NEW, NEW]) == f"{FILE}\n{NEW}\n{NEW}"
    assert edited(tmp_path, "", added=[NEW]) == NEW
    assert edited(tmp_path, "# none yet", added=[NEW]) == f"# none yet\n\n{NEW}"


def test_a_missing_symptom_is_inserted_before_the_case(tmp_path):
    line = "shows = { is = 'finite' }"
    old = FILE.replace('shows = { is = "finite" }\n', "", 1)
    new = edited(tmp_path, old, signed={0: line})
    assert new == FILE.replace('shows = { is = "finite" }', line, 1)


def test_line_endings_are_kept(tmp_path):
    text = FILE.replace("\n", "\r\n")
    new = edited(tmp_path, text, dropped=[1], added=[NEW])
    assert "\n" not in new.replace("\r\n", "")
    assert known_deviations.entries_of(tmp_path / "x", new, complete=True)[-1].reason == "it is new"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("text", ["# One.\n# Two.", f"# One.\n{as_toml(STAYS)}# Last."])
def test_a_new_entry_after_an_unfinished_line_starts_a_new_line(tmp_path, text, end):
    new = edited(tmp_path, text.replace("\n", end), added=[NEW])
    assert new == f"{text}\n\n{NEW}".replace("\n", end)


def test_a_table_header_inside_a_string_does_not_start_an_entry(tmp_path):
    odd = as_toml(STAYS).replace('"it stays"', '"""\n[[deviation]]\n[[deviation]]\n"""')
    text = f"{odd}\n{as_toml(GOES)}"
    assert len(known_deviations.entries_of(tmp_path / "x", text, complete=True)) == 2
    assert edited(tmp_path, text, dropped=[1]) == f"{odd}\n"
    assert edited(tmp_path, text, dropped=[0]) == as_toml(GOES)


def test_a_condition_in_a_subtable_belongs_to_its_entry(tmp_path):
    table = as_toml(STAYS).replace('when = { options = ["weight"] }\n', "")
    text = f"{table}[deviation.when]\noptions = ['weight']\n\n{as_toml(GOES)}"
    assert edited(tmp_path, text, dropped=[0]) == as_toml(GOES)
    unsigned = text.replace('shows = { is = "finite" }\n', "", 1)
    assert edited(tmp_path, unsigned, signed={0: 'shows = { is = "finite" }'}) == text


def test_entries_in_an_inline_array_raise_a_clear_error(tmp_path):
    with pytest.raises(DeviationsError, match="write each entry as a table that begins"):
        edited(tmp_path, "deviation = [{ loss = 'l1_loss' }]", dropped=[0])


ODD = {
    "spaces": lambda text: text.replace("[[deviation]]", "  [[ deviation ]]  # one").replace(
        "clause = ", "\tclause   =  "
    ),
    "quoted header": lambda text: text.replace("[[deviation]]", '[["deviation"]]'),
    "quoted keys": lambda text: text.replace("loss =", '"loss" =').replace("case =", "'case'="),
    "comments behind values": lambda text: text.replace('"value"', '"value" # the first clause'),
    "lines in lists": lambda text: text.replace('["weight"]', '[  # those\n  "weight",\n ]'),
    "text of lines": lambda text: text.replace('"it stays"', '"""\\\n  it\n\n# no comment\n"""'),
    "dotted keys": lambda text: (
        text.replace('when = { options = ["w', 'when . options = (["w')
        .replace("([", "[")
        .replace('"] }', '"]')
    ),
    "lines of blanks": lambda text: text.replace("\n\n", "\n  \n\n\t\n"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("odd", ODD)
def test_unusual_toml_spelling_is_kept_byte_for_byte(tmp_path, odd, end):
    first, goes, last = map(ODD[odd], (as_toml(STAYS), as_toml(GOES), as_toml(ELSEWHERE)))
    blank = ODD[odd]("\n\n")[1:]
    head, above, below = "# Head.\n" + blank, "# Above.\n  # This.\n", "# After.\n"
    shows = 'shows = { is = "finite" }\n'
    unsigned = first.replace(shows, "")
    text = f"{head}# One.\n{unsigned}{blank}{above}{goes}{blank}# Last.\n{last}{below}"
    want = f"{head}# One.\n{first}{blank}# Last.\n{last}{below}"
    got = edited(tmp_path, text.replace("\n", end), [1], {0: shows.strip()}, [NEW])
    stays = f"{want}\n".replace("\n", end)
    assert got.startswith(stays)
    assert tomllib.loads(got.removeprefix(stays)) == tomllib.loads(NEW)


def test_a_file_without_changes_is_not_parsed(tmp_path):
    text = "deviation = [ {loss = 'l1_loss'},\n]  # odd"
    assert edited(tmp_path, text) == text


@pytest.mark.parametrize("dropped", [[0], [2], [0, 1], [1, 2], [0, 1, 2]])
def test_comments_are_removed_with_the_entry_below_them(tmp_path, dropped):
    tables = [
        f"# {i}\n{as_toml(entry)}[deviation.{part}]\n# in\nof = 'value'\n\n# apart\n\n"
        for i, (entry, part) in enumerate([(STAYS, "more"), (GOES, "more"), (ELSEWHERE, "more")])
    ]
    kept = "".join(table for i, table in enumerate(tables) if i not in dropped)
    assert edited(tmp_path, f"# Head.\n\n{''.join(tables)}", dropped) == f"# Head.\n\n{kept}"
    new = edited(tmp_path, f"# Head.\n\n{''.join(tables)}", dropped, added=[NEW])
    assert new == f"# Head.\n\n{kept}{NEW}"


def test_a_file_that_tomlkit_would_reformat_raises_a_clear_error(tmp_path):
    text = f"{as_toml(STAYS)}\n{as_toml(GOES).replace('[[deviation]]', '[[ deviation ]]')}"
    line = 2 + as_toml(STAYS).count("\n")
    with pytest.raises(DeviationsError) as caught:
        edited(tmp_path, text, dropped=[0])
    assert str(caught.value) == (
        f"{tmp_path / 'known.toml'}: cannot be edited in place: tomlkit would write line {line}, "
        "'[[ deviation ]]', as '[[deviation]]'; change the line to that"
    )


def test_a_file_that_tomlkit_cannot_read_raises_a_clear_error(tmp_path, monkeypatch):
    def fails(text):
        raise RecursionError("too deep")

    monkeypatch.setattr("tomlkit.parse", fails)
    with pytest.raises(
        DeviationsError, match=r"tomlkit cannot read it \(RecursionError: “too deep"
    ):
        edited(tmp_path, FILE, dropped=[0])


def test_an_edit_that_loses_an_entry_raises_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(known_file, "_append", lambda document, table, end: None)
    with pytest.raises(DeviationsError, match="tomlkit would change other entries too; write the"):
        edited(tmp_path, FILE, added=[NEW])


def test_an_update_keeps_comments_and_order(workplace):
    workplace.write(wrong=WRONG)
    path = workplace.path / "known.toml"
    path.write_text(FILE, "utf-8")
    assert ", 1 no longer fail" in update(workplace).out[-1]
    new = path.read_text("utf-8")
    gone = f"# This one is fixed.\n# It took a while.\n{as_toml(GOES)}\n"
    assert new.startswith(FILE.replace(gone, ""))
    words = ("--impl=wrong", "--profile=quick", "--loss=l1_loss", "--deviations=known.toml")
    assert workplace.run(*words).status == 0
    assert ", 0 added, 0 no longer fail" in update(workplace).out[-1]
    assert path.read_text("utf-8") == new


def test_an_update_adds_symptoms_to_entries_of_older_files(workplace):
    workplace.write(wrong=WRONG)
    path = workplace.path / "known.toml"
    path.write_text(FILE.replace('shows = { is = "finite" }\n', ""), "utf-8")
    words = ("--impl=wrong", "--profile=quick", "--loss=l1_loss", "--deviations=known.toml")
    refused = workplace.run(*words)
    assert refused.status == 4
    assert "missing keys: shows; `lossspec deviations NAME --file FILE --update` writes it" in (
        " ".join(refused.err + refused.out)
    )
    assert "1 without `shows` cannot be judged here" in update(workplace).out[-1]
    entries = known_deviations.entries_of(path, path.read_text("utf-8"), complete=False)
    assert [entry.shows for entry in entries[:2]] == [{"is": "finite", "of": "value"}, {}]
    assert "# A weight adds 1.\n[[deviation]]" in path.read_text("utf-8")


def test_a_new_entry_covers_only_the_dtypes_that_deviate(workplace):
    workplace.write(
        wrong="""
            from torch.nn import functional as F

            def l1_loss(input, target, weight=None, reduction="mean"):
                wrong = 2 if input.dtype.itemsize == 2 else 0
                return F.l1_loss(input, target, weight=weight, reduction=reduction) + wrong
        """
    )
    update(workplace)
    entries = known_deviations.read(workplace.path / "known.toml")
    (entry,) = [entry for entry in entries if entry.clause == "value"]
    assert sorted(entry.when["dtype"]) == ["bfloat16", "float16"]
    assert dict(entry.shows) == {"is": "finite", "of": "value"}


def test_a_symbolic_link_is_kept(workplace):
    workplace.write(wrong=WRONG)
    (workplace.path / "shared").mkdir()
    real = workplace.path / "shared" / "real.toml"
    real.write_text(as_toml(GOES), "utf-8")
    real.chmod(0o640)
    (workplace.path / "known.toml").symlink_to(real)
    update(workplace)
    assert (workplace.path / "known.toml").is_symlink()
    assert "it goes" not in real.read_text("utf-8")
    assert known_deviations.read(real)
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_read_only_file_is_refused_before_the_run(workplace, monkeypatch):
    workplace.write(wrong=WRONG)
    path = workplace.path / "known.toml"
    path.write_text(as_toml(GOES), "utf-8")
    path.chmod(0o444)
    monkeypatch.setattr("lossspec.judging.known_update.updated", None)  # any run fails here
    result = update(workplace)
    assert result.status == 4
    assert result.err == ["lossspec deviations: known.toml: cannot be written (it is read-only)"]
    assert path.read_text("utf-8") == as_toml(GOES)
    assert [file.name for file in workplace.path.glob("*known*")] == ["known.toml"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(DeviationsError, match=r"the folder .* is read-only"):
        known_file.check_writable(tmp_path / "new" / "known.toml")


def test_a_file_changed_during_the_run_is_not_overwritten(tmp_path):
    path = tmp_path / "known.toml"
    path.write_text("# theirs\n", "utf-8")
    with pytest.raises(DeviationsError, match="was changed during the run"):
        known_file.replace(path, "# mine\n", "# new\n")
    with pytest.raises(DeviationsError, match="was changed during the run"):
        known_file.replace(path, None, "# new\n")
    assert path.read_text("utf-8") == "# theirs\n"
    known_file.replace(path, "# theirs\n", "# new\n")
    assert path.read_text("utf-8") == "# new\n"


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "known.toml"
    path.write_text("# theirs\n", "utf-8")

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(known_file, "replace_file", full)
    with pytest.raises(DeviationsError, match=r"cannot be written \(No space left on device\)"):
        known_file.replace(path, "# theirs\n", "# new\n")
    assert path.read_text("utf-8") == "# theirs\n"


SLOW = known(PLAIN, clause="exported", reason="quick does not judge its clause")
OTHER = known(
    PLAIN.with_(loss="mse_loss"), loss="mse_loss", reason="the implementation has no such loss"
)


def test_an_entry_that_the_run_does_not_judge_is_kept(workplace):
    workplace.write(wrong=RIGHT)
    path = workplace.path / "known.toml"
    text = f"{as_toml(SLOW)}\n{as_toml(OTHER)}\n{as_toml(GOES)}"
    path.write_text(text, "utf-8")
    done = update(workplace)
    assert done.out, done.err
    assert "2 kept, 0 added, 1 no longer fail" in done.out[-1]
    assert path.read_text("utf-8") == f"{as_toml(SLOW)}\n{as_toml(OTHER)}\n"


@pytest.mark.parametrize("error", [CallTimeout("60 s"), ZeroDivisionError("ours")])
def test_an_entry_that_cannot_be_judged_is_not_lost(workplace, monkeypatch, error):
    workplace.write(wrong=RIGHT)
    path = workplace.path / "known.toml"
    path.write_text(as_toml(GOES), "utf-8")

    def judge(clause, trial):
        raise error

    monkeypatch.setattr(known_update, "deviation_in_time", judge)
    done = update(workplace, "--profile=quick")
    if isinstance(error, CallTimeout):
        assert "1 kept, 0 added, 0 no longer fail" in done.out[-1]
    else:
        assert done.status == 4
        assert "lossspec itself failed on the stored case of l1_loss/value" in done.err[-1]
    assert path.read_text("utf-8") == as_toml(GOES)


def test_a_new_entry_whose_call_takes_too_long_does_not_end_the_update(workplace, monkeypatch):
    workplace.write(wrong="def l1_loss(input, target, reduction='mean'): raise ValueError")

    def endless(entry, cell):
        raise CallTimeout("60 s")

    monkeypatch.setattr(known_update, "listed_deviation", endless)
    assert "0 kept, " in update(workplace).out[-1]


def test_updating_a_correct_implementation_removes_every_entry(workplace):
    workplace.write(wrong=RIGHT)
    path = workplace.path / "known.toml"
    path.write_text(f"# Header.\n\n{as_toml(GOES)}", "utf-8")
    update(workplace)
    assert path.read_text("utf-8").startswith("# Header.\n")
    assert "it goes" not in path.read_text("utf-8")
