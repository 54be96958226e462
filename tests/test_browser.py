"""The report page in a real browser: its script, its width and its drawing."""

import shutil
import subprocess
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest
from test_render import Page

from lossspec.render.html import page
from lossspec.report.records import Report, cell_id

SAMPLE = Report.read(Path(__file__).parent / "data" / "conformance.json")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture
def browse(tmp_path):
    """Open a page, run a script in it, and return its element tree."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser found; any of {', '.join(BROWSERS)} would do")

    def browse(*flags, script="", fragment="", html=None):
        file = tmp_path / "index.html"
        text = (html or page(SAMPLE)).replace("</body>", f"<script>{script}</script></body>")
        file.write_text(text, "utf-8")
        run = subprocess.run(
            [
                program,
                *FLAGS,
                f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=1280,900",
                *flags,
                f"{file.as_uri()}{fragment}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return run.stdout

    return browse


def facts(browse, script, **options):
    """Return the data attributes that a script leaves on the root element of the page."""
    seen = Page(browse("--dump-dom", script=script, **options))
    (root,) = seen.all("html")
    return {name.removeprefix("data-"): value for name, value in root.items()}, seen


def test_the_script_runs_and_keeps_the_text_of_the_page(browse):
    got, seen = facts(browse, "document.documentElement.dataset.done = 'yes'")
    assert got["done"] == "yes"
    assert "144 of 154 clauses conform" in seen.text.replace("\N{NO-BREAK SPACE}", " ")
    assert [label for label in seen.all("label") if "hidden" in label] == []


def unbroken():
    """Return the sample report with names and texts that offer no place to break a line."""
    long = "x" * 150
    cells = [
        replace(
            cell,
            id=cell_id(long, cell.clause + long, cell.surface, cell.device),
            loss=long,
            clause=cell.clause + long,
            **{name: long for name in TEXTS if getattr(cell, name) is not None},
        )
        for cell in SAMPLE.cells
        if cell.loss == "nll_loss"
    ]
    return replace(
        SAMPLE,
        implementation=replace(SAMPLE.implementation, name=long, version=long),
        environment=replace(SAMPLE.environment, command=long, platform=long, git_commit=long),
        cells=cells,
    )


TEXTS = ("says", "reason", "call", "got", "want", "budget", "repeat")


@pytest.mark.parametrize("width", [320, 400, 800, 1280])
@pytest.mark.parametrize("report", [SAMPLE, unbroken()], ids=["sample", "unbroken"])
def test_the_page_is_never_wider_than_the_window(browse, report, width):
    script = """
        const root = document.documentElement, told = parent.document.documentElement.dataset;
        told.window = innerWidth;
        told.room = root.clientWidth;
        told.page = Math.max(root.scrollWidth, document.body.scrollWidth);
    """
    # A browser window has a minimum width; a frame has none.
    framed = escape(page(report).replace("</body>", f"<script>{script}</script></body>"))
    frame = f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{framed}"></iframe>'
    got, _ = facts(browse, "", html=f"<!DOCTYPE html><html><body>{frame}</body></html>")
    assert (got["window"], got["page"]) == (str(width), got["room"])


def test_every_entry_of_the_navigation_is_visible(browse):
    script = """
        const bar = document.querySelector(".bar nav"), told = document.documentElement.dataset;
        told.entries = bar.children.length;
        told.room = bar.clientWidth;
        told.needed = bar.scrollWidth;
    """
    published = Path(__file__).parents[1] / "reports" / "published" / "torch.nn"
    report = page(Report.read(published / "conformance.json"))
    got, _ = facts(browse, script, html=report)
    assert int(got["entries"]) == 11
    assert int(got["needed"]) <= int(got["room"])


def test_the_filter_keeps_the_rows_that_contain_its_words(browse):
    script = """
        const box = document.getElementById("filter");
        dispatchEvent(new KeyboardEvent("keydown", {key: "/", cancelable: true}));
        const root = document.documentElement;
        root.dataset.focus = document.activeElement.id;
        box.value = "HUBER_loss half-range";
        box.dispatchEvent(new Event("input"));
        const shown = [...document.querySelectorAll("#cells tbody tr:not([hidden])")];
        root.dataset.rows = shown.map(row => row.cells[0].textContent).join();
        root.dataset.open = [...document.querySelectorAll(".loss:not([hidden])")].map(
            loss => `${loss.querySelector("b").textContent} ${loss.open}`).join();
    """
    got, _ = facts(browse, script)
    assert got["focus"] == "filter"
    assert got["rows"] == "huber_loss/half-range[class-cpu],huber_loss/half-range[function-cpu]"
    assert got["open"] == "huber_loss true"


def test_the_j_and_k_keys_move_between_deviations(browse):
    script = """
        const seen = [];
        for (const key of "jjjk") {
            dispatchEvent(new KeyboardEvent("keydown", {key}));
            seen.push(document.activeElement.id);
        }
        document.documentElement.dataset.seen = seen.join();
    """
    got, _ = facts(browse, script)
    # The first deviation explains its twin on the other surface, so the twin is not listed here.
    first, second = "cross_entropy-mean-divisor-class-cpu", "huber_loss-half-range-function-cpu"
    assert got["seen"].split(",") == [first, second, "kl_div-empty-class-cpu", second]


def test_a_link_to_a_cell_opens_its_table(browse):
    script = """
        const row = document.getElementById("l1_loss-gradient-class-cpu");
        document.documentElement.dataset.open = row.closest("details").open;
        document.documentElement.dataset.top = scrollY > 0;
    """
    closed, _ = facts(browse, script)
    opened, _ = facts(browse, script, fragment="#l1_loss-gradient-class-cpu")
    assert (closed["open"], opened["open"], opened["top"]) == ("false", "true", "true")


@pytest.mark.parametrize("large", [False, True], ids=["as-it-is", "compressed"])
def test_the_page_saves_its_artifact(browse, large, monkeypatch):
    monkeypatch.setattr("lossspec.render.html.VERBATIM", 0 if large else 10**9)
    script = """
        URL.createObjectURL = blob => {
            blob.text().then(text => {
                const cells = JSON.parse(text).cells;
                document.documentElement.dataset.cells = cells.length;
            });
            return "#saved";
        };
        HTMLAnchorElement.prototype.click = () => {};
        document.getElementById("save").click();
    """
    # The button works asynchronously, so virtual time runs until it has finished.
    seen = Page(browse("--dump-dom", "--virtual-time-budget=3000", script=script))
    assert int(seen.all("html")[0]["data-cells"]) == len(SAMPLE.cells)


@pytest.mark.parametrize("scheme", [[], ["--force-dark-mode"]], ids=["light", "dark"])
def test_the_page_renders_as_a_picture(browse, tmp_path, scheme):
    browse(f"--screenshot={tmp_path / 'page.png'}", *scheme)
    picture = (tmp_path / "page.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
