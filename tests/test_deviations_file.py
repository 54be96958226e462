"""Files of known deviations: their contents, and their editing by `lossspec deviations`."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
from listed_deviations import HALF, PLAIN, RIGHT, WEIGHTED, WRONG, known

from lossspec.cases.case import Case
from lossspec.cases.features import features
from lossspec.cli import main
from lossspec.errors import DeviationsError
from lossspec.execution.loading import load
from lossspec.judging import known_deviations
from lossspec.judging.conditions import known_features
from lossspec.judging.known_update import listed_deviation
from lossspec.judging.plan import Plan
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.spec.catalogue import catalogue


def test_a_file_survives_writing_and_reading(tmp_path):
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
        ("deep.toml", f"a = {'[' * 900}{']' * 900}", ""),  # a newer parser may read it
        ("deeper.toml", f"a = {'[' * 9_999}", "not TOML"),
        ("odd.toml", "\x1b = 1", "not TOML (TOMLDecodeError: “"),
    ],
)
def test_an_excessive_file_raises_a_clear_error(tmp_path, path, text, message):
    if text is not None:
        path = tmp_path / path
        path.write_text(text)
    with pytest.raises(DeviationsError) as caught:
        known_deviations.read(Path(path))
    assert str(caught.value).startswith(f"{path}: {message}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["torch.nn", "torch.nn.functional"])
def test_every_shipped_known_deviation_has_a_reason(name):
    entries = known_deviations.shipped(name)
    assert entries
    assert all(len(entry.reason) > 40 for entry in entries)


def test_most_implementations_have_no_shipped_file():
    assert known_deviations.shipped("nosuch") == []


STORED = json.dumps(HALF.to_json())


def stored(**changes):
    return json.dumps(HALF.to_json() | changes)


GOOD = {
    "loss": "l1_loss",
    "clause": "value",
    "reason": "why",
    "shows": {"is": "nan"},
    "case": STORED,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": "l1_loss"}, "unknown keys: losses; known: case, clause, link, loss, reason, s"),
        ({"reason": None}, "missing keys: reason"),
        ({"reason": " "}, "`reason` must not be empty"),
        ({"reason": 3}, "these keys must be text: reason"),
        ({"link": ["https://example.org"]}, "these keys must be text: link"),
        ({"loss": "l2_loss"}, "unknown loss 'l2_loss'; did you mean l1_loss, nll_loss or "),
        ({"clause": "nice"}, "unknown clause 'nice'; the nearest of "),
        ({"clause": "ignored-gradient"}, "clause 'ignored-gradient' does not apply to l1_loss"),
        ({"case": "{}"}, "the stored case: lacks the keys loss, form, contract, spread, "),
        ({"case": "not JSON"}, "the stored case cannot be read (JSONDecodeError: “Expecting"),
        ({"case": "[" * 900 + "]" * 900}, "the stored case: got [[[[[[[...]]]]]]], want an object"),
        ({"case": "[" * 9_999}, "the stored case is nested too deep"),
        ({"case": stored(form="other")}, "the stored case: the loss has no form 'other'; known: "),
        ({"case": stored(parameters={"p": 1})}, "the stored case: the loss has no parameter "),
        ({"case": stored(tensors={})}, "the stored case: "),
        ({"case": stored(reduction="avg")}, "the stored case: the loss has no reduction 'avg'"),
        (
            {"case": stored(requires_grad=["inputs"])},
            "the stored case: the loss has no tensor that requires a gradient 'inputs'; did you",
        ),
        (
            {"case": stored(omitted=["eps"])},
            "the stored case: the loss has no omitted parameter 'eps'",
        ),
        ({"loss": "mse_loss"}, "the stored case must be a call of mse_loss that meets `when`"),
        ({"when": {"dtype": "float64"}}, "the stored case must be a call of l1_loss that meets"),
        ({"when": {"features": ["8-d"]}}, "the stored case must be a call of l1_loss that meets"),
        ({"when": {"features": ["4-D"]}}, "unknown value '4-D' in when.features; did you mean 4-d"),
        (
            {"when": {"dtype": "float31"}},
            "unknown value 'float31' in when.dtype; did you mean float32, float16 or bfloat16? ",
        ),
        ({"when": {"reduction": "max"}}, "unknown value 'max' in when.reduction; known: mean, "),
        ({"when": {"options": ["bias"]}}, "unknown value 'bias' in when.options; known: weight"),
        ({"when": {"form": "other"}}, "unknown value 'other' in when.form; known: "),
        ({"case": None}, "missing keys: case; `lossspec deviations NAME --file FILE --update` "),
        ({"when": "always"}, "the entry and its `when` must be tables"),
        ({"shows": None}, "missing keys: shows; `lossspec deviations NAME --file FILE --update` "),
        ({"shows": "nan"}, "shows must be a table such as { is = 'nan' }, got 'nan'"),
        (
            {"shows": {}},
            "shows must have exactly one of is, off, factor, shape, raises, accepts, breach, got ",
        ),
        ({"shows": {"is": "nan", "off": 1}}, "shows must have exactly one of is, off, factor, "),
        ({"shows": {"shown": "nan"}}, "unknown key 'shown' in shows; the nearest of 11 are "),
        ({"shows": {"is": "infinity"}}, "unknown value 'infinity' in shows.is; did you mean infi"),
        ({"shows": {"is": 3}}, "shows.is must be text or a list of texts, got 3"),
        ({"shows": {"is": []}}, "shows.is must be text or a list of texts, got []"),
        ({"shows": {"off": "1e-3"}}, "shows.off must be a number above 0, got '1e-3'"),
        ({"shows": {"factor": 1}}, "shows.factor must be a number above 1, got 1"),
        ({"shows": {"off": True}}, "shows.off must be a number above 0, got True"),
        ({"shows": {"is": "nan", "what": 3}}, "shows.what must be text, got 3"),
        ({"shows": {"accepts": "input", "what": "x"}}, "shows.what is not allowed together with "),
        ({"shows": {"raises": 3}}, "shows.raises must be text, got 3"),
        ({"shows": {"is": "nan", "of": "gradient of x"}}, "unknown value 'gradient of x' in shows"),
        ({"shows": {"is": "nan", "says": "x"}}, "shows.says is not allowed together with shows.is"),
        ({"shows": {"accepts": "inputs"}}, "unknown value 'inputs' in shows.accepts; did you me"),
        ({"shows": {"accepts": "input", "given": "<0"}}, "unknown value '<0' in shows.given; know"),
        ({"shows": {"accepts": ["input", "target"], "given": "longer"}}, "shows.given needs exac"),
        ({"shows": {"accepts": "reduction", "given": "<x"}}, "shows.given: expected a comparison"),
        ({"when": {"parameters": "p"}}, "when.parameters must be a table such as { NAME = '>0' },"),
        ({"when": {"parameters": {"p": 1}}}, "the loss has no parameter 'p'; known: none"),
        ({"when": {"absent": ["bias"]}}, "unknown value 'bias' in when.absent; known: weight"),
        ({"when": {"gradients": ["inputs"]}}, "unknown value 'inputs' in when.gradients; did you"),
        ({"when": {"dtypes": "float16"}}, "unknown keys in when: dtypes; did you mean dtype?"),
        ({"when": {"dtype": 16}}, "when.dtype must be text or a list of texts, got 16"),
        ({"when": {"surface": "both"}}, "unknown value 'both' in when.surface; known: function, "),
        (
            {"when": {"version": "2"}},
            "when.version: expected a range such as '>=2.4, <2.14', got '2'",
        ),
        (
            {"when": {"version": ["2"]}},
            "when.version: expected a range such as '>=2.4, <2.14', got ",
        ),
    ],
)
def test_an_invalid_entry_is_reported_with_its_number(tmp_path, changes, message):
    entry = {key: value for key, value in (GOOD | changes).items() if value is not None}
    lines = [f"{key} = {inline(value)}" for key, value in entry.items()]
    path = tmp_path / "known.toml"
    path.write_text("\n".join(["[[deviation]]", *lines]), "utf-8")
    with pytest.raises(DeviationsError) as caught:
        known_deviations.read(path)
    assert str(caught.value).startswith(f"{path}: deviation 1: {message}")


@pytest.mark.parametrize("name", catalogue())
def test_every_feature_of_a_case_is_accepted_in_a_condition(name):
    loss = catalogue()[name]
    for solved in stream(loss, PROFILES["quick"], 0):
        assert features(solved.case) <= {*known_features(loss)}


def inline(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {inline(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deviation = 3", "only [[deviation]] tables are allowed, got ['deviation']"),
        ("deviation = [3]", "deviation 1: the entry and its `when` must be tables"),
        ("[deviation]", "write [[deviation]] with two brackets, got [deviation]"),
        ("[known]", "only [[deviation]] tables are allowed, got ['known']"),
        ("=", "not TOML ("),
        ("\udcff", "not TOML ("),
    ],
)
def test_a_file_of_another_format_raises_a_clear_error(tmp_path, text, message):
    path = tmp_path / "known.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DeviationsError) as caught:
        known_deviations.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


# === lossspec deviations ===================================================================


def update(workplace, *words: str):
    command = ["deviations", *words, "--file=known.toml", "--profile=quick"]
    return workplace.within(lambda: main(command))


def test_an_update_adds_keeps_and_drops_entries(workplace):
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
    # The fixed entry is dropped. The entry of a deviation of torch itself is kept.
    shipped = known_deviations.shipped("torch.nn.functional")
    torchs = {entry.clause for entry in shipped if entry.loss == "l1_loss"}
    assert any(entry.when == {"version": ">9"} for entry in left)
    assert all(entry.when == {"version": ">9"} or entry.clause in torchs for entry in left)
    assert len(left) < count + 2


@pytest.mark.parametrize("version", ["2.14.1+cu130", "2.15.0.dev20261101"])
def test_an_update_keeps_entries_of_another_version(workplace, version):
    workplace.write(mine=f"__version__ = {version!r}\n{RIGHT}")
    before = known(when={"version": "<2.14"}, link="https://example.org/1")
    here = known(PLAIN, when={"version": ">=2.14"})
    known_deviations.write(workplace.path / "known.toml", [before, here])
    said = update(workplace, "mine", "--update").out[-1]
    assert said.startswith("known.toml: 1 kept, ")
    assert said.endswith(" 1 no longer fail")
    kept = known_deviations.read(workplace.path / "known.toml")[0]
    assert (kept.when, kept.link, kept.case.to_json()) == (before.when, before.link, HALF.to_json())


def test_a_stored_tensor_without_a_layout_is_contiguous():
    data = HALF.to_json()
    for entry in data["tensors"].values():
        del entry["layout"]
    assert Case.from_json(data).layouts == {}


@pytest.mark.parametrize("name", ["torch.nn", "torch.nn.functional"])
def test_a_shipped_entry_with_a_version_fails_exactly_in_that_version(name):
    # All entries with a version condition; clauses that trace would take seconds each.
    implementation = load(name)
    cells = {(cell.loss.name, cell.clause.name): cell for cell in Plan([implementation]).cells()}
    asked = [entry for entry in known_deviations.shipped(name) if "version" in entry.when]
    assert asked
    for entry in asked:
        cell = cells[entry.loss, entry.clause]
        holds = entry.holds(implementation.version, "cpu", cell.surface)
        fails = listed_deviation(entry, cell) is not None
        assert fails == holds, (entry.loss, entry.clause, entry.when)


def test_an_update_keeps_the_surfaces_apart(workplace):
    workplace.write(
        wrong="""
            from torch.nn import L1Loss
            from torch.nn.functional import l1_loss as right

            def l1_loss(input, target, reduction="mean"):
                return right(input, target, reduction=reduction).double()
        """
    )
    update(workplace, "wrong", "--update")
    entries = known_deviations.read(workplace.path / "known.toml")
    assert "result-dtype" in {entry.clause for entry in entries}
    assert {entry.when["surface"] for entry in entries} == {"function"}
    words = ("--profile=quick", "--loss=l1_loss", "--deviations=known.toml")
    assert workplace.run("--impl=wrong", *words).status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch"], "--impl nosuch: no entry point of that name"),
        (["torch.nn", "--file=none.toml"], "none.toml: cannot be read (No such file or directory)"),
        (["mine", "--update"], "lossspec ships no deviations file for mine; name the file"),
        (["mine", "--update", "--file=f.toml", "--profile=x"], "unknown profile 'x'; known: quick"),
    ],
)
def test_a_failed_update_is_a_one_line_error(workplace, words, message):
    workplace.write(mine=RIGHT)
    result = workplace.within(lambda: main(["deviations", *words]))
    assert result.status == 4
    (said,) = result.err
    assert said.startswith(f"lossspec deviations: {message}")


def test_the_command_prints_the_shipped_known_deviations(workplace):
    result = workplace.within(lambda: main(["deviations", "torch.nn"]))
    names = {line.partition(":")[0] for line in result.out}
    assert {
        f"{entry.loss}/{entry.clause}" for entry in known_deviations.shipped("torch.nn")
    } == names
    assert all(name.partition("/")[0] in catalogue() for name in names)
