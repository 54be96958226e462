"""Foreign text: error messages and names are printed without control characters."""

import ast
import json
import sys
import unicodedata
from pathlib import Path

import pytest

from lossspec import safe_text
from lossspec.safe_text import (
    block,
    clip,
    docstring,
    escaped,
    foreign_error,
    html_text,
    json_text,
    markdown_code,
    markdown_line,
    one_line,
    quoted,
)

#: Every character of category C except unassigned ones, and every line or paragraph separator.
CONTROLS = [
    char
    for char in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
] + ["\ue000", "\U000f0000", "\uffff", "\U0003fffe"]


def test_the_tested_characters_include_known_control_characters():
    assert len(CONTROLS) > 2_200
    assert {"\x1b", "\x07", "\x00", "\x7f", "\x9b", "\u202e", "\u2066", "\ud800", "\u2028"} <= {
        *CONTROLS
    }


LINES = {
    "one_line": one_line,
    "escaped": escaped,
    "quoted": lambda text: quoted(text, 10**6),
    "markdown_line": lambda text: markdown_line(text, 10**6),
    "message": lambda text: foreign_error(ValueError(text), 10**6),
}
BLOCKS = {
    "block": block,
    "html_text": html_text,
    "docstring": docstring,
    "json_text": json_text,
    "markdown_code": lambda text: markdown_code(text, "text", 10**6),
}


@pytest.mark.parametrize("name", [*LINES, *BLOCKS])
def test_no_control_character_is_printed(name):
    made = (LINES | BLOCKS)[name]("".join(f"a{char}b" for char in CONTROLS))
    assert made.count("a") >= len(CONTROLS)
    kept = "" if name in LINES else "\n\t"
    assert [char for char in made if not char.isprintable() and char not in kept] == []


def test_the_name_of_a_class_is_escaped():
    named = [char for char in CONTROLS if char != "\0" and unicodedata.category(char) != "Cs"]
    error = type("".join(named), (Exception,), {})
    assert foreign_error(error("x")).isprintable()


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain ÷ text", "plain ÷ text"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\n  b\tc\r\nd", "a b c d"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\udc80", "\\udc80"),
        ("\U000e0041", "\\U000e0041"),
        ("bell\x07", "bell\\x07"),
        ("c1\x9b2J", "c1\\x9b2J"),
    ],
)
def test_one_line_shows_the_escaped_text(text, want):
    assert one_line(text) == want


def test_a_block_keeps_its_line_breaks():
    assert block("a\r\nb\n\tc\rd\x1b") == "a\nb\n\tc\\rd\\x1b"


def test_json_text_keeps_the_data():
    text = "".join(CONTROLS)
    made = json_text(json.dumps({"x": text}, ensure_ascii=False))
    assert made.isprintable()
    surrogates = json.loads(json.dumps(text))  # surrogate pairs become one character
    assert json.loads(made)["x"] == surrogates


@pytest.mark.parametrize("text", ['"""', 'a""""b"', "\\", "\\x1b \\N{x} \\u12", "x\x00\n\ud800"])
def test_an_escaped_docstring_contains_the_text(text):
    source = f'"""{docstring(text)}\n"""'
    assert ast.literal_eval(source) == block(text) + "\n"


@pytest.mark.parametrize("text", ["|", "`", "<b>", "a\nb", "[x](y)", "*a*", "~~a~~", "@all", "_a_"])
def test_markdown_text_cannot_end_its_table_cell(text):
    made = markdown_line(text, 100)
    assert "\n" not in made
    for char in "|`<[]*~":
        assert char not in made.replace(f"\\{char}", "").replace("@<!-- -->", "")
    assert "@" not in made.replace("@<!-- -->", "")


def test_markup_of_a_template_is_kept_and_text_is_escaped():
    class Markup(str):
        def __html__(self):
            return self

    assert html_text(Markup("\xa0")) == "\xa0"
    assert html_text("\x1b") == "\\x1b"
    assert html_text(3) == 3


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (ValueError("no\x1b[2J\nway"), "ValueError: “no\\x1b[2J way”"),
        (NotImplementedError(), "NotImplementedError"),
        (KeyError("x"), "KeyError: “'x'”"),
        (Unreadable(), "Unreadable (its message cannot be read: RuntimeError)"),
        (RuntimeError("x" * 205), f"RuntimeError: “{'x' * 200} … (5 more characters)”"),
    ],
)
def test_a_foreign_error_is_quoted(error, want):
    assert foreign_error(error) == want


def test_a_clipped_text_counts_the_omitted_characters():
    assert clip("abcd", 4) == "abcd"
    assert clip("abcde", 4) == "abcd … (1 more character)"


def test_safe_text_imports_neither_torch_nor_pytest():
    source = ast.parse(Path(safe_text.__file__).read_text("utf-8"))
    names = {
        alias.name
        for node in ast.walk(source)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert names == {"html", "json", "re"}
