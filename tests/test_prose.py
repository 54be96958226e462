"""The prose linter: each of its checks finds what it is for, in every kind of file."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def prose():
    """Return the linter, which is a script and no module of the package."""
    spec = importlib.util.spec_from_file_location("prose", ROOT / ".ci" / "prose.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register()
    return module


def found(prose, tmp_path, text, name="page.md"):
    """Return line and check of each finding in a file with this text."""
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return [(line, check) for line, check, _ in prose.findings(path)]


def words(count):
    """Return a sentence with this number of words, no two of them equal."""
    return f"{' '.join(f'w{i}' for i in range(count))}."


RIDDLE = "Of two calls the wrong one is shown."
PLAIN = "The report shows the incorrect call."


@pytest.mark.parametrize(
    ("text", "check"),
    [
        (RIDDLE, "lossspec.openings"),
        ("What never ends is interrupted.", "lossspec.openings"),
        ("- one item\n- Whoever reads this stops", "lossspec.openings"),
        ("| a | Where it ends |", "lossspec.openings"),
        ("The slope is wrong.", "lossspec.glossary"),
        ("A right loss is accused.", "lossspec.glossary"),
        (words(33), "lossspec.lengths"),
        ("It ends the the run.", "lexical_illusions"),
    ],
)
def test_each_check_finds_its_violation(prose, tmp_path, text, check):
    assert {name for _, name in found(prose, tmp_path, text + "\n")} == {check}


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "What is a budget?",
        "The order matters. Then `what slope` is code, and “the slope” is a quotation.",
        "See [the page](https://example.org/Of-slope).",
        f"{words(32)} {words(32)}",
        "```python\nslope = 1  # Of a line\n```",
    ],
)
def test_correct_sentences_and_code_have_no_finding(prose, tmp_path, text):
    assert found(prose, tmp_path, text + "\n") == []


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ('"""{}"""\n', 1),
        ('"""Module."""\n\n\ndef f():\n    """Return it.\n\n    {}\n    """\n', 7),
        ("import re\n\n# {}\nx = 1\n", 3),
        ('import re\n\nerror = ValueError(\n    f"{} It was {{re}}."\n)\n', 4),
    ],
)
def test_docstrings_comments_and_messages_are_read(prose, tmp_path, template, line):
    assert found(prose, tmp_path, template.format(RIDDLE), "m.py") == [(line, "lossspec.openings")]
    assert found(prose, tmp_path, template.format(PLAIN), "m.py") == []


def test_comments_of_other_files_are_read(prose, tmp_path):
    text = f"[tox]\n# {RIDDLE}\nenv_list = lint  # Of no sentence\n"
    assert found(prose, tmp_path, text, "tox.ini") == [(2, "lossspec.openings")]


def test_a_sentence_may_span_lines_of_a_comment(prose, tmp_path):
    text = "import re\n# The report shows\n# Of course one call.\nx = 1\n"
    assert found(prose, tmp_path, text, "m.py") == []


def test_the_glossary_page_is_the_vocabulary(prose):
    replaced = prose.replaced()
    assert replaced["entrant"] == "implementation under test"
    assert replaced["accused"] == "false positive"
    assert len(replaced) > 20
    assert "Instead of" not in replaced


def test_the_script_names_file_line_and_check(prose, tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text(f"# Page\n\n{RIDDLE}\n", "utf-8")
    assert prose.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{path}:3: lossspec.openings: ")
    path.write_text(f"# Page\n\n{PLAIN}\n", "utf-8")
    assert prose.main([str(path)]) == 0
