"""Known deviations: named with a reason, replayed first, and strict in both directions."""

import dataclasses
import json
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest

from lossspec.cases.case import Case
from lossspec.cases.features import features
from lossspec.cli import main
from lossspec.errors import DeviationsError
from lossspec.execution.loading import load
from lossspec.judging import known_deviations
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.known_update import still_fails
from lossspec.judging.plan import Plan
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.judging.run import Run
from lossspec.spec.catalogue import catalogue, find

L1 = find("l1_loss")
QUICK = ("--profile=quick", "--loss=l1_loss", "--clause=value,accepts")
#: Wrong in two ways: with a weight, and in float16 without.
WRONG = """
    from torch.nn import functional as F

    def l1_loss(input, target, weight=None, reduction="mean"):
        wrong = 1 if weight is not None else 2 if input.dtype.itemsize == 2 else 0
        return F.l1_loss(input, target, weight=weight, reduction=reduction) + wrong
"""
RIGHT = "from torch.nn.functional import l1_loss"


def case_with(dtype: str, *options: str) -> Case:
    """A drawn case of l1_loss in this dtype, with just these options and a number to tell."""
    for solved in stream(L1, PROFILES["quick"], 0, (dtype,)):
        given = {*solved.case.tensors} - {"input", "target"}
        if given == {*options} and 0 < solved.expected.losses.sum() < 100:
            return solved.case
    raise LookupError(dtype)


PLAIN, HALF, WEIGHTED = case_with("float32"), case_with("float16"), case_with("float64", "weight")


def known(case: Case = HALF, **more) -> KnownDeviation:
    named = {"loss": "l1_loss", "clause": "value", "reason": "explained", "case": case}
    return KnownDeviation(**{**named, **more})


def listed(workplace, *entries: KnownDeviation) -> str:
    known_deviations.write(workplace.path / "known.toml", list(entries))
    return f"--deviations={workplace.path / 'known.toml'}"


BOTH = (
    known(when={"dtype": ["float16", "bfloat16"]}, link="https://example.org/1"),
    known(WEIGHTED, when={"options": ["weight"]}),
)


# === on a device ===


@pytest.mark.parametrize(
    ("accelerator", "shipped", "verdict"),
    [(False, True, "deviates"), (True, True, "conforms"), (True, False, "deviates")],
)
def test_a_shipped_entry_need_not_hold_on_an_accelerator(
    monkeypatch, accelerator, shipped, verdict
):
    entry = known(PLAIN)
    monkeypatch.setattr("lossspec.judging.cell_record.accelerates", lambda device: accelerator)
    monkeypatch.setattr(known_deviations, "shipped", lambda name: [entry] if shipped else [])
    implementation = load("torch.nn.functional")
    plan = Plan([implementation], ("l1_loss",), ("value",))
    (cell,) = plan.cells()
    run = Run(PROFILES["quick"], known=[] if shipped else [entry])
    record, _ = run.judge(cell, [cell])
    assert record.verdict == verdict, record.reason


# === in a run ==============================================================================


def test_what_is_listed_is_known_and_what_is_not_deviates(workplace):
    workplace.write(wrong=WRONG)
    assert workplace.run("--impl=wrong", *QUICK).status == 1
    result = workplace.run("--impl=wrong", *QUICK, listed(workplace, *BOTH))
    assert result.status == 0, result.out
    cell = workplace.cells("wrong")["l1_loss/value[function-cpu]"]
    assert (cell["verdict"], cell["reason"]) == ("known", "explained")
    assert cell["deviation"] == {
        "reason": "explained",
        "link": "https://example.org/1",
        "file": "known.toml",
    }
    # The stored case comes first, before any that is drawn.
    assert cell["case"] == HALF.to_json()
    result = workplace.run("--impl=wrong", *QUICK, listed(workplace, BOTH[0]))
    assert result.status == 1
    cell = workplace.cells("wrong")["l1_loss/value[function-cpu]"]
    assert cell["verdict"] == "deviates"
    assert "weight" in cell["case"]["tensors"]
    assert f"--deviations={workplace.path}/known.toml" in cell["repeat"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (known(), "its stored case no longer fails; remove it"),
        (known(PLAIN, when={"surface": "function"}), "its stored case no longer fails"),
        (known(WEIGHTED), "nothing here takes weight; remove it"),
    ],
)
def test_an_entry_that_matches_nothing_fails_the_run(workplace, entry, why):
    body = "F.l1_loss(input, target, reduction=reduction)"
    workplace.write(
        right=f"""
            from torch.nn import functional as F

            def l1_loss(input, target, reduction="mean"):
                return {body}
        """
    )
    assert workplace.run("--impl=right", *QUICK, listed(workplace, entry)).status == 1
    cell = workplace.cells("right")["l1_loss/value[function-cpu]"]
    assert cell["verdict"] == "deviates"
    assert cell["reason"].startswith("the deviation listed in known.toml matches nothing: ")
    assert why in cell["reason"]


def test_an_entry_about_a_loss_that_is_not_there_fails_the_run(workplace):
    workplace.write(right="from torch.nn.functional import mse_loss")
    entry = listed(workplace, known())
    assert workplace.run("--impl=right", *QUICK, entry).status == 1
    assert {cell["reason"] for cell in workplace.cells("right").values()} == {
        "the deviation listed in known.toml matches nothing: right has no l1_loss; remove it",
        "right has no l1_loss",
    }


@pytest.mark.parametrize(
    "when",
    [{"version": "<1"}, {"device": "cuda"}, {"surface": "class"}],
    ids=lambda when: next(iter(when)),
)
def test_an_entry_about_something_else_is_not_asked_for(workplace, when):
    workplace.write(right=f"__version__ = '1.0'\n{RIGHT}")
    entry = listed(workplace, known(when=when))
    assert workplace.run("--impl=right", *QUICK, entry).status == 0


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("2.13.0+cpu", 1),
        ("2.14.1", 0),
        ("2.14.1+cu130", 0),
        ("2.14.0rc1", 0),
        ("2.15.0.dev20261101", 0),
    ],
)
def test_a_mended_entry_is_stale_only_where_its_version_condition_holds(workplace, version, status):
    workplace.write(right=f"__version__ = {version!r}\n{RIGHT}")
    entry = listed(workplace, known(when={"version": "<2.14"}))
    assert workplace.run("--impl=right", *QUICK, entry).status == status
    cell = workplace.cells("right")["l1_loss/value[function-cpu]"]
    assert cell["verdict"] == ("deviates" if status else "conforms")
    assert ("its stored case no longer fails" in (cell["reason"] or "")) == bool(status)


def test_an_entry_of_another_version_excuses_nothing(workplace):
    workplace.write(wrong=f"__version__ = '2.14.1+cu130'\n{dedent(WRONG)}")
    entries = [dataclasses.replace(entry, when={"version": "<2.14"}) for entry in BOTH]
    assert workplace.run("--impl=wrong", *QUICK, listed(workplace, *entries)).status == 1
    entries = [dataclasses.replace(entry, when={"version": ">=2.14"}) for entry in BOTH]
    assert workplace.run("--impl=wrong", *QUICK, listed(workplace, *entries)).status == 0


def test_an_entry_about_an_absent_loss_is_not_asked_for_in_another_version(workplace):
    workplace.write(right="__version__ = '2.14.1'\nfrom torch.nn.functional import mse_loss")
    entry = listed(
        workplace, known(when={"version": "<2.14"}), known(PLAIN, when={"version": "<2"})
    )
    run = workplace.run("--impl=right", *QUICK, entry)
    assert {cell["reason"] for cell in workplace.cells("right").values()} == {
        "right has no l1_loss"
    }
    assert run.status == 4  # nothing was judged


def test_an_entry_counts_in_every_dtype_that_it_is_about(workplace):
    workplace.write(wrong=WRONG)
    assert WEIGHTED.dtype == "float64"
    words = ("--impl=wrong", *QUICK, "--dtype=float32")
    assert workplace.run(*words).status == 1
    result = workplace.run(*words, listed(workplace, BOTH[1]))
    assert result.status == 0, result.out


def test_an_entry_outside_of_the_selection_is_not_asked_for(workplace):
    workplace.write(right=RIGHT)
    entry = listed(workplace, known())
    for words in (("--clause=accepts",), ("--clause=value", "--dtype=float64")):
        result = workplace.run("--impl=right", "--loss=l1_loss", "--profile=quick", *words, entry)
        assert result.status == 0


# === what an entry is about ================================================================


@pytest.mark.parametrize(
    ("version", "wanted", "holds"),
    [
        ("2.13.0+cpu", ">=2.13", True),
        ("2.13.0", "<=2.13", True),
        ("2.13.0", ">2.13", False),
        ("2.13.1", ">2.13", True),
        ("2.13.1", "==2.13", True),
        ("2.13.1", "==2.13.0", False),
        ("2.14.0a0+git1", ">=2.4, <2.14", False),
        ("2.9", ">=2.4,<2.14", True),
        # A local suffix names a build of the same release.
        ("2.14.1+cu130", "<2.14", False),
        ("2.14.1+cu130", "==2.14.1", True),
        ("2.13.0+cu130", "<2.14", True),
        # A pre-release or a nightly counts as the release that it leads to.
        ("2.15.0.dev20261101", ">=2.15", True),
        ("2.15.0.dev20261101+cpu", "<2.15", False),
        ("2.15.dev20261101", "==2.15.0", True),
        ("2.15rc1", "<=2.15", True),
        ("v2.15", ">=2.15", True),
        ("unknown", "<1", True),
        (None, "<1", True),
    ],
)
def test_a_version_meets_a_range(version, wanted, holds):
    assert known(when={"version": wanted}).holds(version, "cpu", "function") is holds


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({}, True),
        ({"device": "cuda"}, True),
        ({"device": ["mps", "cpu"]}, False),
        ({"surface": ["class", "function"]}, True),
        ({"surface": "class"}, False),
    ],
)
def test_a_device_and_a_surface_are_as_listed(when, holds):
    assert known(when=when).holds("1", "cuda:1", "function") is holds


@pytest.mark.parametrize(
    ("when", "covers"),
    [
        ({"dtype": "float64"}, True),
        ({"dtype": ["float16", "float32"]}, False),
        ({"form": ""}, True),
        ({"reduction": WEIGHTED.reduction}, True),
        ({"reduction": "median"}, False),
        ({"options": ["weight"]}, True),
        ({"options": "weight"}, True),
        ({"options": ["pos_weight"]}, False),
        ({"features": ["with weight"]}, True),
        ({"features": "with weight"}, True),
        ({"features": ["with weight", "empty"]}, "empty" in features(WEIGHTED)),
    ],
)
def test_a_case_is_of_the_kind_described(when, covers):
    assert known(when=when).covers(WEIGHTED) is covers


# === the file ==============================================================================


def test_a_file_comes_back_as_it_was(tmp_path):
    odd = known(
        reason='it\'s "odd": \\ \x7f \n é 🌀',
        link="https://example.org",
        when={"version": ">=1", "dtype": ["float16"], "device": "cpu", "features": []},
    )
    quoted = dataclasses.replace(PLAIN, parameters={"text": "it's"})
    path = tmp_path / "new" / "known.toml"
    known_deviations.write(path, [odd, known(PLAIN)])
    got = known_deviations.read(path)
    assert [(g.reason, g.link, g.when, g.file) for g in got] == [
        (odd.reason, odd.link, odd.when, "known.toml"),
        ("explained", None, {}, "known.toml"),
    ]
    assert [g.case.to_json() for g in got] == [HALF.to_json(), PLAIN.to_json()]
    known_deviations.write(path, [known(quoted)])
    (entry,) = tomllib.loads(path.read_text("utf-8"))["deviation"]
    assert json.loads(entry["case"])["parameters"] == {"text": "it's"}


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("/dev/zero", None, "is larger than 8 MiB, which is the limit"),
        ("deep.toml", f"a = {'[' * 900}{']' * 900}", ""),  # a newer parser may well read it
        ("deeper.toml", f"a = {'[' * 9_999}", "not TOML"),
        ("odd.toml", "\x1b = 1", "not TOML (TOMLDecodeError: “"),
    ],
)
def test_a_file_without_bounds_is_one_error(tmp_path, path, text, message):
    if text is not None:
        path = tmp_path / path
        path.write_text(text)
    with pytest.raises(DeviationsError) as caught:
        known_deviations.read(Path(path))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["torch.nn", "torch.nn.functional"])
def test_the_shipped_files_give_reasons(name):
    entries = known_deviations.shipped(name)
    assert entries
    assert all(len(entry.reason) > 40 for entry in entries)


def test_most_implementations_have_no_shipped_file():
    assert known_deviations.shipped("nosuch") == []


STORED = json.dumps(HALF.to_json())


def stored(**changes):
    return json.dumps(HALF.to_json() | changes)


GOOD = {"loss": "l1_loss", "clause": "value", "reason": "why", "case": STORED}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": "l1_loss"}, "unknown keys losses; known: case, clause, link, loss, reason, w"),
        ({"reason": None}, "missing keys reason"),
        ({"reason": " "}, "a reason is required"),
        ({"reason": 3}, "not text reason"),
        ({"link": ["https://example.org"]}, "not text link"),
        ({"loss": "l2_loss"}, "no loss 'l2_loss'; did you mean l1_loss, nll_loss or "),
        ({"clause": "nice"}, "no clause 'nice'; the nearest of "),
        ({"clause": "ignored-gradient"}, "clause 'ignored-gradient' says nothing about l1_loss"),
        ({"case": "{}"}, "the stored case: lacks the keys loss, form, contract, spread, "),
        ({"case": "not JSON"}, "the stored case cannot be read (JSONDecodeError: “Expecting"),
        ({"case": "[" * 900 + "]" * 900}, "the stored case: got [[[[[[[...]]]]]]], want an object"),
        ({"case": "[" * 9_999}, "the stored case is nested too deep"),
        ({"case": stored(form="other")}, "the stored case: no form 'other'; known: "),
        ({"case": stored(parameters={"p": 1})}, "the stored case: no parameter 'p'; known: none"),
        ({"case": stored(tensors={})}, "the stored case: "),
        ({"loss": "mse_loss"}, "the stored case is none of those that the entry is about"),
        ({"when": {"dtype": "float64"}}, "the stored case is none of those that the entry is ab"),
        ({"when": {"features": ["8-d"]}}, "the stored case is none of those that the entry is ab"),
        ({"when": {"features": ["4-D"]}}, "no features '4-D'; did you mean 4-d, k-d or "),
        (
            {"when": {"dtype": "float31"}},
            "no dtype 'float31'; did you mean float32, float16 or bfloat16? known: float32, ",
        ),
        ({"when": {"reduction": "max"}}, "no reduction 'max'; known: mean, sum, none"),
        ({"when": {"options": ["bias"]}}, "no options 'bias'; known: weight"),
        ({"when": {"form": "other"}}, "no form 'other'; known: "),
        ({"case": None}, "missing keys case; `lossspec deviations NAME --file FILE --update` "),
        ({"when": "always"}, "it must be a table, and so must its `when`"),
        ({"when": {"dtypes": "float16"}}, "unknown keys in when dtypes; known: device, dtype, "),
        ({"when": {"dtype": 16}}, "when.dtype takes text or a list of it, got 16"),
        ({"when": {"surface": "both"}}, "no surface 'both'; known: function, class"),
        ({"when": {"version": "2"}}, "a version range reads like '>=2.4, <2.14', got '2'"),
        ({"when": {"version": ["2"]}}, "a version range reads like '>=2.4, <2.14', got ['2']"),
    ],
)
def test_a_wrong_entry_is_told_with_its_place(tmp_path, changes, message):
    entry = {key: value for key, value in (GOOD | changes).items() if value is not None}
    lines = [f"{key} = {inline(value)}" for key, value in entry.items()]
    path = tmp_path / "known.toml"
    path.write_text("\n".join(["[[deviation]]", *lines]), "utf-8")
    with pytest.raises(DeviationsError) as caught:
        known_deviations.read(path)
    assert str(caught.value).startswith(f"{path}: deviation 1: {message}")


@pytest.mark.parametrize("name", catalogue())
def test_every_feature_of_a_case_can_be_listed(name):
    loss = catalogue()[name]
    for solved in stream(loss, PROFILES["quick"], 0):
        assert features(solved.case) <= {*known_deviations._features(loss)}


def inline(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deviation = 3", "it holds [[deviation]] tables only, got ['deviation']"),
        ("deviation = [3]", "deviation 1: it must be a table"),
        ("[deviation]", "[deviation] takes two brackets: [[deviation]]"),
        ("[known]", "it holds [[deviation]] tables only, got ['known']"),
        ("=", "not TOML ("),
        ("\udcff", "not TOML ("),
    ],
)
def test_a_file_of_another_kind_is_told_as_such(tmp_path, text, message):
    path = tmp_path / "known.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DeviationsError) as caught:
        known_deviations.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


# === lossspec deviations ===================================================================


def update(workplace, *words: str):
    command = ["deviations", *words, "--file=known.toml", "--profile=quick"]
    return workplace.within(lambda: main(command))


def test_an_update_adds_keeps_and_drops(workplace):
    workplace.write(wrong=WRONG)
    assert update(workplace, "wrong", "--update").out[-1].startswith("known.toml: 0 kept, ")
    added = known_deviations.read(workplace.path / "known.toml")
    assert {entry.loss for entry in added} == {"l1_loss"}
    assert "value" in {entry.clause for entry in added}
    assert all(entry.reason.startswith("not explained yet: ") for entry in added)
    words = ("--profile=quick", "--loss=l1_loss")
    assert workplace.run("--impl=wrong", *words, "--deviations=known.toml").status == 0

    explained = known(WEIGHTED, when={"options": ["weight"]})
    elsewhere = known(PLAIN, when={"version": ">9"})
    known_deviations.write(workplace.path / "known.toml", [explained, elsewhere, known(PLAIN)])
    count = len(added)
    assert update(workplace, "wrong", "--update").out[-1] == (
        f"known.toml: 2 kept, {count} added, 1 no longer fail"
    )
    got = known_deviations.read(workplace.path / "known.toml")
    assert [entry.reason for entry in got[:2]] == ["explained", "explained"]
    assert got[1].when == {"version": ">9"}
    assert update(workplace, "wrong").out[0] == "l1_loss/value: explained"

    workplace.write(wrong=RIGHT)
    (workplace.path / "wrong.py").touch()
    assert ", 0 added, " in update(workplace, "wrong", "--update").out[-1]
    left = known_deviations.read(workplace.path / "known.toml")
    # What is mended goes; what torch itself breaks, and is listed for it, stays.
    shipped = known_deviations.shipped("torch.nn.functional")
    torchs = {entry.clause for entry in shipped if entry.loss == "l1_loss"}
    assert any(entry.when == {"version": ">9"} for entry in left)
    assert all(entry.when == {"version": ">9"} or entry.clause in torchs for entry in left)
    assert len(left) < count + 2


@pytest.mark.parametrize("version", ["2.14.1+cu130", "2.15.0.dev20261101"])
def test_an_update_keeps_what_is_about_another_version(workplace, version):
    workplace.write(mine=f"__version__ = {version!r}\n{RIGHT}")
    before = known(when={"version": "<2.14"}, link="https://example.org/1")
    here = known(PLAIN, when={"version": ">=2.14"})
    known_deviations.write(workplace.path / "known.toml", [before, here])
    said = update(workplace, "mine", "--update").out[-1]
    assert said.startswith("known.toml: 1 kept, ")
    assert said.endswith(" 1 no longer fail")
    kept = known_deviations.read(workplace.path / "known.toml")[0]
    assert (kept.when, kept.link, kept.case.to_json()) == (before.when, before.link, HALF.to_json())


@pytest.mark.parametrize("name", ["torch.nn", "torch.nn.functional"])
def test_what_a_shipped_entry_is_about_fails_on_this_torch_and_nothing_else(name):
    # Clauses that trace take seconds each; these are the entries with a version condition.
    implementation = load(name)
    cells = {(cell.loss.name, cell.clause.name): cell for cell in Plan([implementation]).cells()}
    asked = [entry for entry in known_deviations.shipped(name) if "version" in entry.when]
    assert asked
    for entry in asked:
        cell = cells[entry.loss, entry.clause]
        holds = entry.holds(implementation.version, "cpu", cell.surface)
        assert still_fails(entry, cell) == holds, (entry.loss, entry.clause, entry.when)


def test_an_update_tells_the_surfaces_apart(workplace):
    workplace.write(
        wrong="""
            from torch.nn import L1Loss

            def l1_loss(input, target, reduction="mean"):
                return input
        """
    )
    update(workplace, "wrong", "--update")
    entries = known_deviations.read(workplace.path / "known.toml")
    assert "result-shape" in {entry.clause for entry in entries}
    assert {json.dumps(entry.when) for entry in entries} == {'{"surface": "function"}'}
    words = ("--profile=quick", "--loss=l1_loss", "--deviations=known.toml")
    assert workplace.run("--impl=wrong", *words).status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch"], "--impl nosuch: no entry point of that name"),
        (["torch.nn", "--file=none.toml"], "none.toml: cannot be read (No such file or directory)"),
        (["mine", "--update"], "lossspec ships no file for mine; say which: --file FILE"),
        (["mine", "--update", "--file=f.toml", "--profile=x"], "unknown profile 'x'; known: quick"),
    ],
)
def test_what_cannot_be_updated_is_one_message(workplace, words, message):
    workplace.write(mine=RIGHT)
    result = workplace.within(lambda: main(["deviations", *words]))
    assert result.status == 4
    (said,) = result.err
    assert said.startswith(f"lossspec deviations: {message}")


def test_the_listed_are_printed(workplace):
    result = workplace.within(lambda: main(["deviations", "torch.nn"]))
    names = {line.partition(":")[0] for line in result.out}
    assert {
        f"{entry.loss}/{entry.clause}" for entry in known_deviations.shipped("torch.nn")
    } == names
    assert all(name.partition("/")[0] in catalogue() for name in names)


# === inherited =============================================================================


def test_what_torch_itself_does_wrong_is_not_held_against_who_builds_on_it(workplace):
    workplace.write(
        mine="""
            from torch.nn import functional as F

            def cross_entropy(input, target, label_smoothing=0.0, **more):
                out = F.cross_entropy(input, target, label_smoothing=label_smoothing, **more)
                return out * 1.5 if label_smoothing == 0.5 else out
        """
    )
    words = ("--loss=cross_entropy", "--clause=refuses-parameters,value", "--profile=quick")
    assert workplace.run("--impl=mine", *words).status == 1
    cells = workplace.cells("mine")
    inherited = cells["cross_entropy/refuses-parameters[function-cpu]"]
    assert inherited["verdict"] == "known"
    assert inherited["reason"].startswith("inherited: torch.nn.functional does the same")
    own = cells["cross_entropy/value[function-cpu]"]
    assert own["verdict"] == "deviates"
    assert own["case"]["parameters"]["label_smoothing"] == 0.5
