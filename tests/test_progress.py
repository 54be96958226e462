"""A run tells how far it is while it goes on."""

from __future__ import annotations

import torch

from lossspec.campaign import PROFILES, Campaign
from lossspec.clauses import clauses
from lossspec.implementations import Subject
from lossspec.spec import find


def half(input, target, reduction="mean"):
    return torch.nn.functional.mse_loss(input, target, reduction=reduction) / 2


def half_in_float32(*arguments, **keywords):
    if arguments[0].dtype in (torch.float16, torch.bfloat16):
        raise NotImplementedError("half precision")
    return half(*arguments, **keywords)


def told_by(target, *names, profile="quick"):
    told = []
    campaign = Campaign(
        Subject("mine", find("mse_loss"), "function", target),
        [clauses()[name] for name in names],
        PROFILES[profile],
        on_progress=lambda *numbers: told.append(numbers),
    )
    return told, campaign, campaign.run()


def test_a_campaign_calls_back_after_every_case():
    told, campaign, _ = told_by(half, "accepts", "sum-of-none")
    cases = PROFILES["quick"].cases(campaign.subject.loss)
    assert told[0] == (0, cases, 0)
    assert [done for done, _, _ in told[1:-1]] == list(range(1, cases + 1))
    assert told[-1] == (cases, cases, 0)


def test_a_campaign_counts_the_clauses_that_deviate():
    told, _, ledgers = told_by(half, "value", "accepts")
    counts = [found for _, _, found in told]
    assert ledgers["value"].found is not None
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 1)


def test_a_campaign_that_ends_early_reports_all_cases_as_done():
    told, campaign, _ = told_by(half, "value")
    cases = PROFILES["quick"].cases(campaign.subject.loss)
    assert told[-2][0] < cases
    assert told[-1] == (cases, cases, 1)


def test_a_campaign_counts_the_cases_that_replace_those_in_refused_dtypes():
    told, campaign, _ = told_by(half_in_float32, "accepts", "sum-of-none")
    cases = PROFILES["quick"].cases(campaign.subject.loss)
    done, total, _ = told[-1]
    assert done == total > cases
    assert all(done <= total for done, total, _ in told)
