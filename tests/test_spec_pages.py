"""The pages of a spec: formulae in plain text, the terminal page and the pages of docs/."""

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lossspec import maths, spec
from lossspec.clauses import clauses
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Symmetry
from lossspec.spec_pages import pages as pages
from lossspec.spec_pages import vocabulary
from lossspec.spec_pages.blocks import Bullets, Code, Formula, Prose, Table
from lossspec.spec_pages.formula import plain

ROOT = Path(__file__).parents[1]
LOSSES = list(catalogue().values())
PAGES = pages.pages()


def each(losses=LOSSES):
    return pytest.mark.parametrize("loss", losses, ids=lambda loss: loss.name)


# === formulae =============================================================================


@pytest.mark.parametrize(
    ("latex", "want"),
    [
        (r"\ell(x, y) = w\,|x - y|", "ℓ(x, y) = w |x - y|"),
        (r"(x - y)^2 / 2\beta", "(x - y)² / 2β"),
        (r"w_t\,x_t + p_c", "wₜ xₜ + p_c"),
        (r"e^{-y x}", "exp(-y x)"),
        (r"\log\frac{e^{x_c}}{\sum_j e^{x_j}}", "log(exp(x_c) / (Σⱼ exp(xⱼ)))"),
        (r"\tfrac12 \log 2\pi", "½ log 2π"),
        (r"a = \frac{a + b}{c}", "a = (a + b) / c"),
        (r"\frac{1}{C} \sum_{i \ne t} x_i", "(1 / C) Σ[i ≠ t] xᵢ"),
        (r"\prod_{t=1}^{T} p_t", "Π[t=1 .. T] pₜ"),
        (r"x_{y_j}^{(k)}", "x[yⱼ]^(k)"),
        (r"\log\sigma(x)", "log σ(x)"),
        (r"\lVert a \rVert_p", "‖a‖ₚ"),
        (r"\sqrt{x^2 + 1}", "√(x² + 1)"),
        (r"\max(0, \cos(a, b) - m)^p", "max(0, cos(a, b) - m)ᵖ"),
        (r"\left( x^\top W \right)", "(xᵀ W)"),
        (r"\text{otherwise}", "otherwise"),
        (r"\unknown x", "unknown x"),
        ("", ""),
    ],
)
def test_a_formula_is_shown_in_plain_text(latex, want):
    assert plain(latex) == want


def test_cases_are_stacked_beside_a_brace():
    latex = r"\ell(x, y) = w \begin{cases} x & y = 1 \\ \max(0, m - x) & y = -1 \end{cases}"
    assert plain(latex).splitlines() == [
        "ℓ(x, y) = w ⎧ x               y = 1",
        "            ⎩ max(0, m - x)   y = -1",
    ]


def test_three_cases_are_named_at_the_middle_line():
    latex = r"f = \begin{cases} a & x < 0 \\ b & x = 0 \\ c & x > 0 \end{cases},\quad a = 1"
    want = ["    ⎧ a   x < 0", "f = ⎨ b   x = 0", "    ⎩ c   x > 0", "a = 1"]
    assert plain(latex).splitlines() == want


@each()
def test_no_latex_is_left_in_the_formula_of_a_loss(loss):
    got = plain(loss.formula)
    assert re.findall(r"\\\w*|[{}&\x00-\x02]|\$", got.replace("\n", "")) == []
    assert len(got) > 5


@pytest.mark.parametrize("latex", ["{", "}", "^", "x_", r"\frac{1", r"\begin{cases} a", "\\", "&&"])
def test_a_broken_formula_raises_no_error(latex):
    assert isinstance(plain(latex), str)


# === blocks ===============================================================================


def test_markdown_escapes_special_characters():
    got = Prose("a * b < c, `x * y`, label_smoothing, __torch_function__").markdown()
    want = r"a \* b \< c, `x * y`, label_smoothing, \_\_torch_function\_\_"
    assert got == want


def test_an_address_in_prose_is_a_markdown_link():
    assert Prose("see https://a.org/b_c; more").markdown() == "see <https://a.org/b_c>; more"


def test_a_bar_does_not_end_a_table_cell():
    got = Table(("a", "b"), (("`x|y`", "|x|"),)).markdown()
    assert got.splitlines() == ["| a | b |", "|---|---|", r"| `x\|y` | \|x\| |"]


@pytest.mark.parametrize(
    "block",
    [
        Prose("word " * 60),
        Bullets(("word " * 60, "short")),
        Table(("name", "about"), (("`name`", "word " * 60),)),
        Code("x = 1"),
        Formula("x = 1"),
    ],
    ids=lambda block: type(block).__name__,
)
def test_a_block_keeps_its_width_and_its_words(block):
    lines = block.lines(60)
    assert max(map(len, lines)) <= 60
    words = " ".join(lines).replace("`", "").split()
    assert set(words) >= set(re.findall(r"word|short|name|about", str(block)))
    assert all(line.startswith("  ") and line == line.rstrip() for line in lines)


def test_long_code_is_unindented_rather_than_cut():
    assert Code("x" * 60).lines(60) == ["x" * 60]


# === a page ===============================================================================


@each()
def test_the_terminal_page_fits_a_hundred_columns(loss):
    assert [line for line in pages.text(loss).splitlines() if len(line) > pages.WIDTH] == []


@each()
def test_both_pages_contain_the_whole_spec(loss):
    pieces = [loss.name, loss.summary, *loss.notes, *(e.source for e in loss.examples)]
    pieces += [str(e.value) for e in loss.examples]
    pieces += [text for form in loss.forms for text in form.shapes]
    pieces += [*loss.parameters, *loss.options, *loss.reductions, *loss.dtypes]
    pieces += [name for form in loss.forms for name in form.tensors]
    pieces += [parameter.doc for parameter in loss.parameters.values()]
    pieces += [role.doc for role in loss.options.values()]
    pieces += [refusal.says for refusal in loss.refusals]
    pieces += [symmetry.says for symmetry in loss.symmetries]
    pieces += [str(value) for p in loss.parameters.values() for value in (*p.values, *p.refused)]

    def squeezed(text):
        return re.sub(r"[\s\\|`\"<>]+|^\W", "", text).lower().rstrip(".")

    for page in (pages.text(loss), pages.markdown(loss)):
        have = squeezed(page)
        assert [piece for piece in pieces if squeezed(piece) not in have] == []


@each()
def test_the_page_contains_the_source_of_the_definition(loss):
    source = inspect.getsource(loss.define).strip()
    assert source in pages.markdown(loss)


@each()
def test_a_page_lists_exactly_the_applicable_clauses(loss):
    surfaces = ["function", "class"] if loss.module else ["function"]
    want = [
        name
        for name, clause in clauses().items()
        if any(clause.applies(loss, surface) for surface in surfaces)
    ]
    table = pages.markdown(loss).partition("## Clauses")[2]
    got = re.findall(r"^\| \w* \| `([\w-]+)` \|", table, re.MULTILINE)
    assert sorted(got) == sorted(want)
    assert [c.says for n, c in clauses().items() if n in want and not known(c.says, table)] == []


def known(sentence, page):
    return Prose(sentence).markdown().replace("|", r"\|") in page


def test_a_definition_is_shown_with_its_helpers():
    page = pages.markdown(catalogue()["poisson_nll_loss"])
    assert "def log_factorial(n):" in page
    assert "import" not in page


def test_the_page_names_the_divisor_of_the_mean():
    page = pages.text(catalogue()["cross_entropy"])
    flat = " ".join(page.split())
    assert "for class indices, the sum of the losses, divided by the sum of" in flat
    assert "`divisor(target, weight)` over the elements that are not ignored" in flat
    assert "For class probabilities, the sum of the losses, divided by the number of" in flat


def test_a_spec_without_a_file_has_pages():
    namespace = {}
    exec("def define(input, target):\n    return input - target", namespace)
    loss = replace(catalogue()["soft_margin_loss"], define=namespace["define"], module=None)
    loss = replace(loss, name="of_mine", examples=())
    namespace["define"].__module__ = "typed_at_a_prompt"
    assert "of_mine" in pages.text(loss)
    assert "lossspec/specs" not in pages.markdown(loss)
    assert "class" not in pages.text(loss).partition("\n")[0]


def test_the_page_names_the_tensors_that_break_a_symmetry():
    symmetry = Symmetry(says="both negated", maps={}, without=("weight", "bias"))
    loss = replace(catalogue()["l1_loss"], symmetries=(symmetry,))
    assert "- Both negated, without `weight` or `bias`.\n" in pages.text(loss) + "\n"


# === the vocabulary =======================================================================


def test_the_page_of_the_vocabulary_has_every_word_once_with_derivative_and_rounding():
    names = re.findall(r"^### `(\w+)\(", PAGES["vocabulary.md"], re.MULTILINE)
    assert sorted([*names, "PI"]) == maths.__all__
    for name in names:
        found = vocabulary.parts(inspect.getdoc(getattr(maths, name)))
        assert found["Derivative"].endswith("."), name
        assert found["Rounding"].endswith("."), name


def test_a_word_is_described_with_its_signature_shapes_derivative_and_rounding():
    page = PAGES["vocabulary.md"]
    section = page.partition("### `total(x, axis=-1)`\n\n")[2].partition("\n### ")[0]
    assert section.startswith("Return the sum over the last axis, or over other axes;")
    for line in (
        r"- `x`: Numbers of shape \(\.\.\., K\), or a mask\.",
        r"- `axis`: .*negative.*\.",
        r"- Derivative: 1 by each term\.",
        r"- Rounding: the result, by .* unit roundoffs.*\.",
        r"- Returns: Numbers of the shape of `x` without these axes\.",
    ):
        assert re.search(rf"^{line}$", section, re.MULTILINE), line


def test_the_vocabulary_has_every_role_once_with_its_numbers():
    section = PAGES["vocabulary.md"].partition("## Roles\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+\.) \| (yes|no) \|$", section, re.MULTILINE)
    offered = (getattr(spec, name) for name in spec.__all__)
    kinds = {x for x in offered if isinstance(x, type) and issubclass(x, spec.Role)}
    assert [name for name, *_ in rows] == sorted(kind.__name__ for kind in kinds - {spec.Role})
    gradients = {name: gradient for name, _, gradient in rows}
    assert (gradients["Logit"], gradients["ClassIndex"], gradients["Sign"]) == ("yes", "no", "no")


# === docs/ ================================================================================


def test_the_committed_pages_are_current():
    docs = ROOT / "docs"
    have = {path.relative_to(docs).as_posix() for path in (docs / "losses").glob("*.md")}
    assert have | {"clauses.md", "vocabulary.md"} == set(PAGES)
    stale = [name for name, page in PAGES.items() if (docs / name).read_text("utf-8") != page]
    assert stale == [], f"run `{pages.COMMAND}`"


def test_every_loss_of_the_package_has_a_page_and_a_line_in_the_index():
    files = {path.stem for path in (ROOT / "lossspec" / "specs").glob("[!_]*.py")}
    linked = set(re.findall(r"^\| \[(\w+)\]\(\1\.md\) \|", PAGES["losses/index.md"], re.MULTILINE))
    assert linked == files
    assert {f"losses/{name}.md" for name in files} < set(PAGES)


def test_the_table_of_clauses_lists_each_clause_once_under_its_theme():
    got = []
    for theme, section in re.findall(
        r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGES["clauses.md"], re.MULTILINE | re.DOTALL
    ):
        got += [(theme, name) for name in re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)]
    assert sorted(got) == sorted((c.theme, c.name) for c in clauses().values())


def test_the_table_of_clauses_names_the_losses():
    table = re.findall(r"^\| `([\w-]+)` \| .* \| (.*) \|$", PAGES["clauses.md"], re.MULTILINE)
    losses = dict(table)
    assert "[nll_loss](losses/nll_loss.md)" in losses["refuses-classes"]
    assert "l1_loss" not in losses["refuses-classes"]
    assert losses["value"] == "all"
    assert losses["state-dict"].endswith("class only")


def test_one_command_builds_the_pages_and_removes_stale_ones(tmp_path):
    (tmp_path / "losses").mkdir()
    gone, mine = tmp_path / "losses" / "gone.md", tmp_path / "losses" / "mine.md"
    gone.write_text(PAGES["losses/index.md"], "utf-8")
    mine.write_text("# by hand\n", "utf-8")
    got = subprocess.run(
        [sys.executable, *pages.COMMAND.split()[1:-1], str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (got.returncode, got.stderr) == (0, "")
    assert {name: (tmp_path / name).read_text("utf-8") for name in PAGES} == PAGES
    assert (gone.exists(), mine.exists()) == (False, True)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a", "b"]], ids=str)
def test_bad_usage_of_the_command_is_a_one_line_error(arguments, capsys):
    assert pages.main(arguments) == 4
    assert capsys.readouterr().err == (
        f"expected one argument, the directory of the pages, as in `{pages.COMMAND}`\n"
    )
