"""Options beside other suites: short names yield, and without --impl nothing changes."""

from pathlib import Path
from textwrap import dedent

import pytest

from lossspec.cli import main
from lossspec.pytest_plugin.options import OPTIONS, expanded, named, prefixed

ROOT = Path(__file__).parents[1]
SUITE = ("--pyargs", "lossspec.suites", "-p", "no:cacheprovider", "-p", "no:faulthandler")
QUICK = ("--loss=l1_loss", "--clause=result-shape", "--lossspec-profile=quick")
MINE = "from torch.nn.functional import l1_loss"
#: All short names of lossspec as options of another plugin.
TAKES = f"""
    def pytest_addoption(parser):
        for name in {[option.short for option in OPTIONS]}:
            parser.addoption(name, default="nothing")
"""
READS = """
    def test_own(request):
        assert request.config.getoption("--seed") == "theirs"
        assert request.config.getoption("--impl") == "nothing"
"""


def run(workplace, *words):
    return workplace.within(lambda: pytest.main([*words]))


def put(workplace, **files: str) -> None:
    """Write files below the directory; `__` in a name stands for a slash."""
    for name, text in files.items():
        path = workplace.path / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))


# === other suites keep working =============================================================


@pytest.mark.parametrize("by", ["-p", "PYTEST_PLUGINS", "conftest"])
def test_another_suite_may_define_all_short_options(workplace, monkeypatch, by):
    """Register a plugin before lossspec with -p, or after it with PYTEST_PLUGINS."""
    words = ["--seed", "theirs", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    monkeypatch.syspath_prepend(workplace.path)
    if by == "conftest":
        put(workplace, conftest=TAKES)
    else:
        put(workplace, another_plugin=TAKES)
        if by == "-p":
            words += ["-p", "another_plugin"]
        else:
            monkeypatch.setenv("PYTEST_PLUGINS", "another_plugin")
    put(workplace, test_own=READS)
    result = run(workplace, *words)
    assert result.status == 0, result.out + result.err
    assert not [line for line in result.out if "lossspec:" in line]


@pytest.mark.parametrize("more", [(), (*SUITE, "--impl=mine", *QUICK, "--seed=7", "--device=cpu")])
def test_a_conftest_found_during_collection_may_define_short_options(workplace, more):
    put(workplace, tests__sub__conftest=TAKES, tests__sub__test_own="def test_own(): pass")
    put(workplace, mine=MINE)
    result = run(workplace, "tests", *(more or SUITE[2:]))
    assert result.status == 0, result.out + result.err
    if more:
        assert workplace.artifact("mine")["seed"] == 7


@pytest.mark.parametrize("more", [(), (*SUITE, "--impl=mine", *QUICK)])
def test_another_suite_may_have_fixtures_and_folders_of_the_same_names(workplace, more):
    put(
        workplace,
        mine=MINE,
        own__suites__timing__test_own="def test_timing(): pass",
        own__suites__conformance__test_conformance="""
            import pytest

            @pytest.fixture
            def cell():
                return 1

            @pytest.fixture
            def conformance():
                return 2

            @pytest.fixture
            def timed():
                return 3

            @pytest.fixture(params=[4, 5])
            def timing_cell(request):
                return request.param

            def test_conformance(cell, conformance):
                assert (cell, conformance) == (1, 2)

            def test_timing(timing_cell, timed):
                assert (timing_cell, timed) in ((4, 3), (5, 3))
        """,
    )
    result = run(workplace, "own", *(more or SUITE[2:]))
    assert result.status == 0, result.out + result.err
    assert any(f" {4 + bool(more)} passed" in line for line in result.out)


def test_without_an_implementation_the_plugin_does_nothing(workplace):
    put(
        workplace,
        test_own="""
            import sys

            def test_own():
                loaded = {"torch", "numpy", "lossspec.pytest_plugin.session", "hypothesis.core"}
                assert loaded & set(sys.modules) == set()
                assert "lossspec.plugin" in sys.modules
        """,
    )
    result = workplace.apart("-m", "pytest", "-p", "no:cacheprovider", "-W", "error")
    assert result.status == 0, result.out
    assert not [line for line in result.out if "lossspec:" in line or "loss functions" in line]
    assert not (workplace.path / "reports").exists()


# === owner of an option ====================================================================


def test_a_short_option_of_a_conftest_takes_precedence(workplace):
    put(
        workplace,
        mine=MINE,
        conftest="""
            def pytest_addoption(parser):
                parser.addoption("--seed", type=int)

            def pytest_terminal_summary(terminalreporter, config):
                terminalreporter.write_line(f"theirs: {config.getoption('--seed')}")
        """,
    )
    words = (*SUITE, "--impl=mine", *QUICK, "--seed", "3", "--lossspec-seed", "9")
    result = run(workplace, *words, "--dtype=float64")
    assert result.status == 0, result.out + result.err
    note = (
        "lossspec: --seed belongs to another plugin or a conftest.py; for the option of lossspec "
        "use --lossspec-seed"
    )
    assert note in result.out
    assert "theirs: 3" in result.out
    data = workplace.artifact("mine")
    assert (data["seed"], data["selection"]["dtypes"]) == (9, ["float64"])


def test_workers_read_the_same_options(workplace):
    put(workplace, mine=MINE, conftest=TAKES.replace('"--impl", ', "").replace("'--impl', ", ""))
    words = ("-m", "pytest", *SUITE, "--impl", "mine", "-n", "1", "--seed=3", "--lossspec-seed=9")
    words += ("--lossspec-loss=l1_loss", "--lossspec-clause=result-shape")
    result = workplace.apart(*words, "--lossspec-profile=quick")
    assert result.status == 0, result.out
    data = workplace.artifact("mine")
    assert (data["seed"], len(data["cells"])) == (9, 1)


def test_the_long_option_alone_may_name_the_implementation(workplace):
    put(workplace, mine=MINE, conftest=TAKES)
    words = (*SUITE, "--lossspec-impl=mine", "--lossspec-loss=l1_loss", "--impl=theirs")
    result = run(workplace, *words, "--lossspec-clause=result-shape", "--lossspec-profile=quick")
    assert result.status == 0, result.out + result.err
    assert list(workplace.verdicts("mine").values()) == ["conforms"]


def test_the_command_always_uses_its_own_options(workplace):
    put(workplace, mine=MINE, conftest=TAKES)
    words = ["--loss", "l1_loss", "--clause=result-shape", "--profile", "quick", "--seed=3"]
    result = workplace.within(lambda: main(["run", "mine", *words, "-p", "no:faulthandler"]))
    assert result.status == 0, result.out + result.err
    data = workplace.artifact("mine")
    assert (data["seed"], data["profile"], len(data["cells"])) == (3, "quick", 1)
    typed = f"lossspec run mine {' '.join(words)} -p no:faulthandler"
    assert data["environment"]["command"] == typed


@pytest.mark.parametrize("by", ["ini", "PYTEST_ADDOPTS", "file"])
def test_short_options_are_read_from_every_source_of_pytest(workplace, monkeypatch, by):
    put(workplace, mine=MINE)
    words, more = ["--impl=mine", "--loss", "l1_loss", "--clause=result-shape", "--seed=5"], []
    if by == "ini":
        (workplace.path / "pytest.ini").write_text(f"[pytest]\naddopts = {' '.join(words)}\n")
    elif by == "PYTEST_ADDOPTS":
        monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(words))
    else:
        (workplace.path / "words.txt").write_text("\n".join(words))
        more = ["@words.txt"]
    result = run(workplace, *SUITE, *more, "--profile=quick")
    assert result.status == 0, result.out + result.err
    data = workplace.artifact("mine")
    assert (data["seed"], data["profile"], len(data["cells"])) == (5, "quick", 1)


def test_no_conftest_is_loaded_from_the_value_of_a_short_option(workplace):
    put(workplace, mine=MINE, build__conftest="raise RuntimeError('loaded')")
    result = run(workplace, *SUITE, "--impl", "mine", *QUICK, "--reports", "build")
    assert result.status == 0, result.out + result.err
    assert (workplace.path / "build" / "mine" / "conformance.json").exists()


@pytest.mark.parametrize("name", ["--reports", "--lossspec-reports"])
def test_a_root_directory_taken_from_an_option_is_refused(workplace, tmp_path_factory, name):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(workplace, mine=MINE, own__test_own="def test_own(): raise RuntimeError")
    (workplace.path / "pytest.ini").write_text("[pytest]\ntestpaths = nothing\n")
    result = run(workplace, "--impl", "mine", name, str(elsewhere))
    assert result.status == 4, result.out + result.err
    assert f"write {name}={elsewhere}" in "".join(result.err)
    allowed = run(workplace, *SUITE, "--impl", "mine", *QUICK, name, str(elsewhere))
    assert allowed.status == 0, allowed.out + allowed.err


def test_a_checkout_without_installation_has_the_short_options(workplace):
    words = ("-m", "pytest", "--impl=torch.nn", "--loss", "l1_loss", "--clause", "result-shape")
    words += ("--reports", str(workplace.path / "out"), "-p", "no:cacheprovider", "--profile=quick")
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    code = f"import os, runpy, sys; os.environ.update({env}); os.chdir({str(ROOT)!r}); "
    code += f"sys.argv = {['pytest', *words[2:]]}; sys.path.insert(0, ''); "
    code += "runpy.run_module('pytest', run_name='__main__')"
    result = workplace.apart("-c", code)
    assert result.status == 0, result.out + result.err
    assert (workplace.path / "out" / "torch.nn" / "conformance.json").exists()


# === messages ==============================================================================


def test_a_short_option_without_an_implementation_is_explained(workplace):
    put(workplace, test_own="def test_own(): pass")
    result = run(workplace, "-p", "no:faulthandler", "--loss=l1_loss")
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert "  --loss: an option of lossspec, which needs --impl NAME as well" in result.err


def test_a_conflict_with_an_option_of_another_plugin_is_explained(workplace, monkeypatch):
    monkeypatch.syspath_prepend(workplace.path)
    put(
        workplace,
        another_plugin="""
            def pytest_addoption(parser):
                parser.addoption("--profile", action="store_true")
        """,
    )
    result = run(workplace, *SUITE, "-p", "another_plugin", "--impl=mine", "--profile=quick")
    assert result.status == pytest.ExitCode.USAGE_ERROR
    said = "  lossspec: each option also exists as --lossspec-NAME, which no other plugin uses"
    assert said in result.err


def test_the_help_of_pytest_shows_short_and_long_options(workplace):
    result = run(workplace, "--help", "-p", "no:faulthandler")
    shown = " ".join(" ".join(result.out).split())
    for option in OPTIONS:
        assert f"{option.long}" in shown
        assert f"short: {option.short}" in shown


def test_words_after_two_dashes_are_not_options():
    words = ["--loss=a", "--seed", "3", "-k", "x", "--", "--loss=b"]
    want = ["--lossspec-loss=a", "--seed", "3", "-k", "x", "--", "--loss=b"]
    assert prefixed(words, {"--seed"}) == want
    assert named(words) == {"--loss", "--seed"}


def test_an_unreadable_argument_file_is_left_to_pytest(tmp_path):
    (tmp_path / "more.txt").write_text("--seed=4\n@none.txt\n")
    assert expanded(["-q", f"@{tmp_path}/more.txt"]) == ["-q", "--seed=4", "@none.txt"]


@pytest.mark.parametrize("start", [("-m", "lossspec", "run", "mine"), ("-m", "pytest", *SUITE)])
@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_run_with_warnings_as_errors_gives_no_warning(workplace, start, workers):
    put(workplace, mine=MINE)
    named_there = () if "run" in start else ("--impl=mine",)
    words = ("-W", "error", *start, *named_there, *QUICK, "-W", "error", *workers)
    result = workplace.apart(*words)
    assert result.status == 0, result.out + result.err
    assert result.err == []
    assert not [line for line in result.out if "Warning" in line]
