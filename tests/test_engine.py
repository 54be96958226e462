"""Hypothesis as the engine of a campaign: backend, streams, database and options."""

import hashlib
import json
import re
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.internal.conjecture.provider_conformance import run_conformance_test
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.statistics import collector

from lossspec.cases import hypothesis_runs
from lossspec.cases.backend import StratifiedProvider
from lossspec.cases.hypothesis_runs import (
    MOST_SEEDS,
    Enough,
    climb,
    expected_failure,
    generate,
    remember,
    shrink_choices,
    try_again,
)
from lossspec.cases.strategies import DrawnCase, cases, drawn_cases
from lossspec.clauses import clauses
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.campaign import Campaign
from lossspec.judging.profiles import PROFILES, Profile
from lossspec.judging.stream import stream
from lossspec.spec.catalogue import catalogue, find

F = torch.nn.functional

#: SHA-256 of the first 40 cases of a loss, as JSON. They change with the spec, with the drawing
#: of cases and with Hypothesis. Record a change in the changelog: runs with the same seed then
#: judge other cases.
GOLDEN = {
    "cross_entropy": "5f0e75995dbf48f3",
    "ctc_loss": "dbde892036238642",
    "gaussian_nll_loss": "e34a70611e855524",
    "l1_loss": "49c5aaa2c8b18f7c",
}


def first(name, count=40, seed=0):
    return stream(find(name), Profile("few", count, 1), seed)


def digest(drawn):
    data = [json.dumps(solved.case.to_json(), sort_keys=True) for solved in drawn]
    return hashlib.sha256("\n".join(data).encode()).hexdigest()[:16]


# === the backend ===========================================================================


def test_the_backend_is_registered_through_the_entry_point_of_hypothesis():
    (entry,) = [e for e in entry_points(group="hypothesis") if e.name == "lossspec"]
    AVAILABLE_PROVIDERS.pop("lossspec")
    entry.load()()
    assert AVAILABLE_PROVIDERS["lossspec"] == "lossspec.cases.backend.StratifiedProvider"


def test_the_backend_passes_the_conformance_test_of_hypothesis():
    run_conformance_test(
        StratifiedProvider,
        settings=settings(max_examples=20, stateful_step_count=20, database=None, deadline=None),
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_a_stream_matches_its_stored_digest(name):
    assert digest(first(name)) == GOLDEN[name]


@pytest.mark.parametrize("name", ["cross_entropy", "mse_loss", "triplet_margin_loss"])
def test_no_case_is_drawn_twice(name):
    seen = [json.dumps(solved.case.to_json()) for solved in first(name, 320)]
    assert (len(seen), len(set(seen))) == (320, 320)


def test_every_reduction_is_drawn_equally_often():
    loss = find("cross_entropy")
    drawn = [solved.case for solved in first("cross_entropy", 60)]
    for reduction in loss.reductions:
        share = sum(case.reduction == reduction for case in drawn) / len(drawn)
        assert share == pytest.approx(1 / len(loss.reductions), abs=0.05)


def test_a_custom_property_may_use_the_backend():
    seen = []

    @settings(backend="lossspec", max_examples=30, database=None, deadline=None)
    @given(cases(find("l1_loss")), st.text(max_size=3), st.floats())
    def run(case, text, number):
        seen.append((case.dtype, text, number))

    run()
    assert {dtype for dtype, _, _ in seen} == set(find("l1_loss").dtypes)
    assert len({text for _, text, _ in seen}) > 3


def test_global_random_generators_do_not_change_a_stream():
    want = digest(first("l1_loss"))
    np.random.seed(3)
    torch.manual_seed(3)
    first("mse_loss", 1)  # drops the cached solutions
    assert digest(first("l1_loss")) == want
    assert digest(first("l1_loss", seed=1)) != want


# === runs ==================================================================================


def counted(campaign):
    """Return the number of test cases and of runs that Hypothesis reports for a campaign."""
    found = []
    with collector.with_value(found.append):
        campaign.run()
    phases = [run["generate-phase"] for run in found if "generate-phase" in run]
    return sum(len(phase["test-cases"]) for phase in phases), len(phases)


@pytest.mark.parametrize("name", catalogue())
def test_hypothesis_runs_every_case_of_a_quick_campaign(name):
    loss = find(name)
    under_test = next(
        one for target in ("function", "class") if (one := made(loss, target)) is not None
    )
    wanted = [clause for clause in clauses().values() if not clause.slow]
    campaign = Campaign(under_test, wanted[:2], PROFILES["quick"])
    generated, runs = counted(campaign)
    assert campaign._done >= PROFILES["quick"].cases(loss)
    # Hypothesis also tries the simplest case first in each run.
    assert generated == campaign._done + runs


def made(loss, surface):
    if surface == "function" and hasattr(F, loss.name):
        return LossUnderTest("torch", loss, "function", getattr(F, loss.name))
    if surface == "class" and loss.module and hasattr(torch.nn, loss.module):
        return LossUnderTest("torch", loss, "class", getattr(torch.nn, loss.module))
    return None


def test_a_run_ends_when_enough_is_raised():
    seen = []

    def look(value):
        seen.append(value)
        if len(seen) == 3:
            raise Enough

    generate(st.integers(), "any", 50, look)
    assert len(seen) == 3


@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt, AssertionError])
def test_a_run_propagates_an_exception_unchanged(error):
    def look(value):
        raise error("ours")

    with pytest.raises(error, match="ours"):
        generate(st.integers(), "any", 5, look)


def test_a_search_starts_from_given_cases_and_finds_higher_scores():
    strategy = drawn_cases(find("l1_loss"))
    drawn: list[DrawnCase] = []
    generate(strategy, "any", 20, drawn.append)
    scores = []

    def score(value):
        scores.append(float(sum(value.without_seed)))
        return scores[-1]

    starts = sorted(drawn, key=lambda value: sum(value.without_seed))[:3]
    climb(strategy, "any", 80, [value.choices for value in starts], score)
    assert {float(sum(value.without_seed)) for value in starts} <= set(scores)
    assert max(scores) > max(sum(value.without_seed) for value in starts)
    assert len(scores) <= 80


def test_shrinking_ends_at_the_simplest_choices_that_fail():
    strategy = drawn_cases(find("cross_entropy"))
    drawn: list[DrawnCase] = []
    generate(strategy, "any", 60, drawn.append)
    fails = lambda value: value.case.dtype == "float16"  # noqa: E731  # used twice
    start = next(value for value in drawn if fails(value))
    asked = []
    got = shrink_choices(strategy, start.choices, lambda v: asked.append(v) or fails(v), 150)
    assert got.case.dtype == "float16"
    assert (got.case.layouts, got.case.reduction) == ({}, find("cross_entropy").reductions[-1])
    assert sum(got.without_seed) < sum(start.without_seed)
    assert len(asked) <= 150
    plans = [value.without_seed for value in asked]
    assert max(map(plans.count, plans)) <= MOST_SEEDS


def test_no_constant_of_a_loaded_module_is_drawn(monkeypatch):
    """Shrunk cases would otherwise depend on what the process has imported."""

    def constants(provider):
        raise AssertionError("Hypothesis looked for constants")

    strategy = st.integers(0, 10**9)
    monkeypatch.setattr(HypothesisProvider, "_local_constants", property(constants))
    with pytest.raises(AssertionError, match="looked for constants"):
        seed(0)(settings(database=None, max_examples=500)(given(strategy)(lambda n: None)))()
    drawn: list[DrawnCase] = []
    generate(drawn_cases(find("nll_loss")), "any", 20, drawn.append)
    for start in drawn[:5]:
        assert shrink_choices(drawn_cases(find("nll_loss")), start.choices, bool, 60) is not None
    starts = [value.choices for value in drawn]
    climb(drawn_cases(find("nll_loss")), "any", 60, starts, lambda value: len(value.choices))


def test_a_case_that_fails_only_once_is_not_shrunk():
    strategy = drawn_cases(find("l1_loss"))
    drawn: list[DrawnCase] = []
    generate(strategy, "any", 3, drawn.append)
    asked = []

    def once(value):
        asked.append(value)
        return len(asked) == 1

    got = shrink_choices(strategy, drawn[2].choices, once, 20)
    assert got is None or got.choices == drawn[2].choices


def test_an_expected_failure_is_strict():
    def fails(value):
        raise ZeroDivisionError

    assert expected_failure("stored", fails, ZeroDivisionError, "why")
    assert not expected_failure("stored", lambda value: None, ZeroDivisionError, "why")
    with pytest.raises(KeyError):
        expected_failure("stored", {}.__getitem__, ZeroDivisionError, "why")


def test_an_internal_assertion_error_is_not_a_stale_expected_failure():
    def asserts(value):
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        expected_failure("stored", asserts, ZeroDivisionError, "why")


# === the database ==========================================================================


def wrong_in_half(input, target, **options):
    value = F.mse_loss(input, target, **options)
    return value * 1.5 if input.dtype == torch.float16 else value


def campaign_of(target, database, name="mine"):
    under_test = LossUnderTest("mine", find("mse_loss"), "function", target)
    wanted = [clauses()["accepts"], clauses()["value"]]
    return Campaign(under_test, wanted, PROFILES["quick"], name=name, database=database)


def test_a_stored_failure_is_tried_first():
    database = InMemoryExampleDatabase()
    campaign_of(wrong_in_half, database).run()
    seen = []

    def noting(input, target, **options):
        seen.append(str(input.dtype))
        return wrong_in_half(input, target, **options)

    campaign_of(noting, database).run()
    assert seen[0] == "torch.float16"
    assert next(iter(first("mse_loss", 1))).case.dtype != "float16"


def test_a_stored_failure_of_another_campaign_is_not_tried():
    database = InMemoryExampleDatabase()
    campaign_of(wrong_in_half, database).run()
    assert len(list(database.fetch(b"mine"))) == 1
    before = [*database.fetch(b"mine")]
    campaign_of(F.mse_loss, database, "other").run()
    assert [*database.fetch(b"mine")] == before


def test_stored_failures_are_kept_apart_by_dtypes():
    database = InMemoryExampleDatabase()
    campaign = campaign_of(wrong_in_half, database)
    campaign.dtypes = ("float16", "float32")
    campaign.run()
    before = [*database.fetch(b"mine float16 float32")]
    assert before
    campaign_of(F.mse_loss, database).run()
    assert [*database.fetch(b"mine float16 float32")] == before


def test_a_fixed_failure_is_removed_from_the_database():
    database = InMemoryExampleDatabase()
    campaign_of(wrong_in_half, database).run()
    records = campaign_of(F.mse_loss, database).run()
    assert records["value"].found is None
    assert [*database.fetch(b"mine")] == []


def test_a_malformed_stored_failure_is_removed_from_the_database():
    database = InMemoryExampleDatabase()
    database.save(b"mine", b"\xff\xff nonsense")
    remember(database, "mine", (10**9,) * 50)
    records = campaign_of(F.mse_loss, database).run()
    assert records["value"].found is None
    assert [*database.fetch(b"mine")] == []


def test_no_failure_is_stored_without_a_database():
    try_again(st.nothing(), None, "mine", lambda value: True)
    remember(None, "mine", (1, 2))


def test_the_database_is_that_of_the_current_hypothesis_profile(monkeypatch):
    database = InMemoryExampleDatabase()
    before = settings.get_current_profile_name()
    settings.register_profile("mine", database=database)
    try:
        settings.load_profile("mine")
        assert hypothesis_runs.failures_database() is database
    finally:
        settings.load_profile(before)


# === the command line ======================================================================

MODULE = """
    import torch

    def mse_loss(input, target, reduction="mean"):
        value = torch.nn.functional.mse_loss(input, target, reduction=reduction)
        return value * 1.5 if input.dtype == torch.float16 else value
"""
FEW = ("--impl=mine", "--loss=mse_loss", "--clause=value", "--profile=quick")


def test_hypothesis_show_statistics_covers_every_campaign(workplace):
    workplace.write(mine=MODULE)
    ran = workplace.run(*FEW, "--hypothesis-show-statistics")
    text = "\n".join(ran.out)
    assert "mine:mse_loss-function-cpu:" in text
    assert re.search(r"during generate phase .*\n.*Typical runtimes", text)
    assert f"{PROFILES['quick'].cases(find('mse_loss')) + 1} passing" in text
    assert re.search(r"during shrink phase", text)


def test_hypothesis_seed_is_the_default_seed(workplace):
    workplace.write(mine=MODULE)

    def seed(*words):
        workplace.run(*FEW, *words)
        path = workplace.path / "reports" / "mine" / "conformance.json"
        return json.loads(path.read_text())["seed"]

    assert seed("--hypothesis-seed=7") == 7
    assert seed("--hypothesis-seed=7", "--seed=3") == 3
    assert seed() == 0
    assert seed("--hypothesis-seed=a-word") == seed("--hypothesis-seed=a-word") > 0


def test_failures_are_stored_in_the_hypothesis_folder_but_not_in_ci(workplace, monkeypatch):
    workplace.write(mine=MODULE)
    monkeypatch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", str(workplace.path / "kept"))
    monkeypatch.setenv("CI", "true")
    words = ("-m", "pytest", "--pyargs", "lossspec.suites", *FEW)
    assert workplace.apart(*words).status == 1
    assert not (workplace.path / "kept" / "examples").exists()
    monkeypatch.delenv("CI")
    assert workplace.apart(*words).status == 1
    assert any((workplace.path / "kept" / "examples").iterdir())
