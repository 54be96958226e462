"""The display of the records that `lossspec.check` returns."""

import copy
import pickle
from html.parser import HTMLParser

import pytest

from lossspec.render.cells import LINES, WIDTH, Cells
from lossspec.report.records import Cell


def cell(clause="value", verdict="conforms", **more) -> Cell:
    fields = {
        "id": f"mse_loss/{clause}[function-cpu]",
        "loss": "mse_loss",
        "surface": "function",
        "clause": clause,
        "theme": "value",
        "device": "cpu",
        "says": "The value is that of the definition.",
        "dtypes": ("float32",),
        "verdict": verdict,
        "examples": 40,
        "informative": 30,
        "excused": {},
        "seconds": 0.5,
        "extra": {},
    }
    names = ("reason", "worst", "case", "call", "got", "want", "budget", "repeat", "script")
    return Cell(**{**dict.fromkeys((*names, "deviation")), **fields, **more})


WRONG = cell("value", "deviates", reason="the value with 'sum'", got="1", want="2", worst=3e5)


class Table(HTMLParser):
    """The rows of a table, each a list of texts; every element must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.rows, self.caption = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "caption" in self.open:
            self.caption += data
        else:
            self.rows[-1][-1] += data


def test_conforming_cells_are_summarised_in_one_line():
    cells = Cells([cell("value"), cell("gradient")])
    assert repr(cells) == "mse_loss (function, cpu): 2 of 2 clauses conform"


def test_each_clause_that_does_not_conform_has_a_line_failures_first():
    lost = cell("threads", "inconclusive", reason="no case was about this clause")
    assert repr(Cells([lost, cell("gradient"), WRONG])).splitlines() == [
        "mse_loss (function, cpu): 1 of 3 clauses conform, 1 deviates, 1 inconclusive",
        "  ✗ deviates: value: the value with 'sum'; got 1; want 2",
        "  ? inconclusive: threads: no case was about this clause",
    ]


def test_a_common_reason_is_printed_once_on_its_own_line_if_long():
    names = ("value", "gradient", "threads", "accepts", "arrays")
    cells = Cells(cell(name, "deviates", reason="x" * 200) for name in names)
    head, clauses, text = repr(cells).splitlines()
    assert head == "mse_loss (function, cpu): 0 of 5 clauses conform, 5 deviate"
    assert clauses == "  ✗ deviates: accepts, value, gradient and 2 more"
    assert (text[:8], text[-1], len(text)) == ("      xx", "…", WIDTH)


def test_a_repr_has_a_limited_number_of_lines():
    cells = Cells(cell(f"c{i}", "deviates", reason=f"reason {i}") for i in range(60))
    lines = repr(cells).splitlines()
    assert len(lines) == LINES
    assert lines[-1] == "  … and 42 more lines"
    assert lines[-2].startswith("  ✗ deviates: c17: ")


def test_cells_are_a_list():
    cells = Cells([WRONG, cell("gradient")])
    assert cells == [WRONG, cell("gradient")]
    assert (len(cells), cells[0], cells[-1].clause) == (2, WRONG, "gradient")
    assert isinstance(cells, list)
    (wrong,) = [c for c in cells if c.verdict.fails]
    assert wrong is WRONG
    assert type(cells[:1]) is Cells
    assert cells[:1] == [WRONG]
    assert pickle.loads(pickle.dumps(cells)) == copy.deepcopy(cells) == cells
    assert repr(Cells()) == "no clause was judged"


def test_a_notebook_shows_a_table_with_a_row_for_each_clause():
    table = Table(Cells([cell("gradient", worst=0.25), WRONG])._repr_html_())
    assert table.caption == "mse_loss (function, cpu): 1 of 2 clauses conform, 1 deviates"
    assert table.rows == [
        ["clause", "verdict", "finding", "worst"],
        [
            "valueThe value is that of the definition.",
            "✗ deviates",
            "the value with 'sum'; got 1; want 2",
            "3e5",
        ],
        ["gradient", "✓ conforms", "40 cases", "0.25"],
    ]


def test_foreign_text_is_escaped_in_pages_and_terminals():
    bad = "<script>alert(1)</script>\x1b[31m\a\nred"
    found = cell("value", "deviates", reason=bad, got=bad, call=f"x = 1\n{bad}")
    html = Cells([found])._repr_html_()
    assert "<script>" not in html
    for text in (html, repr(Cells([found])), repr(found)):
        assert not any(char in text for char in "\x1b\a")
    assert len(repr(Cells([found])).splitlines()) <= 3
    assert len(repr(found).splitlines()) == 1


@pytest.mark.parametrize("length", [10, 10_000])
def test_the_repr_of_a_cell_is_short(length):
    found = cell("value", "deviates", reason="y" * length, call="z" * 10_000)
    assert repr(found).startswith("<Cell mse_loss/value[function-cpu]: deviates (yyyyyyyyyy")
    assert len(repr(found)) < 160
    assert repr(cell()) == "<Cell mse_loss/value[function-cpu]: conforms, 40 cases>"
    assert repr(cell(examples=0)) == "<Cell mse_loss/value[function-cpu]: conforms>"


EXCUSED = {"same-as-torch": 3, "overflow": 9}


def test_a_cell_counts_its_excused_cases_by_reason():
    told = "40 cases, 12 excused: 9 overflow, 3 same as torch"
    assert repr(cell(excused=EXCUSED)) == f"<Cell mse_loss/value[function-cpu]: conforms, {told}>"
    html = Cells([cell(excused=EXCUSED), cell("gradient", "deviates", excused=EXCUSED)])
    assert [told in row[2] for row in Table(html._repr_html_()).rows[1:]] == [True, True]


def test_cells_with_one_cause_share_a_line_and_a_row():
    cause = "mse_loss: off by the factor 2"
    wrong = [cell(c, "deviates", cause=cause, reason=f"the {c}") for c in ("threads", "value")]
    cells = Cells([*wrong, WRONG])
    assert repr(cells).splitlines()[1:] == [
        f"  ✗ deviates: value, threads: {cause}; the value",
        "  ✗ deviates: value: the value with 'sum'; got 1; want 2",
    ]
    rows = Table(cells._repr_html_()).rows[1:]
    assert [row[0].partition("The")[0] for row in rows] == ["value", "value"]
    assert f"{cause}; also breaks: threads" in rows[0][2]


def test_a_further_deviation_is_shown_below_the_first():
    other = {"reason": "the loss of a nan", "got": "0", "want": "nan", "call": "f(x)"}
    cells = Cells([cell("value", "deviates", reason="the value", extra={"further": [other]})])
    row = Table(cells._repr_html_()).rows[1]
    assert "and another kind: the loss of a nan; got 0; want nan" in row[2]
