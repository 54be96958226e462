"""Shared fixtures: an empty directory for implementations, from which the suite is run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

#: Variables of CI services, and one in which tox records CI. With them Hypothesis stores no
#: failures, and pytest prints more.
CI_VARIABLES = (
    "CI",
    "__TOX_ENVIRONMENT_VARIABLE_ORIGINAL_CI",
    "BUILDKITE",
    "BUILD_NUMBER",
    "CIRCLECI",
    "CIRRUS_CI",
    "CODEBUILD_BUILD_ID",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "HEROKU_TEST_RUN_ID",
    "TEAMCITY_VERSION",
    "TF_BUILD",
    "bamboo.buildKey",
)
for name in CI_VARIABLES:  # the tests see the same environment everywhere
    os.environ.pop(name, None)

from hypothesis import settings  # noqa: E402  # it reads these variables when it is imported

from lossspec.execution.torch_private import default_device, function_modes  # noqa: E402  # lossspec imports Hypothesis

# The specs of the gallery, which is a distribution of its own.
sys.path.insert(0, str(Path(__file__).parents[1] / "gallery"))

# A test must not replay failing cases that an earlier test stored.
settings.register_profile("without memory", settings.default, database=None)
settings.load_profile("without memory")


@pytest.fixture(autouse=True)
def without_memory() -> None:
    """Fail where an earlier test has left another profile of Hypothesis in force."""
    assert settings().database is None, "a test has changed the profile of Hypothesis"


@pytest.fixture(autouse=True)
def without_modes() -> None:
    """Fail where an earlier test has left a mode under which torch treats tensors as subclasses."""
    assert (function_modes(), default_device()) == ((), None), "a test has left a mode of torch"


@dataclass(frozen=True)
class Finished:
    """A finished run: its exit status and the lines that it printed."""

    status: int
    out: list[str]
    err: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Workplace:
    """A separate directory; runs in this process do not import torch again."""

    path: Path
    capture: pytest.CaptureFixture[str] | None = None

    def write(self, **modules: str) -> None:
        """Write Python modules, given by name."""
        for name, text in modules.items():
            self.path.joinpath(f"{name}.py").write_text(dedent(text), encoding="utf-8")

    def run(self, *arguments: str) -> Finished:
        """Run the suite in this process."""
        words = ["--pyargs", "lossspec.suites", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
        return self.within(lambda: pytest.main([*words, *arguments]))

    def within(self, work: Callable[[], int]) -> Finished:
        """Run a function in this process and forget the modules of this directory afterwards."""
        assert self.capture is not None, "only a test can run something in its own process"
        before, path = set(sys.modules), list(sys.path)
        self.capture.readouterr()
        try:
            status = work()
        finally:
            sys.path[:] = path
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if file.startswith(str(self.path)) or name.startswith("lossspec.suites"):
                    del sys.modules[name]
        out, err = self.capture.readouterr()
        return Finished(int(status), out.splitlines(), err.splitlines())

    def apart(self, *arguments: str) -> Finished:
        """Run Python with these arguments in a separate process."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env=inherited,
            capture_output=True,
            text=True,
            check=False,
        )
        return Finished(done.returncode, done.stdout.splitlines(), done.stderr.splitlines())

    def artifact(self, name: str) -> dict[str, Any]:
        """Return the report of an implementation as data."""
        return json.loads((self.path / "reports" / name / "conformance.json").read_text("utf-8"))

    def cells(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the cells of a report by id."""
        return {cell["id"]: cell for cell in self.artifact(name)["cells"]}

    def verdicts(self, name: str) -> dict[str, str]:
        """Return the verdicts of a report by cell."""
        return {key: cell["verdict"] for key, cell in self.cells(name).items()}


@pytest.fixture
def workplace(tmp_path, monkeypatch, capfd) -> Workplace:
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path, capfd)


@pytest.fixture(scope="module")
def outpost(tmp_path_factory) -> Workplace:
    """Return a directory for runs in separate processes, shared by the tests of a module."""
    return Workplace(tmp_path_factory.mktemp("outpost"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Yield an empty current directory and forget its modules afterwards."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
