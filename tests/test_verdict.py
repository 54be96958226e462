"""The artifact: strict types, complete or absent, and the same from shards as from one run."""

import json
import math
import pickle
import re
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from lossspec.errors import ReportError
from lossspec.report.files import read_file, replace_file
from lossspec.report.merge import merge
from lossspec.report.records import SCHEMA, Cell, Report, Selection, cell_id
from lossspec.report.verdict import Verdict

DATA = Path(__file__).parent / "data" / "conformance.json"
SAMPLE = Report.read(DATA)
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))


def cell(loss="huber_loss", clause="value", surface="function", device="cpu", **changes):
    named = {"loss": loss, "clause": clause, "surface": surface, "device": device}
    return replace(SAMPLE.cells[0], id=cell_id(**named), **named, **changes)


def report(*cells, **changes):
    return replace(SAMPLE, cells=cells, **changes)


def on(report, *devices, shard=None):
    return replace(report, selection=replace(report.selection, devices=devices, shard=shard))


def test_the_sample_contains_every_verdict():
    assert {c.verdict for c in SAMPLE.cells} == set(Verdict)


def test_three_verdicts_fail_a_run():
    assert [v for v in Verdict if v.fails] == ["deviates", "crash", "not-run"]


def test_every_verdict_has_a_unique_sign():
    assert len({v.sign for v in Verdict}) == len(Verdict)


@pytest.mark.parametrize("verdict", Verdict)
def test_one_failing_cell_decides_the_exit_status(verdict):
    got = report(cell(), cell(clause="gradient", verdict=verdict)).exit_status
    assert got == (1 if verdict in ("deviates", "crash", "not-run") else 0)


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["unsupported", "not-applicable", "inconclusive"], 4),
        (["unsupported", "known"], 0),
        (["inconclusive", "crash"], 1),
    ],
)
def test_a_report_without_a_judged_cell_is_no_success(verdicts, status):
    made = report(*(cell(clause=f"c{i}", verdict=verdict) for i, verdict in enumerate(verdicts)))
    assert (made.exit_status, made.judged) == (status, status != 4)


def absent(loss, verdict="unsupported"):
    return cell(loss=loss, verdict=verdict, extra={"absent": True})


def test_absent_losses_are_named_and_not_counted():
    here = [cell(), cell(clause="a"), cell(clause="b", verdict="not-applicable")]
    gone = [absent("l1_loss"), absent("kl_div"), absent("kl_div", "not-applicable")]
    gone[2] = replace(gone[2], id="kl_div/a[function-cpu]", clause="a")
    made = report(*here, *gone)
    assert made.absent_losses == ("kl_div", "l1_loss")
    assert (made.total, made.counts[Verdict.UNSUPPORTED]) == (2, 0)
    assert made.headline == "2 of 2 clauses conform; 1 not applicable; 2 losses absent"
    assert report(*gone[:1]).headline == "0 of 0 clauses conform; 1 loss absent"


def test_a_required_but_absent_loss_counts_as_failing():
    made = report(cell(), absent("l1_loss", "deviates"))
    assert made.headline == "1 of 2 clauses conform, 1 deviates"
    assert (made.absent_losses, made.exit_status) == ((), 1)


def nested(levels):
    data = 0.0
    for _ in range(levels):
        data = [data]
    return data


@pytest.mark.parametrize("levels", [65, 900, 100_000])
def test_a_report_nested_too_deeply_is_refused(tmp_path, levels):
    whole = SAMPLE.to_json()
    text = whole.replace('"extra":{}', f'"extra":{{"x":{"[" * levels}{"]" * levels}}}', 1)
    path = tmp_path / "conformance.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=r"nested deeper than 64 levels, which is the limit$"):
        Report.read(path)
    if levels < 1_000:
        with pytest.raises(ReportError, match="nested deeper than 64 levels"):
            cell(extra={"x": nested(levels)})


def test_a_report_may_be_nested_up_to_the_limit():
    assert cell(extra={"x": nested(63)}).extra == {"x": nested(63)}


@pytest.mark.parametrize("limit", [10, 1_000])
def test_a_file_is_read_up_to_a_limit(tmp_path, limit):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000)
    if limit == 1_000:
        assert read_file(path, limit) == path.read_bytes()
    else:
        with pytest.raises(ReportError, match=r"^is larger than \d+ MiB, which is the limit$"):
            read_file(path, limit)


def test_an_endless_file_is_refused():
    with pytest.raises(
        ReportError, match=r"^/dev/zero: is larger than 64 MiB, which is the limit$"
    ):
        Report.read("/dev/zero")


@pytest.mark.parametrize("field", ["worst", "examples", "seconds"])
def test_an_excessive_number_is_refused(field):
    data = SAMPLE.cells[0].to_data() | {field: 10**400}
    with pytest.raises(ReportError, match=rf"^{field}: got .*too large|^examples: got 1000"):
        Cell.from_data(data)


def test_the_message_about_an_excessive_value_is_short():
    with pytest.raises(ReportError) as caught:
        Report.from_data(SAMPLE.to_data() | {"profile": "\x1b[2J" + "k" * 10**6})
    assert len(str(caught.value)) < 2_100
    assert str(caught.value).startswith("profile: got '\\x1b[2Jkkk")


def test_a_run_without_cells_is_no_success():
    assert report().exit_status == 4


def test_the_counts_name_every_verdict():
    got = report(cell(), cell(clause="gradient", verdict="known")).counts
    assert got == dict.fromkeys(Verdict, 0) | {Verdict.CONFORMS: 1, Verdict.KNOWN: 1}


@pytest.mark.parametrize(
    ("verdicts", "want"),
    [
        (["conforms"] * 3, "3 of 3 clauses conform"),
        (["conforms", "known", "deviates"], "1 of 3 clauses conform, 1 known, 1 deviates"),
        (["deviates"] * 2, "0 of 2 clauses conform, 2 deviate"),
        (["conforms", "not-applicable"], "1 of 1 clauses conform; 1 not applicable"),
        (["crash", "not-run"], "0 of 2 clauses conform, 1 crashes, 1 not run"),
        ([], "0 of 0 clauses conform"),
    ],
)
def test_the_headline_gives_the_counts(verdicts, want):
    cells = [cell(clause=f"c{i}", verdict=verdict) for i, verdict in enumerate(verdicts)]
    assert report(*cells).headline == want


def test_the_file_survives_reading_and_writing(tmp_path):
    SAMPLE.write(tmp_path / "new" / "conformance.json")
    assert (tmp_path / "new" / "conformance.json").read_bytes() == DATA.read_bytes()


def test_each_cell_is_one_line_of_the_file():
    lines = SAMPLE.to_json().splitlines()
    assert [json.loads(line.rstrip(","))["id"] for line in lines[8:-2]] == [
        c.id for c in SAMPLE.cells
    ]


def test_the_order_of_the_cells_does_not_depend_on_their_arrival():
    assert replace(SAMPLE, cells=SAMPLE.cells[::-1]).to_json() == SAMPLE.to_json()


@pytest.mark.parametrize("worst", [math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_finite_is_a_string_in_the_file(worst):
    odd = cell(worst=worst, case={"data": [worst, 1.0]}, extra={"x": {"y": worst}})
    data = json.loads(report(odd).to_json(), parse_constant=pytest.fail)["cells"][0]
    got = data["worst"], data["case"]["data"], data["extra"]["x"]["y"]
    assert got == (str(worst), [str(worst), 1.0], str(worst))
    assert str(Cell.from_data(data).worst) == str(worst)


def test_numpy_scalars_become_plain_numbers():
    odd = cell(
        examples=np.int64(3),
        worst=np.float32(0.5),
        case={"a": np.float16(1.5), "b": np.uint8(2), "c": np.longdouble("inf")},
    )
    got = [type(odd.examples), type(odd.worst), *map(type, odd.case.values())]
    assert got == [int, float, float, int, str]


def test_a_cell_survives_pickling_and_json():
    assert pickle.loads(pickle.dumps(SAMPLE.cells[0])) == SAMPLE.cells[0]
    assert Cell.from_data(json.loads(json.dumps(SAMPLE.cells[0].to_data()))) == SAMPLE.cells[0]


def test_invalid_unicode_survives(tmp_path):
    odd = report(cell(got="\udc80 ≤ \x00"))
    odd.write(tmp_path / "conformance.json")
    assert Report.read(tmp_path / "conformance.json") == odd


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"verdict": "passes"}, "verdict: got 'passes', want one of conforms, deviates, known"),
        ({"surface": "method"}, "surface: got 'method', want one of function, class"),
        ({"id": "huber"}, "id: got 'huber', want 'cross_entropy/"),
        ({"examples": -1}, "examples: got -1, want a finite number of at least 0"),
        ({"examples": 1.5}, "examples: got 1.5, want a whole number"),
        ({"informative": True}, "informative: got True, want a whole number"),
        ({"seconds": "inf"}, "seconds: got inf, want a finite number"),
        ({"worst": "1"}, "worst: got '1', want a number"),
        ({"says": None}, "says: got None, want a string"),
        ({"dtypes": "float32"}, "dtypes: got 'float32', want a list"),
        ({"dtypes": ["float32", 3]}, "dtypes[1]: got 3, want a string"),
        ({"case": []}, "case: got [], want an object"),
        ({"extra": {"x": {1}}}, "extra: got {1} (set), want JSON data"),
        ({"extra": {1: "x"}}, "extra: got {1: 'x'} (dict), want JSON data"),
        ({"deviation": {"reason": "r", "link": 1, "file": None}}, "deviation.link: got 1"),
        ({"deviation": {"reason": None}}, "deviation.reason: got None, want a string"),
    ],
)
def test_an_invalid_field_is_named_with_the_allowed_values(changes, problem):
    with pytest.raises(ReportError, match=f"^{re.escape(problem)}"):
        replace(SAMPLE.cells[0], **changes)


def test_an_error_in_a_nested_value_gives_its_path():
    data = SAMPLE.to_data()
    data["cells"][2]["dtypes"] = ["float32", None]
    with pytest.raises(ReportError, match=r"^cells\[2\]\.dtypes\[1\]: got None, want a string$"):
        Report.from_data(data)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", ""])
def test_a_shard_is_numbered_from_one_to_its_total(shard):
    with pytest.raises(ReportError, match="want i/n with 1 <= i <= n"):
        replace(SAMPLE.selection, shard=shard)


@pytest.mark.parametrize("started", ["yesterday", "2026-01-31", "2026-01-31T12:00:00+02:00"])
def test_the_start_of_a_run_must_be_in_utc(started):
    with pytest.raises(ReportError, match="want an ISO-8601 time in UTC"):
        replace(SAMPLE.environment, started=started)


def test_the_same_cell_twice_is_refused():
    with pytest.raises(ReportError, match=re.escape("the same cell twice: huber_loss/value[")):
        report(cell(), cell())


PLACES = [(), ("implementation",), ("environment",), ("environment", "oracle"), ("selection",)]
PLACES += [("cells", 0), ("cells", 0, "deviation")]


def with_deviation():
    data = SAMPLE.to_data()
    data["cells"][0]["deviation"] = {"reason": "r", "link": None, "file": None}
    return data


def at(data, place):
    for key in place:
        data = data[key]
    return data


NEEDED = {
    (): ["schema_version", "implementation", "cells"],
    ("implementation",): ["name"],
    ("cells", 0): ["id", "loss", "surface", "clause", "device", "verdict"],
}


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_an_unknown_key_is_ignored_by_reader_and_schema(place):
    data = with_deviation()
    want = Report.from_data(data).to_json()  # as text, in which NaN equals NaN
    at(data, place)["colour"] = "red"
    assert Report.from_data(data).to_json() == want
    VALIDATOR.validate(data)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_missing_key_is_unknown_unless_it_is_required(place):
    for key in at(with_deviation(), place):
        data = with_deviation()
        del at(data, place)[key]
        if key in NEEDED.get(place, []):
            lacking = f"lacks the keys {key}$|it has no schema_version"
            with pytest.raises(ReportError, match=lacking):
                Report.from_data(data)
            assert not VALIDATOR.is_valid(data)
        else:
            read = Report.from_data(data)
            VALIDATOR.validate(data)
            VALIDATOR.validate(read.to_data())
            assert Report.from_data(read.to_data()).to_json() == read.to_json()


def test_reports_without_a_selection_are_not_merged():
    data = SAMPLE.to_data()
    del data["selection"]
    part = Report.from_data(data)
    with pytest.raises(ReportError, match="does not say which part of the suite it covers"):
        merge([part, part])
    assert merge([part]).to_json() == part.to_json()


def test_the_schema_is_valid_and_accepts_every_report():
    VALIDATOR.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(SAMPLE.to_data())
    VALIDATOR.validate(with_deviation())
    VALIDATOR.validate(report(cell(worst=math.nan)).to_data())
    VALIDATOR.validate(report().to_data())


def test_the_schema_lists_the_fields_of_a_cell_in_their_order():
    schema = VALIDATOR.schema["$defs"]["Cell"]
    names = [field.name for field in fields(Cell)]
    assert (list(schema["properties"]), schema["required"]) == (names, NEEDED["cells", 0])
    assert schema["properties"]["verdict"]["enum"] == list(Verdict)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("profile",), "slow"),
        (("seed",), "0"),
        (("cells", 0, "verdict"), "passes"),
        (("cells", 0, "surface"), "method"),
        (("cells", 0, "examples"), -1),
        (("cells", 0, "worst"), "infinite"),
        (("cells", 0, "case"), []),
        (("cells", 0, "dtypes"), [1]),
        (("selection", "devices"), None),
        (("selection", "shard"), "0/2"),
        (("environment", "started"), "noon"),
        (("environment", "devices"), {"cpu": 1}),
        (("cells",), {}),
    ],
)
def test_the_schema_refuses_the_same_values_as_the_reader(place, value):
    data = deepcopy(SAMPLE.to_data())
    at(data, place[:-1])[place[-1]] = value
    with pytest.raises(ReportError):
        Report.from_data(data)
    assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (DATA.read_bytes()[:-200], "is not complete JSON"),
        (b"", "is not complete JSON"),
        (b"\xff\xfe", "is not complete JSON"),
        (b"[" * 100_000, "is nested deeper than 64 levels, which is the limit"),
        (b"[]", "is not a lossspec report: it has no schema_version"),
        (b'{"name": "other"}', "is not a lossspec report: it has no schema_version"),
        (b'{"schema_version": "2"}', "got schema_version '2'; this lossspec reads '1'"),
        (b'{"schema_version": "1", "seed": NaN}', "holds NaN, which is not JSON"),
        (b'{"seed": 0, "seed": 1}', "got the same key twice: seed"),
    ],
)
def test_a_file_that_is_no_report_raises_an_error_with_its_path(tmp_path, text, problem):
    path = tmp_path / "conformance.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {problem}')}"):
        Report.read(path)


def test_an_absent_file_raises_a_report_error(tmp_path):
    with pytest.raises(ReportError, match=r"none\.json: cannot be read \(No such file"):
        Report.read(tmp_path / "none.json")


def test_a_failed_write_leaves_only_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "conformance.json"
    replace_file(path, "old")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        replace_file(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("conformance.json", "old")]


def test_shards_merge_to_the_report_of_one_run():
    shards = [
        on(replace(SAMPLE, cells=SAMPLE.cells[i::3]), "cpu", shard=f"{i + 1}/3") for i in range(3)
    ]
    assert merge(reversed(shards)).to_json() == SAMPLE.to_json()


def test_runs_on_two_devices_merge_to_one_report():
    cuda = replace(
        on(report(cell(device="cuda")), "cuda"),
        environment=replace(
            SAMPLE.environment,
            devices={"cuda": "an accelerator"},
            started="2026-01-01T00:00:00Z",
            command="the other",
        ),
    )
    got = merge([on(report(cell()), "cpu"), cuda])
    assert [c.device for c in got.cells] == ["cpu", "cuda"]
    assert got.selection.devices == ("cpu", "cuda")
    assert got.environment.devices == SAMPLE.environment.devices | {"cuda": "an accelerator"}
    assert got.environment.started == "2026-01-01T00:00:00Z"
    assert got.environment.command == f"{SAMPLE.environment.command} | the other"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"profile": "deep"}, "profile: got 'deep' and 'standard'"),
        ({"seed": 7}, "seed: got 7 and 0"),
        (
            {"implementation": replace(SAMPLE.implementation, name="other")},
            "implementation: got 'other' and 'mylib.losses'",
        ),
        (
            {"implementation": replace(SAMPLE.implementation, version="2")},
            "version: got '2' and '1.4.0'",
        ),
        (
            {"environment": replace(SAMPLE.environment, torch="9")},
            "torch: got '9' and '2.13.0+cpu'",
        ),
        (
            {"selection": Selection(("huber_loss",), None, None, ("cpu",), None)},
            "losses: got ('huber_loss',) and None",
        ),
    ],
)
def test_reports_of_different_runs_do_not_merge(changes, problem):
    with pytest.raises(ReportError, match=re.escape(f"that differ in {problem}")):
        merge([report(cell()), report(cell(clause="gradient"), **changes)])


def test_the_same_cell_in_two_reports_does_not_merge():
    with pytest.raises(ReportError, match=re.escape("the cell huber_loss/value[function-cpu]")):
        merge([report(cell()), report(cell())])


def test_a_missing_shard_is_named():
    parts = [on(report(cell(clause=f"c{i}")), "cpu", shard=f"{i}/4") for i in (1, 4)]
    with pytest.raises(ReportError, match="add the reports of the shards 2/4, 3/4"):
        merge(parts)


def test_merging_no_report_is_refused():
    with pytest.raises(ReportError, match="got no report to merge"):
        merge([])
