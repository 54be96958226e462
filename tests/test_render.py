"""Renderings of a report: complete, escaped, linked, readable and bounded in size."""

import itertools
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lossspec.errors import ReportError
from lossspec.render import render_all
from lossspec.render.badge import badge
from lossspec.render.diff import Kind, diff
from lossspec.render.html import ARTICLES, Axis, artifact, page
from lossspec.render.layout import THEMES, columns, ratio, unjudged
from lossspec.render.markdown import summary
from lossspec.render.terminal import HEIGHT, WIDTH, screen
from lossspec.report.records import Environment, KnownEntry, Oracle, Report, cell_id
from lossspec.report.verdict import Verdict

SAMPLE = Report.read(Path(__file__).parent / "data" / "conformance.json")
HOSTILE = (
    '</script></textarea><b id=owned onclick="x">&amp;\'`|\n@all <!-- \x1b[2J {{ 7*7 }} \udc80'
    "\x07\x9b31m\u202egpj\u2066\u200b\x00\r\u2028"
)
NBSP = "\N{NO-BREAK SPACE}"
VOID = {"br", "input", "meta", "wbr"}


def cell(loss="huber_loss", clause="value", surface="function", device="cpu", **changes):
    named = {"loss": loss, "clause": clause, "surface": surface, "device": device}
    return replace(SAMPLE.cells[0], id=cell_id(**named), **named, **changes)


def report(*cells):
    return replace(SAMPLE, cells=cells)


def huge(verdict="conforms", **changes):
    """Return a report of 23 losses x 60 clauses x 2 surfaces."""
    places = itertools.product(range(23), range(60), ("function", "class"))
    return report(
        *(
            cell(
                f"binary_cross_entropy_{loss:02}",
                f"inputs-untouched-{clause:02}",
                surface,
                theme=THEMES[clause % len(THEMES)],
                verdict=verdict,
                worst=1.1 ** (clause - 59),
                dtypes=("float16", "bfloat16", "float32", "float64"),
                **changes,
            )
            for loss, clause, surface in places
        )
    )


def hostile():
    """Return a report in which every free text is an attack."""
    further = [dict.fromkeys(("reason", "call", "got", "want", "cause"), HOSTILE)]
    bad = {
        "extra": {HOSTILE: HOSTILE, "further": further},
        "excused": {HOSTILE: 3},
        "case": {HOSTILE: [HOSTILE, {HOSTILE: 1}]},
    }
    names = ("says", "theme", "reason", "call", "got", "want", "budget", "repeat", "script")
    names = (*names, "cause")
    cells = [
        cell(
            loss=HOSTILE,
            clause=HOSTILE + verdict,
            device=HOSTILE,
            dtypes=(HOSTILE,),
            verdict=verdict,
            deviation=KnownEntry(HOSTILE, "javascript:alert(1)//" + HOSTILE, HOSTILE),
            worst=math.nan,
            **dict.fromkeys(names, HOSTILE),
            **bad,
        )
        for verdict in Verdict
    ]
    environment = Environment(
        **dict.fromkeys(("lossspec", "python", "platform", "processor", "torch"), HOSTILE),
        **dict.fromkeys(("numpy", "hypothesis", "command", "git_commit"), HOSTILE),
        devices={HOSTILE: HOSTILE},
        threads=1,
        started=SAMPLE.environment.started,
        oracle=Oracle(HOSTILE, 64),
    )
    return replace(
        report(*cells),
        implementation=replace(
            SAMPLE.implementation, **dict.fromkeys(("name", "version", "target"), HOSTILE)
        ),
        environment=environment,
        selection=replace(
            SAMPLE.selection, **dict.fromkeys(("losses", "clauses", "devices"), (HOSTILE,))
        ),
    )


class Page(HTMLParser):
    """A parsed page: its elements with attributes and its text; tags must match."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.open = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, attributes)
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, attribute):
        return [found[attribute] for _, found in self.elements if attribute in found]


REPORTS = {
    "sample": SAMPLE,
    "empty": report(),
    "hostile": hostile(),
    "conforming": report(cell(verdict="conforms", worst=None)),
}


@pytest.fixture(scope="module")
def pages():
    return {name: page(made) for name, made in REPORTS.items()}


@pytest.fixture(scope="module", params=REPORTS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def seen(pages, name):
    return Page(pages[name])


def test_ids_are_unique_and_links_inside_the_page_resolve(seen):
    ids = seen.values("id")
    assert len(ids) == len(set(ids))
    inside = {link.removeprefix("#") for link in seen.values("href") if link.startswith("#")}
    assert inside - set(ids) == set()
    assert "matrix" in inside


def test_every_cell_has_a_unique_anchor(pages):
    links = Page(pages["sample"]).values("href")
    want = {re.sub(r"[^\w.]+", "-", c.id).strip("-") for c in SAMPLE.cells}
    assert want <= {link.removeprefix("#") for link in links}


def test_cells_with_similar_names_have_different_anchors():
    twins = report(cell(loss="a b", clause="c"), cell(loss="a", clause="b c"))
    ids = Page(page(twins)).values("id")
    assert {"a-b-c-function-cpu", "a-b-c-function-cpu--2"} <= set(ids)


def test_every_header_cell_has_a_scope(seen):
    assert {th.get("scope") for th in seen.all("th")} <= {"col", "row", "colgroup"}


def test_the_rows_of_the_matrix_have_as_many_cells_as_its_head(pages):
    matrix = pages["sample"].partition('<section id="matrix">')[2].partition("</section>")[0]
    clauses = sum(map(len, columns(SAMPLE.cells).values()))
    rows = matrix.partition("<tbody>")[2].split("<tr")[1:]
    assert len(rows) == 12
    assert {row.count("<td") for row in rows} == {clauses}
    assert sum(map(int, re.findall(r'colspan="(\d+)"', matrix))) == clauses


def test_the_page_fetches_nothing(seen):
    assert seen.values("src") == []
    assert seen.all("link") == []
    assert {tag for tag, _ in seen.elements} & {"iframe", "img", "object", "base", "form"} == set()
    policy = next(m["content"] for m in seen.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")


def test_the_style_sheet_imports_nothing(pages):
    style = re.search(r"<style>(.*?)</style>", pages["sample"], re.DOTALL)[1]
    assert not re.search(r"url\(|@import|@font-face", style)


def test_every_link_points_into_the_page_to_a_script_or_to_the_web(seen):
    for link in seen.values("href"):
        assert re.match(r"#|https?://|repro/[\w.-]+\.py$", link), link


def test_no_text_of_a_report_becomes_markup(pages):
    seen = Page(pages["hostile"])
    assert "owned" not in seen.values("id")
    assert seen.values("onclick") == []
    assert len(seen.all("script")) == len(Page(pages["sample"]).all("script")) == 2
    assert "<b id=owned" in seen.text
    assert "49" not in re.findall(r"\d+", seen.text)


def test_no_rendering_contains_a_control_character(pages):
    made = hostile()
    texts = [pages["hostile"], summary(made), screen(made, HOSTILE), badge(made), made.to_json()]
    for text in (*texts, diff(made, SAMPLE).text(), diff(SAMPLE, made).text()):
        assert {char for char in text if not char.isprintable()} <= {"\n", NBSP}
        assert "\\x1b[2J" in text or "\\u001b[2J" in text or text == badge(made)


def test_an_address_with_a_control_character_is_not_a_link():
    listed = KnownEntry("r", "https://example.org/\u202egpj", None)
    got = Page(page(report(cell(verdict="known", deviation=listed))))
    assert [link for link in got.values("href") if "example.org" in link] == []
    assert "https://example.org/\\u202egpj" in got.text


@pytest.mark.parametrize("script", ["../up.py", "/etc/x.py", "//host/x", "a/../../b", "x y"])
def test_a_script_outside_the_report_is_not_a_link(script):
    got = Page(page(report(cell(verdict="deviates", script=script))))
    assert script in got.text
    assert script not in got.values("href")


def test_the_report_can_be_read_from_its_page(pages, name):
    assert artifact(pages[name]).to_json() == REPORTS[name].to_json()


def test_a_large_report_can_be_read_from_its_page():
    large = huge()
    assert artifact(page(large)).to_json() == large.to_json()


@pytest.mark.parametrize("damage", [("H4sI", "AAAA"), ('id="artifact" data-gzip>"', "\\g<0>=")])
def test_a_page_with_a_damaged_artifact_is_refused(damage):
    made, times = re.subn(*damage, page(huge()), count=1)
    assert times == 1
    with pytest.raises(ReportError, match="holds a damaged artifact"):
        artifact(made)


def test_a_foreign_page_is_refused():
    with pytest.raises(ValueError, match="is not a lossspec report"):
        artifact("<!DOCTYPE html><title>other</title>")


def test_the_same_report_gives_the_same_page(pages):
    assert page(SAMPLE) == pages["sample"]
    assert page(huge()) == page(huge())


def test_a_deviation_shows_every_detail(pages):
    text = Page(pages["sample"]).text
    told = next(c for c in SAMPLE.failing if c.case)
    for part in (told.says, told.reason, told.call, told.got, told.want, told.budget, told.repeat):
        assert part in text
    assert '"layout": "contiguous"' in text


def test_a_known_deviation_shows_its_reason_and_link(pages):
    seen = Page(pages["sample"])
    known = next(c for c in SAMPLE.cells if c.verdict is Verdict.KNOWN)
    assert known.deviation.reason in seen.text
    assert known.deviation.link in seen.values("href")


def test_a_cell_of_the_matrix_has_a_sign_a_word_and_the_number_of_cases(pages):
    shown = next(c for c in SAMPLE.cells if c.verdict is Verdict.CONFORMS)
    assert f">✓ {shown.examples}<br>conforms</a>" in pages["sample"]


def test_no_rendering_shows_percentages(pages):
    for made in (Page(pages["sample"]).text, summary(SAMPLE), screen(SAMPLE), badge(SAMPLE)):
        assert "%" not in made


def test_every_rendering_reports_a_run_without_cells(pages):
    for made in (Page(pages["empty"]).text, summary(report()), screen(report())):
        assert "No clause was run" in made
    assert json.loads(badge(report()))["message"] == "no clause was run"


def test_an_empty_shard_is_no_error():
    part = replace(report(), selection=replace(report().selection, shard="1/2"))
    for made in (Page(page(part)).text, summary(part), screen(part)):
        assert "Shard 1/2 of this run has no cell; other shards have." in made
        assert "the run fails" not in made


def test_a_diff_with_a_narrower_run_explains_missing_cells():
    narrowed = replace(SAMPLE, cells=SAMPLE.cells[1:])
    assert "note: the new report lacks cells; " in diff(SAMPLE, narrowed).text()
    assert "note: " not in diff(SAMPLE, SAMPLE).text()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"verdict": "unsupported", "reason": "x" * 5_000},
        {"verdict": "deviates", "reason": "r" * 400, "got": "g" * 9_000, "call": "c" * 9_000},
        {"verdict": "known", "case": {"data": [0.1] * 100}},
    ],
    ids=["conforming", "unsupported", "deviating", "known"],
)
def test_a_huge_report_stays_within_every_bound(changes):
    large = huge(**changes)
    assert len(large.cells) == 2_760
    made = page(large)
    assert len(made.encode("utf-8")) < (2_500_000 if changes else 1_500_000)
    assert len(Page(made).all("article")) <= ARTICLES
    assert len(summary(large).encode("utf-8")) <= 60_000
    assert len(screen(large).splitlines()) <= HEIGHT


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_in_the_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#57606a", "#ffffff") == pytest.approx(6.4, abs=0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_has_enough_contrast(pages, scheme):
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", pages["sample"])
    palette = {name: colours[scheme] for name, *colours in found}
    grounds = [name for name in palette if name in ("paper", "panel") or name.endswith("-tint")]
    texts = [name for name in palette if name not in (*grounds, "line")]
    assert (len(grounds), len(texts)) == (5, 6)
    low = {
        (text, ground): round(got, 2)
        for text, ground in itertools.product(texts, grounds)
        if (got := contrast(palette[text], palette[ground])) < 4.5
    }
    assert low == {}


def test_every_colour_comes_from_the_palette(pages):
    style = re.search(r"<style>(.*?)</style>", pages["sample"], re.DOTALL)[1]
    rest = re.sub(r"--[\w-]+: light-dark\([^)]*\);", "", style)
    assert re.findall(r"#[0-9a-f]{3,8}\b(?![\w-])|rgba?\(|hsla?\(", rest) == []


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.4123, "0.412"),
        (1.0, "1"),
        (1234.5, "1234"),
        (4.1e6, "4.1e6"),
        (2e-9, "2e-9"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_a_ratio_is_short(value, want):
    assert ratio(value) == want


def test_the_axis_contains_the_budget_and_clips_distant_values():
    axis = Axis.of([0.02, 0.5, None, 4e6, math.inf, 0.0])
    assert [label for _, label in axis.ticks] == ["0.01", "0.1", "1", "10", "100", "1000"]
    assert axis.clipped
    assert axis.place(0.0) == axis.place(0.01) == 3
    assert axis.place(math.inf) == axis.place(math.nan) == axis.place(4e6) == 97


def test_an_axis_without_values_contains_the_budget():
    axis = Axis.of([None])
    assert ([label for _, label in axis.ticks], axis.clipped) == (["0.1", "1", "10"], False)


def test_themes_have_a_fixed_order_and_new_ones_come_last():
    cells = [cell(clause=theme, theme=theme) for theme in ("zeal", "mode", "value", "art")]
    assert list(columns(cells)) == ["value", "mode", "art", "zeal"]


def test_a_known_deviation_gives_its_reason_once():
    known = next(c for c in SAMPLE.cells if c.verdict is Verdict.KNOWN)
    reason = known.deviation.reason
    alone = replace(SAMPLE, cells=(replace(known, reason=reason),))
    assert summary(alone).count(reason) == 1
    assert Page(page(alone)).text.count(reason) == 2  # in the article and in the table of cells


def test_the_summary_lists_deviations_before_the_matrix():
    got = [line for line in summary(SAMPLE).splitlines() if line.startswith("#")]
    assert got[0] == "# mylib.losses 1.4.0"
    assert [line for line in got if line.startswith("## ")] == [
        "## Deviations",
        "## Not judged",
        "## Known deviations",
        "## Losses by themes",
        "## Environment",
    ]
    assert r"### ✗ deviates: huber_loss/half-range\[function-cpu\]" in got


@pytest.mark.parametrize("budget", [2_000, 3_000, 4_000])
def test_a_summary_keeps_its_size_limit_and_names_omissions(budget):
    got = summary(SAMPLE, budget)
    assert budget / 3 < len(got.encode("utf-8")) <= budget
    assert re.search(r"^… and \d+ (more that fail|sections? more in the HTML report)$", got, re.M)
    assert got.count("```") % 2 == 0


def test_no_text_becomes_markup_in_the_summary():
    text = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", summary(hostile()), flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"<(?!!-- -->)|@(?!<!-- -->)|(?<!\\)`", text)
    table = [line for line in text.partition("## Losses")[2].splitlines() if line[:1] == "|"]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [4, 4, 4]


def test_a_code_fence_is_longer_than_the_backticks_inside():
    got = summary(report(cell(verdict="deviates", call="x = '''\n````\nfree text")))
    assert "`````python\nx = '''\n````\nfree text\n`````" in got


@pytest.mark.parametrize(
    ("verdicts", "message", "colour"),
    [
        (["conforms"] * 3, "3 of 3 conform", "0b6b3a"),
        (["conforms", "known", "not-applicable"], "1 of 2 conform, 1 known", "0b6b3a"),
        (["conforms", "inconclusive"], "1 of 2 conform", "8a4b00"),
        (["conforms", "deviates", "crash", "known"], "2 of 4 fail", "b3261e"),
        (["unsupported", "not-applicable"], "nothing was judged", "57606a"),
        (["unsupported", "inconclusive"], "nothing was judged", "57606a"),
        ([], "no clause was run", "57606a"),
    ],
)
def test_a_badge_shows_the_worst_verdict(verdicts, message, colour):
    cells = [cell(clause=f"c{i}", verdict=verdict) for i, verdict in enumerate(verdicts)]
    got = json.loads(badge(report(*cells)))
    want = {"schemaVersion": 1, "label": "lossspec", "message": message, "color": colour}
    assert got == want


def lacking(verdicts, loss="kl_div"):
    """Return a cell of a loss that the implementation lacks, for each verdict."""
    absent = {"loss": loss, "extra": {"absent": True}, "reason": f"mylib has no {loss}"}
    return [cell(clause=f"c{i}", verdict=v, **absent) for i, v in enumerate(verdicts)]


def test_absent_losses_are_named_and_not_counted_in_every_rendering():
    gone = [*lacking(["unsupported"] * 3), *lacking(["unsupported"], "l1_loss")]
    made = report(cell(), cell(clause="a", verdict="known"), *gone)
    assert json.loads(badge(made))["message"] == "1 of 2 conform, 1 known, 2 losses absent"
    wanted = "1 of 2 clauses conform, 1 known; 2 losses absent"
    text = Page(page(made)).text.replace(NBSP, " ")
    for shown in (text, summary(made), screen(made), diff(made, made).text()):
        assert wanted in shown
    assert "absent: kl_div, l1_loss" in screen(made)
    assert "Absent losses, which are not counted: kl_div, l1_loss" in summary(made)
    assert "The implementation lacks 2 losses, which are not counted: kl_div, l1_loss." in text
    # Their cells stay in the table of all cells, and in the artifact.
    assert "kl_div/c2[function-cpu]" in text
    matrix = page(made).partition('<section id="matrix">')[2].partition("</section>")[0]
    assert "kl_" not in matrix.partition("<table>")[2]
    assert "kl_div" not in summary(made).partition("## Losses by themes")[2]


def test_a_report_of_only_absent_losses_says_that_nothing_was_judged():
    made = report(*lacking(["unsupported"]))
    for shown in (Page(page(made)).text, summary(made), screen(made)):
        assert "No clause was judged, so the run fails." in shown
        assert "kl_div" in shown
    assert json.loads(badge(made))["color"] == "57606a"


def unjudged_cells():
    few = "{} of 9 cases could have told right from wrong; profile quick asks for 4"
    return [
        *(cell(clause=f"a{i}", verdict="unsupported", reason="it takes no weight") for i in "123"),
        cell(clause="b", verdict="unsupported", reason="it takes no delta"),
        *(cell(clause=f"c{i}", verdict="inconclusive", reason=few.format(i)) for i in "12"),
    ]


def test_reasons_are_grouped_with_their_number_of_cells():
    made = report(cell(), *unjudged_cells())
    got = [(group.verdict, group.count, group.reason) for group in unjudged(made)]
    assert got == [
        (
            "inconclusive",
            2,
            "1 of 9 cases could have told right from wrong; profile quick asks for 4 "
            "(numbers vary by cell)",
        ),
        ("unsupported", 3, "it takes no weight"),
        ("unsupported", 1, "it takes no delta"),
    ]
    assert unjudged(made)[1].where == "huber_loss (a1, a2, a3)"
    text = screen(made)
    assert "○ 3 unsupported: it takes no weight\n○ 1 unsupported: it takes no delta\n" in text
    assert "- ○ 3 unsupported: it takes no weight\n  huber_loss (a1, a2, a3)" in summary(made)
    seen = Page(page(made))
    assert "it takes no weight" in seen.text
    assert "#huber_loss-a2-function-cpu" in seen.values("href")


def test_the_terminal_shows_failures_and_reasons_and_counts_the_rest():
    many = [cell(clause=f"u{i}", verdict="unsupported", reason="x" * 90 + "abcdef"[i])
            for i in range(6)]  # fmt: skip
    text = screen(report(cell(clause="w", verdict="deviates"), *many), "reports/x/index.html")
    assert text.count("1 unsupported: ") == 3
    assert "✗ deviates: huber_loss/w[function-cpu]" in text
    assert "… and 3 more not judged; the report lists every reason" in text
    assert len(text.splitlines()) <= HEIGHT


VALUE, GRADIENT = "huber_loss/value[function-cpu]", "huber_loss/gradient[function-cpu]"


@pytest.mark.parametrize(
    ("old", "new", "kind", "worse"),
    [
        ("conforms", "conforms", "U", False),
        ("deviates", "deviates", "U", False),
        ("conforms", "deviates", "C", True),
        ("known", "crash", "C", True),
        ("inconclusive", "not-run", "C", True),
        ("crash", "deviates", "C", False),
        ("deviates", "conforms", "C", False),
        ("conforms", "unsupported", "C", False),
        (None, "conforms", "A", False),
        (None, "deviates", "A", False),
        ("conforms", None, "D", True),
        ("deviates", None, "D", True),
    ],
)
def test_a_cell_that_starts_to_fail_or_vanishes_is_a_regression(old, new, kind, worse):
    before, after = (
        report(*([cell(verdict=verdict)] if verdict else []), cell(clause="gradient"))
        for verdict in (old, new)
    )
    got = diff(before, after)
    change = next(change for change in got.changes if change.id == VALUE)
    assert (change.kind, change.regression, got.exit_status) == (kind, worse, int(worse))
    assert got.count(Kind(kind)) == (2 if kind == "U" else 1)


def test_a_diff_lists_regressions_first():
    old = report(cell(), cell(clause="gradient", verdict="deviates"))
    new = report(cell(verdict="deviates"), cell(clause="gradient"), cell(clause="a"))
    got = diff(old, new)
    assert got.text().splitlines()[2:] == [
        "A 1 added, D 0 deleted, C 2 changed, U 0 unchanged",
        "",
        f"C {VALUE}: ✓ conforms → ✗ deviates (regression)",
        "A huber_loss/a[function-cpu]: nothing → ✓ conforms",
        f"C {GRADIENT}: ✗ deviates → ✓ conforms",
        "",
        "1 regression",
    ]
    assert got.to_data()["counts"] == {"A": 1, "D": 0, "C": 2, "U": 0}
    assert got.to_data()["changes"][-1] == {
        "kind": "C",
        "id": VALUE,
        "old": "conforms",
        "new": "deviates",
        "regression": True,
    }


def test_a_diff_lists_known_deviations_with_a_changed_reason():
    before, after = (
        report(
            cell(verdict="known", reason=reason),
            cell(clause="gradient", verdict="known", reason="as ever"),
            cell(clause="a", verdict="unsupported", reason=reason),
        )
        for reason in ("a -1 is class 0", "the shape is (1)")
    )
    got = diff(before, after)
    assert got.text().splitlines()[2:] == [
        "A 0 added, D 0 deleted, C 0 changed, U 3 unchanged",
        "",
        f'U {VALUE}: ◆ known; the reason was "a -1 is class 0" and is "the shape is (1)"',
        "",
        "no regression",
    ]
    assert got.exit_status == 0
    assert diff(before, before).text().splitlines()[3:] == ["", "no regression"]


@pytest.mark.parametrize("version", ["1.0", None])
def test_terminal_and_summary_begin_with_the_torch_version(version):
    made = replace(SAMPLE, implementation=replace(SAMPLE.implementation, version=version))
    made = replace(made, environment=replace(made.environment, torch="2.14.1+cu130"))
    name = " ".join(word for word in (made.implementation.name, version) if word)
    assert screen(made).splitlines()[0] == f"{name}, torch 2.14.1+cu130"
    assert "torch 2.14.1+cu130, profile" in summary(made).partition("\n## ")[0]
    torchs = replace(made.implementation, name="torch.nn", version="2.14.1+cu130")
    assert screen(replace(made, implementation=torchs)).splitlines()[0] == "torch.nn 2.14.1+cu130"


def test_a_diff_of_different_selections_has_a_note():
    narrow = replace(SAMPLE, selection=replace(SAMPLE.selection, losses=("huber_loss",)))
    assert "note: the runs selected different parts" in diff(SAMPLE, narrow).text()
    assert "note" not in diff(SAMPLE, SAMPLE).text()


@pytest.mark.parametrize(
    "made", [SAMPLE, report(), hostile(), huge("deviates")], ids=["sample", "empty", "bad", "huge"]
)
def test_the_terminal_text_fits_one_screen(made):
    got = screen(made, "reports/mylib.losses/index.html").splitlines()
    assert len(got) <= HEIGHT == 24
    assert max(map(len, got)) <= WIDTH == 80
    assert all(line.isprintable() for line in got)
    assert got[-1] == "report: reports/mylib.losses/index.html"


def test_the_terminal_shows_a_failure_with_its_sentence_and_command():
    told = next(c for c in SAMPLE.failing if c.loss == "huber_loss")
    got = screen(SAMPLE)
    # Sentences are wrapped, and a long command continues after a backslash.
    words = " ".join(got.replace("\\\n", " ").split())
    for part in (f"✗ deviates: {told.id}", told.says, told.reason, f"$ {told.repeat}"):
        assert part in words


def test_the_terminal_shows_each_failure_once_before_second_surfaces():
    surfaces = ("function", "class")
    twice = [cell(clause=c, surface=s, verdict="deviates") for c in "abcdefg" for s in surfaces]
    told = re.findall(r"✗ deviates: ([^\s;]+)", screen(report(*twice)))
    assert told[:7] == [f"huber_loss/{clause}[class-cpu]" for clause in "abcdefg"]
    assert told[7:] == [f"huber_loss/{clause}[function-cpu]" for clause in "abc"]


CAUSE = "float64: as if computed in float32"


def one_cause(clauses, **more):
    """Return cells of two losses with one cause."""
    return [
        cell(loss=loss, clause=c, verdict="deviates", reason=f"wrong {c}", cause=CAUSE, **more)
        for loss in ("huber_loss", "l1_loss")
        for c in clauses
    ]


def test_every_rendering_shows_a_cause_once_with_its_cells():
    made = report(*one_cause("bcd"), cell(clause="a", verdict="deviates", reason="else"))
    also = "also breaks: c, d, l1_loss/b, l1_loss/c, l1_loss/d"
    shown = Page(page(made))
    headings = shown.text.partition("Losses by clauses")[0]
    assert headings.count("wrong b") == 1
    assert "7 cells fail, with 2 causes" in shown.text
    for text in (" ".join(screen(made).split()), summary(made).replace("\\", ""), shown.text):
        assert also in text.replace("Also", "also")
        assert CAUSE in text
    assert len(shown.all("article")) == 2
    # Each cell keeps an anchor, which the block links to.
    assert "#l1_loss-d-function-cpu" in shown.values("href")
    assert "l1_loss-d-function-cpu" in shown.values("id")
    assert made.headline == "0 of 7 clauses conform, 7 deviate"


def test_a_long_list_of_cells_with_one_cause_is_shortened():
    many = one_cause([f"clause-{i:03}" for i in range(100)])
    made = report(*many)
    text = " ".join(screen(made).split())
    assert re.search(r"also breaks: clause-001, .* \(\d+ more cells\)", text)
    assert len(screen(made).splitlines()) <= HEIGHT
    assert "clause-020, ... (179 more cells)" in summary(made)
    assert "clause-040, ... (159 more cells)" in Page(page(made)).text


def test_the_terminal_counts_the_failing_cells_that_it_omits():
    others = [cell(clause=f"x{i}", verdict="deviates") for i in range(30)]
    told = screen(report(*one_cause("bcd"), *others))
    shown = sum("✗" in line for line in told.splitlines())
    assert f"… and {36 - 6 - (shown - 1)} more failing cells" in told


def test_a_cause_without_room_for_its_details_gets_one_line():
    many = [
        cell(loss=loss, clause=c, verdict="deviates", reason=f"wrong {c}", cause=f"{loss} fails")
        for loss in ("huber_loss", "kl_div", "l1_loss", "mse_loss", "nll_loss")
        for c in ("a", "b", "c")
    ]
    told = screen(report(*many))
    assert "✗ deviates: huber_loss/a[function-cpu]" in told
    assert "✗ deviates: nll_loss/a[function-cpu] and 2 more cells; nll_loss fails" in told
    assert "more failing" not in told
    assert len(told.splitlines()) <= HEIGHT


EXCUSED = {"same-as-torch": 3, "overflow": 9, "from-a-later-version": 1}


def test_excused_cases_are_counted_by_cell_and_explained_in_a_legend():
    cells = [cell(clause="a", verdict="deviates", excused=EXCUSED), cell(excused={"overflow": 4})]
    made = report(*(replace(c, examples=96) for c in cells))
    told = "96 cases, 13 excused: 9 overflow, 3 same as torch, 1 from a later version"
    shown = Page(page(made))
    for text in (screen(made), summary(made), shown.text):
        assert told in text
    legend = shown.text.partition("Excused cases")[2]
    says = "the textbook formula overflows in this dtype too"
    assert re.search(rf"overflow\s*13\s*2\s*{says}", legend)
    assert f"- overflow: 13 cases in 2 cells; {says}" in summary(made)
    assert "- from a later version: 1 case in 1 cell" in summary(made)
    title = "informative; 96 cases, 4 excused: 4 overflow"
    assert any(title in text for text in shown.values("title"))


def test_a_report_without_excused_cases_has_no_legend():
    made = report(cell(excused={}))
    assert "Excused" not in Page(page(made)).text + summary(made)


def test_a_further_deviation_is_shown_under_the_first():
    other = {"reason": "the loss of a nan", "got": "0", "want": "nan", "call": "loss(nan)"}
    made = report(cell(verdict="deviates", reason="the value", extra={"further": [other]}))
    told = "nd another kind: the loss of a nan; got 0; want nan"
    for text in (screen(made), summary(made), Page(page(made)).text):
        assert text.index("the value") < text.index(told)
    for text in (summary(made), Page(page(made)).text):
        assert "loss(nan)" in text


def test_a_command_that_does_not_fit_the_terminal_is_omitted():
    got = screen(report(cell(verdict="deviates", repeat="lossspec " + "x" * 100)))
    assert "$" not in got


def test_all_renderings_are_written_beside_the_artifact(tmp_path):
    paths = render_all(SAMPLE, tmp_path / "mylib")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "mylib/index.html",
        "mylib/summary.md",
        "mylib/badge.json",
    ]
    assert artifact(paths[0].read_text("utf-8")).to_json() == SAMPLE.to_json()
    assert paths[1].read_text("utf-8") == summary(SAMPLE)
    assert json.loads(paths[2].read_text("utf-8"))["message"] == "5 of 154 fail"
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted(p.name for p in paths)


def test_a_hostile_report_can_be_written(tmp_path):
    made = hostile()
    paths = render_all(made, tmp_path)
    assert artifact(paths[0].read_text("utf-8")).to_json() == made.to_json()
