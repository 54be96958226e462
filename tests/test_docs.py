"""The guides: their code runs, their output is current, their names and links exist."""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lossspec import cli
from lossspec.clauses import clauses
from lossspec.dtypes import REAL_DTYPES
from lossspec.execution.declaration import Ability
from lossspec.judging import conditions, known_deviations, symptoms
from lossspec.judging.profiles import PROFILES
from lossspec.pytest_plugin.options import OPTIONS
from lossspec.report.files import LARGEST_FILE
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import catalogue
from lossspec.spec_pages.pages import COMMAND

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = {DOCS / "clauses.md", DOCS / "audit.md", DOCS / "vocabulary.md"}
GUIDES = [ROOT / "README.md", *sorted({*DOCS.glob("*.md")} - GENERATED)]
TEXTS = [*GUIDES, ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Commands that install something. The environments of tox are looked up instead.
INSTALLS = ("python -m pip install", "python -m tox")
#: The module and the folder that the README calls `mylib` and `reports`.
MYLIB = "from torch.nn.functional import mse_loss\n"

named = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)


def blocks(path):
    """Yield the code blocks of a page in order, each as language, file name and text."""
    for language, code in BLOCK.findall(path.read_text("utf-8")):
        file = re.match(r"# ([\w.]+\.\w+)\n", code)
        yield language, file[1] if file else None, code


def commands(code):
    """Yield each command of a console block with its exit status and its output."""
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        command, _, status = line.partition("  # exit status ")
        yield command, int(status or 0), output


class Shell:
    """A folder in which the commands of a guide are executed."""

    def __init__(self, folder):
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        # The pytest around this one must not configure the one inside.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        self.environment |= {"PATH": path, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}

    def write(self, file, code):
        """Write a file that the guide shows; install the entry points of a pyproject.toml."""
        (self.folder / file).write_text(code, "utf-8")
        if file == "pyproject.toml":
            project = tomllib.loads(code)["project"]
            info = self.folder / f"{project['name']}-{project['version']}.dist-info"
            info.mkdir()
            head = f"Metadata-Version: 2.1\nName: {project['name']}\n"
            (info / "METADATA").write_text(f"{head}Version: {project['version']}\n")
            points = [
                f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
                for group, entries in project["entry-points"].items()
            ]
            (info / "entry_points.txt").write_text("\n".join(points))

    def run(self, *words):
        return subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )


def shown(output):
    """Return the output of a block as a pattern in which three dots match any text."""
    return re.escape(output.strip("\n")).replace(re.escape("..."), ".*?")


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_a_guide_can_be_followed_from_top_to_bottom(path, tmp_path):
    shell = Shell(tmp_path)
    if path.stem == "README":
        shell.write("mylib.py", MYLIB)
    for language, file, code in blocks(path):
        if file:
            shell.write(file, code)
        if language == "python" and file is None:
            done = shell.run(sys.executable, "-W", "error", "-c", code)
            assert done.returncode == 0, done.stdout
        if language == "console":
            for command, status, output in commands(code):
                if not command.startswith(INSTALLS):
                    done = shell.run("bash", "-c", command)
                    assert done.returncode == status, f"$ {command}\n{done.stdout}"
                    found = re.search(shown(output), done.stdout, re.DOTALL)
                    assert found, f"$ {command}\n{done.stdout}\n--- shown ---\n{output}"


@named
def test_a_block_has_a_language_that_is_checked_here(path):
    # a text block is neither code nor output
    fences = re.findall(r"^```(.*)$", path.read_text("utf-8"), re.MULTILINE)
    assert set(fences[::2]) <= {"python", "console", "toml", "text", "math"}
    assert set(fences[1::2]) <= {""}


@named
def test_every_tox_environment_that_is_named_exists(path):
    tox = (ROOT / "tox.ini").read_text("utf-8")
    for _, environments in re.findall(r"tox run( -q)? -e ([\w,-]+)", path.read_text("utf-8")):
        known = [name for name in environments.split(",") if f"[testenv:{name}]" in tox]
        assert known == environments.split(",")


@named
def test_toml_parses_and_its_keys_are_known(path):
    for language, _, code in blocks(path):
        if language == "toml":
            data = tomllib.loads(code)
            assert data
            for entry in data.get("deviation", []):
                assert set(entry) <= known_deviations._KEYS
                assert set(entry.get("when", {})) <= {*conditions.KEYS}
                assert set(entry["shows"]) <= {*symptoms.KEYS}
                assert {"loss", "clause", "reason", "shows", "case"} <= set(entry)
            for group in data.get("project", {}).get("entry-points", {}):
                assert group in ("lossspec.specs", "lossspec.clauses", "lossspec.implementations")


@named
def test_every_link_inside_the_project_has_a_target(path):
    text = BLOCK.sub("", path.read_text("utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not leads(path, link)] == []


def leads(path, link):
    file, _, anchor = link.partition("#")
    target = (path.parent / file).resolve() if file else path
    if not target.exists():
        return False
    headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE) if anchor else []
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return not anchor or anchor in slugs


@named
def test_every_path_and_module_that_is_named_exists(path):
    code = re.findall(r"`([^`\n]+)`", BLOCK.sub("", path.read_text("utf-8")))
    paths = [word for word in code if re.fullmatch(r"(lossspec|tests|benchmarks)/[\w./]*", word)]
    assert [word for word in paths if not (ROOT / word).exists()] == []
    dotted = [word for word in code if re.fullmatch(r"lossspec(\.\w+)+", word)]
    groups = ("lossspec.specs", "lossspec.implementations", "lossspec.suites")
    assert [word for word in dotted if word not in groups and not resolves(word)] == []


def resolves(dotted):
    """Return whether a dotted name is a module, or an attribute of one."""
    words = dotted.split(".")
    for i in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:i]))
        except ModuleNotFoundError:
            continue
        for word in words[i:]:
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


@named
def test_every_option_that_is_named_exists(path):
    known = {"--check", "--write"}  # of `python -m tests.defects record`
    known |= {f"--hypothesis-{name}" for name in ("seed", "profile", "show-statistics")}
    known |= {"--pyargs", "--noconftest", "--group", "--tx"}  # of pytest, pip and pytest-xdist
    known |= {"--benchmark-columns", "--benchmark-sort", "--benchmark-json"}  # of pytest-benchmark
    for benchmark in (ROOT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'"(--[a-z-]+)"', benchmark.read_text("utf-8")))
    known |= {option for command in subcommands().values() for option in options(command)}
    known |= set(options(conformance_options()))
    used = re.findall(r"(?<![\w-])--[a-z][\w-]*", path.read_text("utf-8"))
    assert [option for option in used if option not in known] == []


def subcommands():
    """Return the parsers of the command line by command."""
    (commands,) = [a for a in cli._parser()._actions if isinstance(a.choices, dict)]
    return commands.choices


def conformance_options():
    """Return a parser with the options that the plugin adds to pytest."""
    parser = argparse.ArgumentParser()
    for option in OPTIONS:
        option.add(parser.add_argument, option.short)
        option.add(parser.add_argument, option.long)
    parser.add_argument("--lossspec-NAME")  # stands for each such option
    return parser


def options(parser):
    return [option for action in parser._actions for option in action.option_strings]


@named
def test_every_command_of_lossspec_exists(path):
    used = re.findall(r"(?:^\$ |`)lossspec ([a-z]+)", path.read_text("utf-8"), re.MULTILINE)
    assert set(used) <= set(subcommands())


def test_the_table_of_verdicts_matches_the_package():
    text = (DOCS / "reading-a-report.md").read_text("utf-8")
    rows = re.findall(r"^\| (\S) \| ([\w-]+) \|.*\| (yes|no) \|$", text, re.MULTILINE)
    assert rows == [(v.sign, str(v), "yes" if v.fails else "no") for v in Verdict]


def test_the_table_of_profiles_gives_the_number_of_cases():
    text = (ROOT / "docs" / "getting-started.md").read_text("utf-8")
    told = re.findall(r"^\| `(\w+)` \|[^|]*\| (\d+) to (\d+) \|", text, re.MULTILINE)
    losses = catalogue().values()
    counts = {name: [profile.cases(x) for x in losses] for name, profile in PROFILES.items()}
    assert told == [(name, str(min(c)), str(max(c))) for name, c in counts.items()]


def test_the_table_of_abilities_matches_the_package():
    text = (DOCS / "getting-started.md").read_text("utf-8")
    table = text.partition("| ability |")[2].partition("\n\n")[0]
    rows = [row.split("|") for row in table.splitlines()[2:]]
    words = [re.findall(r"`([\w-]+)`", row[1]) for row in rows]
    assert sorted(word for row in words for word in row) == sorted(Ability)
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row[3])]
    assert [name for name in named if name not in clauses()] == []


def test_the_guide_names_the_slow_clauses_that_quick_leaves_out():
    (row,) = re.findall(r"^\| `quick` .*$", (DOCS / "getting-started.md").read_text("utf-8"), re.M)
    slow = [name for name, clause in clauses().items() if clause.slow]
    assert sorted(re.findall(r"`([\w-]+)`", row.partition("slow clauses: ")[2])) == sorted(slow)


def test_the_guide_compares_the_limits_of_files_with_present_files():
    text = (DOCS / "reading-a-report.md").read_text("utf-8")
    report = (ROOT / "reports/published/torch.nn/conformance.json").stat().st_size
    deviations = max(p.stat().st_size for p in known_deviations.SHIPPED.glob("*.toml"))
    for limit, size, kind in (
        (LARGEST_FILE, report, "report on `torch.nn`"),
        (known_deviations.LARGEST_FILE, deviations, "largest file in lossspec"),
    ):
        (times,) = re.findall(rf"\| (\d+) times the {kind} \|", text)
        assert limit / size == pytest.approx(int(times), rel=0.2)


def test_the_guide_to_known_deviations_names_every_condition_and_symptom():
    text = (DOCS / "reading-a-report.md").read_text("utf-8")
    assert [name for name in conditions.KEYS + symptoms.KEYS if f"`{name}`" not in text] == []


def test_the_table_of_worst_ratios_has_a_number_for_each_loss_and_dtype():
    text = (DOCS / "budget.md").read_text("utf-8")
    table = text.partition("<!-- worst ratios:")[2].partition("<!-- end of worst ratios -->")[0]
    head, rule, *rows = re.findall(r"^\|.*\|$", table, re.MULTILINE)
    assert head.strip("| ").split(" | ")[: 1 + len(REAL_DTYPES)] == ["loss", *REAL_DTYPES]
    assert rule == f"|---|{'--:|' * (len(REAL_DTYPES) + 1)}"
    numbers = {}
    for row in rows:
        name, *cells = row.strip("| ").split(" | ")
        numbers[re.fullmatch(r"\[(\w+)\]\(losses/\1\.md\)", name)[1]] = cells
    files = {path.stem for path in (ROOT / "lossspec" / "specs").glob("[!_]*.py")}
    assert set(numbers) == files
    for cells in numbers.values():
        *conforming, narrowed = cells
        assert [cell for cell in conforming if cell != "-" and not 0 <= float(cell) <= 1] == []
        assert float(narrowed) > 1


def test_the_picture_is_small_enough_to_commit():
    picture = DOCS / "report.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 300_000
    assert "docs/report.png" in (ROOT / "README.md").read_text("utf-8")


def test_the_readme_shows_the_result_before_the_usage():
    text = (ROOT / "README.md").read_text("utf-8")
    parts = ("lossspec judges", "```text", "$ python", "![", "```python")
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_the_readme_names_the_python_version_of_the_package():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (version,) = re.findall(r"Python ([\d.]+) or newer", (ROOT / "README.md").read_text("utf-8"))
    assert wanted["requires-python"] == f">={version}"


def test_contributing_names_the_command_that_builds_the_pages():
    assert COMMAND in (ROOT / "CONTRIBUTING.md").read_text("utf-8")
