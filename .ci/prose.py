"""Lint the prose of the project: pages, docstrings, comments and messages.

Usage: python .ci/prose.py [PATH ...]. A folder stands for all its Markdown, Python and TOML files.
proselint does the matching. Its own checks of word choice are joined by three of ours: the terms
that docs/glossary.md replaces, how a sentence begins, and how long it is.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from proselint.checks import __register__
from proselint.config import DEFAULT, Config
from proselint.registry import CheckRegistry
from proselint.registry.checks import Check, CheckResult, types
from proselint.tools import LintFile

ROOT = Path(__file__).resolve().parents[1]
#: Folders of generated code, and of code that is kept as others wrote it.
FOREIGN = {"__pycache__", "blind"}
GLOSSARY = ROOT / "docs" / "glossary.md"
CHECKED = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "conftest.py",
    "tox.ini",
    "pyproject.toml",
    ".ci",
    "benchmarks",
    "docs",
    "lossspec",
    "suites",
    "tests",
)
#: Words that leave the reader without a subject when a sentence begins with them.
OPENINGS = ("Of", "What", "Whatever", "Where", "Wherever", "Who", "Whoever")
#: The most words of a sentence.
LONGEST = 32
#: A string of so many words is a message.
MESSAGE = 5
#: The end of a sentence, a paragraph, an item or a cell of a table.
BOUNDARY = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n(?=\s*(?:[-*+#>|]|\d+[.)]\s))|\|")
#: A line of a program, a tag or a command of LaTeX: the string that holds one is no message.
NO_MESSAGE = re.compile(
    r"^\s*(?:(?:import|from|def|class) \w|try:|[\w.\[\]]+ = )"
    r"|</\w+>|\\(?:frac|ell|begin|log|sum)\b",
    re.MULTILINE,
)
#: proselint's checks that mistake a technical term, or ask for signs that source files avoid.
LEFT_OUT = ("typography", "annotations", "social_awareness", "dates_times", "psychology")


class Passage(NamedTuple):
    """Text as a person reads it, and the line of the file that it begins in."""

    line: int
    text: str


def main(arguments: list[str]) -> int:
    """Print every finding as `file:line: check: message`; return 1 if there is any."""
    register()
    found = 0
    for path in files(arguments or [str(ROOT / name) for name in CHECKED]):
        for line, check, message in findings(path):
            print(f"{path}:{line}: {check}: {message}")
            found += 1
    print(f"{found} findings" if found else "prose: no findings")
    return 1 if found else 0


def files(names: list[str]) -> Iterator[Path]:
    """Yield the files to check: those named, and those in the folders named."""
    for path in map(Path, names):
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix in (".md", ".py", ".toml"))
            yield from sorted(p for p in inside if not FOREIGN & set(p.parts))
        else:
            yield path


def findings(path: Path) -> list[tuple[int, str, str]]:
    """Return line, check and message of everything that is found in a file."""
    source = path.read_text(encoding="utf-8")
    passages = READERS.get(path.suffix, of_comments)(source)
    if path.suffix == ".py" and "tests" in path.resolve().parts:
        passages = of_comments(source) + of_docstrings(source)  # other strings are test data
    config: Config = {
        "max_errors": 10_000,
        "checks": DEFAULT["checks"] | dict.fromkeys(LEFT_OUT, False) | {"lossspec": True},
    }
    found = []
    for passage in passages:
        text = LintFile(path.name, passage.text)
        for result, _ in text.lint(config):
            if path.resolve() == GLOSSARY and result.check_path == "lossspec.glossary":
                continue  # the page that lists the words
            before = text.content[: result.span[0]]
            space = re.match(r"\s*", text.content[result.span[0] :])
            breaks = before.count("\n") + (space.group().count("\n") if space else 0)
            line = passage.line + breaks - 1  # proselint puts an empty line before the text
            found.append((line, result.check_path, result.message))
    return sorted(found)


# === what is checked =======================================================================


def of_markdown(source: str) -> list[Passage]:
    """Return a page without code blocks, code in a line, addresses and table rules."""
    text = re.sub(r"^(```|~~~).*?^\1", blank, source, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", blank, text, flags=re.DOTALL)
    return [Passage(1, without_code(text))]


def of_python(source: str) -> list[Passage]:
    """Return the comments, the docstrings and the messages of a module."""
    return of_comments(source) + of_strings(source)


def of_comments(source: str) -> list[Passage]:
    """Return the comments of a file, those of neighbouring lines as one passage."""
    if source.startswith('"""') or "\ndef " in source or "\nimport " in source:
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        lines = [(t.start[0], t.string) for t in tokens if t.type == tokenize.COMMENT]
    else:
        lines = [
            (number, line[line.index("#") :])
            for number, line in enumerate(source.splitlines(), 1)
            if re.match(r"\s*#", line)
        ]
    passages = []
    for _, group in groupby(enumerate(lines), lambda each: each[1][0] - each[0]):
        block = [line for _, line in group]
        text = "\n".join(re.sub(r"^#+:?!? ?", "", line) for _, line in block)
        passages.append(Passage(block[0][0], without_code(text)))
    return passages


def of_strings(source: str) -> list[Passage]:
    """Return the docstrings and the strings that are long enough to be messages."""
    passages = []
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and is_message(text):
            passages.append(Passage(node.lineno, without_code(text)))
    return passages


def of_docstrings(source: str) -> list[Passage]:
    """Return the docstrings of a module, its classes and its functions."""
    passages = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            assert isinstance(first.value, ast.Constant)
            passages.append(Passage(first.lineno, without_code(str(first.value.value))))
    return passages


def of_toml(source: str) -> list[Passage]:
    """Return the comments of a file, and the reasons of known deviations."""
    reasons = [
        Passage(number, without_code(line.partition("=")[2].strip(' "')))
        for number, line in enumerate(source.splitlines(), 1)
        if line.startswith("reason = ")
    ]
    return of_comments(source) + reasons


def is_message(text: str) -> bool:
    """Return whether a string is prose rather than a name, a program, a page or a formula."""
    long = len(re.findall(r"[A-Za-z]{2,}", text)) >= MESSAGE
    return long and not NO_MESSAGE.search(text)


def without_code(text: str) -> str:
    """Blank code, quotations and addresses out; the rest keeps its place."""
    text = re.sub(r"`+[^`\n]+`+", "`x`", text)
    text = re.sub(r"“[^”]*”", "“x”", text)
    text = re.sub(r"\]\([^)\s]+\)", "]", text)
    return re.sub(r"https?://\S+", "x", text)


def blank(match: re.Match[str]) -> str:
    """Replace a match by as many empty lines."""
    return "\n" * match.group().count("\n")


READERS = {".md": of_markdown, ".py": of_python, ".toml": of_toml}


# === the project's own checks ==============================================================


def register() -> None:
    """Tell proselint its own checks and ours."""
    checks = CheckRegistry()
    if not checks.checks:
        checks.register_many((*__register__, *own_checks()))


def own_checks() -> tuple[Check, ...]:
    """Return the three checks of the project."""
    return (
        Check(
            check_type=types.PreferredForms(replaced()),
            path="lossspec.glossary",
            message="write '{0}' instead of '{1}' (docs/glossary.md)",
        ),
        Check(check_type=openings, path="lossspec.openings"),
        Check(check_type=lengths, path="lossspec.lengths"),
    )


def replaced() -> dict[str, str]:
    """Return the terms that the glossary replaces, each with the term to use."""
    terms = {}
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        columns = [column.strip() for column in line.strip("|").split("|")]
        if len(columns) == 3:
            terms |= {old.strip(): columns[0] for old in columns[2].split(",") if old.strip()}
    return {old: new for old, new in terms.items() if old not in ("Instead of", "---")}


def openings(text: str, check: Check) -> Iterator[CheckResult]:
    """Find sentences, not questions, that begin with one of the words of `OPENINGS`."""
    for start, sentence in sentences(text):
        first = re.match(rf"(?:{'|'.join(OPENINGS)})\b", sentence)
        if first and not sentence.endswith("?"):
            message = f"a sentence begins with its subject, not with '{first.group()}'"
            yield CheckResult(check.path, message, (start, start + first.end()), None)


def lengths(text: str, check: Check) -> Iterator[CheckResult]:
    """Find sentences with more than `LONGEST` words."""
    for start, sentence in sentences(text):
        count = len(re.findall(r"[A-Za-z][\w'-]*", sentence))
        if count > LONGEST:
            message = f"a sentence has {count} words; at most {LONGEST} are read with ease"
            yield CheckResult(check.path, message, (start, start + len(sentence)), None)


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield the place and the text of each sentence, heading, item and cell of a table."""
    start = 0
    for end in [*(match.end() for match in BOUNDARY.finditer(text)), len(text)]:
        part = text[start:end].rstrip(" \n|")
        begin = re.match(r"[\s|#>*+-]*(?:\d+[.)]\s+)?", part)
        assert begin is not None  # the pattern matches the empty string
        if part[begin.end() :]:
            yield start + begin.end(), part[begin.end() :]
        start = end


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
