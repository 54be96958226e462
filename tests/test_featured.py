"""Cases of costly clauses, which together show every option."""

import inspect
from functools import wraps

import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.clauses import clauses, mode
from lossspec.execution.implementation import Implementation
from lossspec.judging.campaign import Campaign
from lossspec.judging.costly_cases import MEANS, OTHERS, Candidate, chosen, drawn_for, options
from lossspec.judging.profiles import PROFILES
from lossspec.report.verdict import Verdict
from lossspec.spec.catalogue import catalogue, find

#: Options that no value shows: the chunk size of a batch, and the sizes of the layers of a class.
HIDDEN = {"linear_cross_entropy": {"options"}, "adaptive_log_softmax_with_loss": {"div_value"}}


def losing(name, option, way=torch.compiler.is_compiling):
    """Return the torch function without one of its options in one mode of calling it."""
    function, loss = getattr(F, name), find(name)
    default = loss.parameters[option].default if option in loss.parameters else None

    @wraps(function)
    def target(*tensors, **options):
        if way():
            options = {**options, option: default}
        return function(*tensors, **options)

    target.__signature__ = inspect.signature(function)
    return target


def found(name, target, seed, clause="compiled"):
    """Return the first deviation as judged, without looking for an excuse and before shrinking."""
    implementation = Implementation("mine", functions={name: target})
    (under_test,) = implementation.losses_under_test(find(name))
    campaign = Campaign(under_test, [clauses()[clause]], PROFILES["standard"], seed, shrinks=False)
    return campaign.run()[clause].found


def walked(choice, came):
    """Return the chosen cases when each gives the same result."""
    taken = [next(choice)]
    try:
        while True:
            taken.append(choice.send(came))
    except StopIteration:
        return taken


@pytest.mark.parametrize("name", list(catalogue()))
def test_the_candidate_cases_have_every_option_or_none(name):
    loss = find(name)
    hidden = {n for n, p in loss.parameters.items() if p.limited}
    whole = 0
    for number, solved in enumerate(drawn_for(loss, 0)):
        form = loss.form(solved.case.form)
        on = {*options(loss, solved.case)} - {*form.fixed}
        if number >= MEANS + OTHERS:
            assert on == set()
        else:
            known = {*loss.options, *loss.parameters_of(form)} - hidden - {*form.fixed}
            assert on <= known
            whole += on == known
    assert whole > MEANS / 2  # `settle` may reset a parameter to its default


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", list(catalogue()))
def test_the_chosen_cases_show_every_option_and_one_has_none(name, seed):
    loss = find(name)
    candidates = [Candidate(n, solved) for n, solved in enumerate(drawn_for(loss, seed))]
    taken = walked(chosen(candidates, 2), True)
    shown = {option for candidate in taken for _, option in candidate.shows} - {""}
    assert shown == {*loss.options, *loss.parameters} - HIDDEN.get(name, set())
    assert any(not candidate.options for candidate in taken)
    assert 2 <= len(taken) <= 6


def test_a_mode_that_never_works_is_given_up_after_a_few_cases():
    loss = find("cross_entropy")
    candidates = [Candidate(n, solved) for n, solved in enumerate(drawn_for(loss, 0))]
    assert len(walked(chosen(candidates, 2), False)) <= 12


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("cross_entropy", "weight"),
        ("cross_entropy", "ignore_index"),
        ("cross_entropy", "label_smoothing"),
        ("smooth_l1_loss", "beta"),
        ("poisson_nll_loss", "log_input"),
    ],
)
def test_an_option_lost_by_compiling_is_found_with_any_seed(name, option, seed):
    assert found(name, losing(name, option), seed) is not None


def test_an_option_lost_by_exporting_is_found():
    target = losing("nll_loss", "weight", torch.compiler.is_exporting)
    assert found("nll_loss", target, 0, "exported") is not None


def test_a_failing_case_is_shrunk_to_the_lost_option(monkeypatch):
    compiles, compiled = [], mode._compiled
    monkeypatch.setattr(mode, "_compiled", lambda call: compiles.append(1) or compiled(call))
    target = losing("cross_entropy", "weight")
    (cell,) = lossspec.check("cross_entropy", target, clauses=["compiled"])
    assert cell.verdict is Verdict.DEVIATES
    assert "weight=weight, ignore_index=-100, label_smoothing=0.0" in cell.call
    assert len(compiles) < 30


def test_a_composition_that_keeps_every_option_conforms():
    (cell,) = lossspec.check("cross_entropy", F.cross_entropy, clauses=["compiled"])
    assert cell.verdict is Verdict.CONFORMS
    assert cell.informative >= 2
