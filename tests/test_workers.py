"""The number of workers of a run, limited by the cores and memory of machine and container."""

from __future__ import annotations

import configparser
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from lossspec.pytest_plugin import hooks, workers

ROOT = Path(__file__).parents[1]
GIB = 1 << 30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Simulate a machine of 16 cores with the files in which a kernel describes it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(workers, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(workers, "_MEMINFO", tmp_path / "meminfo")

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return write


def available(size):
    return f"MemTotal: 999999999 kB\nMemAvailable: {size // 1024} kB"


def test_every_core_gets_a_worker_if_the_memory_is_unknown(machine):
    assert workers.automatic() == 16


@pytest.mark.parametrize(("free", "count"), [(64, 16), (5, 5), (0, 1)])
def test_memory_limits_the_number_of_workers(machine, free, count):
    machine(meminfo=available(free * GIB))
    assert workers.automatic() == count


@pytest.mark.parametrize(
    ("quota", "count"),
    [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 16), ("6400000 100000", 16)],
)
def test_a_cgroup_v2_quota_limits_the_number_of_workers(machine, quota, count):
    machine(cgroup__cpu_DOT_max=quota)
    assert workers.automatic() == count


@pytest.mark.parametrize(("quota", "count"), [("300000", 3), ("-1", 16)])
def test_a_cgroup_v1_quota_limits_the_number_of_workers(machine, quota, count):
    machine(
        cgroup__cpu__cpu_DOT_cfs_quota_us=quota,
        cgroup__cpu__cpu_DOT_cfs_period_us="100000",
    )
    assert workers.automatic() == count


def test_a_memory_limit_counts_the_file_cache_as_free(machine):
    machine(
        meminfo=available(64 * GIB),
        cgroup__memory_DOT_max=8 * GIB,
        cgroup__memory_DOT_current=7 * GIB,
        cgroup__memory_DOT_stat=f"anon 1\ninactive_file {2 * GIB}",
    )
    assert workers.automatic() == 3


def test_a_limit_above_the_memory_has_no_effect(machine):
    machine(
        meminfo=available(4 * GIB),
        cgroup__memory__memory_DOT_limit_in_bytes=9223372036854771712,
        cgroup__memory__memory_DOT_usage_in_bytes=GIB,
    )
    assert workers.automatic() == 4


def asked(monkeypatch, impl):
    monkeypatch.setattr(workers, "automatic", lambda: 3)
    option = SimpleNamespace(impl=impl, lossspec_impl=impl)
    return hooks.pytest_xdist_auto_num_workers(config=SimpleNamespace(option=option))


def test_lossspec_sets_the_number_of_workers_only_in_its_own_runs(monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    assert asked(monkeypatch, ["torch.nn"]) == 3
    assert asked(monkeypatch, []) is None


def test_an_environment_variable_sets_the_number_of_workers(monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "7")
    assert asked(monkeypatch, ["torch.nn"]) is None


def test_the_first_command_of_the_readme_uses_all_cores():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    assert "-n auto" in tox["testenv:conformance"]["commands"]
    assert "xdist" in tox["testenv:conformance"]["extras"]


def test_git_ignores_the_output_of_a_run_and_keeps_published_reports(tmp_path):
    tmp_path.joinpath(".gitignore").write_text((ROOT / ".gitignore").read_text())
    names = ["conformance.json", "index.html", "repro/l1_loss.py"]
    written = [tmp_path / "reports" / "torch.nn" / name for name in names]
    published = [tmp_path / "reports" / "published" / "torch.nn" / name for name in names]
    for path in (*written, *published):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    status = ["git", "status", "--porcelain", "--untracked-files=all", "reports"]
    done = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, check=True)
    shown = {line.removeprefix("?? ") for line in done.stdout.splitlines()}
    assert shown == {str(path.relative_to(tmp_path)) for path in published}
