"""Known deviations in a run: a reason is mandatory, stored cases are replayed, stale ones fail."""

import dataclasses
from textwrap import dedent

import pytest
from listed_deviations import BOTH, HALF, PLAIN, QUICK, RIGHT, WEIGHTED, WRONG, known, listed

from lossspec.cases.features import features
from lossspec.execution.loading import load
from lossspec.judging import known_deviations
from lossspec.judging.conditions import describes
from lossspec.judging.plan import Plan
from lossspec.judging.profiles import PROFILES
from lossspec.judging.run import Run

# === on a device ==========================================================================


@pytest.mark.parametrize(
    ("accelerator", "shipped", "verdict"),
    [(False, True, "deviates"), (True, True, "conforms"), (True, False, "deviates")],
)
def test_a_stale_shipped_entry_is_accepted_on_an_accelerator(
    monkeypatch, accelerator, shipped, verdict
):
    entry = known(PLAIN)
    monkeypatch.setattr("lossspec.judging.cell_record.accelerates", lambda device: accelerator)
    monkeypatch.setattr(known_deviations, "shipped", lambda name: [entry] if shipped else [])
    implementation = load("torch.nn.functional")
    plan = Plan([implementation], ("l1_loss",), ("value",))
    (cell,) = plan.cells()
    run = Run(PROFILES["quick"], known=[] if shipped else [entry])
    record, _ = run.judge(cell, [cell])
    assert record.verdict == verdict, record.reason


# === in a run ==============================================================================


def test_a_known_deviation_is_known_and_an_unlisted_one_deviates(workplace):
    workplace.write(wrong=WRONG)
    assert workplace.run("--impl=wrong", *QUICK).status == 1
    result = workplace.run("--impl=wrong", *QUICK, listed(workplace, *BOTH))
    assert result.status == 0, result.out
    cell = workplace.cells("wrong")["l1_loss/value[function-cpu]"]
    assert (cell["verdict"], cell["reason"]) == ("known", "explained")
    assert cell["deviation"] == {
        "reason": "explained",
        "link": "https://example.org/1",
        "file": "known.toml",
    }
    # The stored case is replayed before any case is drawn.
    assert cell["case"] == HALF.to_json()
    result = workplace.run("--impl=wrong", *QUICK, listed(workplace, BOTH[0]))
    assert result.status == 1
    cell = workplace.cells("wrong")["l1_loss/value[function-cpu]"]
    assert cell["verdict"] == "deviates"
    assert "weight" in cell["case"]["tensors"]
    assert f"--deviations={workplace.path}/known.toml" in cell["repeat"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (known(), "its stored case no longer fails; remove it"),
        (known(PLAIN, when={"surface": "function"}), "its stored case no longer fails"),
        (known(WEIGHTED), "the implementation does not take weight; remove it"),
    ],
)
def test_a_known_deviation_that_matches_nothing_fails_the_run(workplace, entry, why):
    body = "F.l1_loss(input, target, reduction=reduction)"
    workplace.write(
        right=f"""
            from torch.nn import functional as F

            def l1_loss(input, target, reduction="mean"):
                return {body}
        """
    )
    assert workplace.run("--impl=right", *QUICK, listed(workplace, entry)).status == 1
    cell = workplace.cells("right")["l1_loss/value[function-cpu]"]
    assert cell["verdict"] == "deviates"
    assert cell["reason"].startswith("the known deviation in known.toml does not apply: ")
    assert why in cell["reason"]


def test_a_known_deviation_of_an_absent_loss_fails_the_run(workplace):
    workplace.write(right="from torch.nn.functional import mse_loss")
    entry = listed(workplace, known())
    assert workplace.run("--impl=right", *QUICK, entry).status == 1
    assert {cell["reason"] for cell in workplace.cells("right").values()} == {
        "the known deviation in known.toml does not apply: right has no l1_loss; remove it",
        "right has no l1_loss",
    }


@pytest.mark.parametrize(
    "when",
    [{"version": "<1"}, {"device": "cuda"}, {"surface": "class"}],
    ids=lambda when: next(iter(when)),
)
def test_a_known_deviation_whose_condition_does_not_hold_is_not_replayed(workplace, when):
    workplace.write(right=f"__version__ = '1.0'\n{RIGHT}")
    entry = listed(workplace, known(when=when))
    assert workplace.run("--impl=right", *QUICK, entry).status == 0


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("2.13.0+cpu", 1),
        ("2.14.1", 0),
        ("2.14.1+cu130", 0),
        ("2.14.0rc1", 0),
        ("2.15.0.dev20261101", 0),
    ],
)
def test_a_fixed_known_deviation_is_stale_only_in_its_versions(workplace, version, status):
    workplace.write(right=f"__version__ = {version!r}\n{RIGHT}")
    entry = listed(workplace, known(when={"version": "<2.14"}))
    assert workplace.run("--impl=right", *QUICK, entry).status == status
    cell = workplace.cells("right")["l1_loss/value[function-cpu]"]
    assert cell["verdict"] == ("deviates" if status else "conforms")
    assert ("its stored case no longer fails" in (cell["reason"] or "")) == bool(status)


def test_a_known_deviation_of_another_version_covers_no_deviation(workplace):
    workplace.write(wrong=f"__version__ = '2.14.1+cu130'\n{dedent(WRONG)}")
    entries = [dataclasses.replace(entry, when={"version": "<2.14"}) for entry in BOTH]
    assert workplace.run("--impl=wrong", *QUICK, listed(workplace, *entries)).status == 1
    entries = [dataclasses.replace(entry, when={"version": ">=2.14"}) for entry in BOTH]
    assert workplace.run("--impl=wrong", *QUICK, listed(workplace, *entries)).status == 0


def test_a_known_deviation_of_an_absent_loss_is_ignored_in_another_version(workplace):
    workplace.write(right="__version__ = '2.14.1'\nfrom torch.nn.functional import mse_loss")
    entry = listed(
        workplace, known(when={"version": "<2.14"}), known(PLAIN, when={"version": "<2"})
    )
    run = workplace.run("--impl=right", *QUICK, entry)
    assert {cell["reason"] for cell in workplace.cells("right").values()} == {
        "right has no l1_loss"
    }
    assert run.status == 4  # nothing was judged


def test_a_known_deviation_covers_every_dtype_of_its_condition(workplace):
    workplace.write(wrong=WRONG)
    assert WEIGHTED.dtype == "float64"
    words = ("--impl=wrong", *QUICK, "--dtype=float32")
    assert workplace.run(*words).status == 1
    result = workplace.run(*words, listed(workplace, BOTH[1]))
    assert result.status == 0, result.out


def test_a_known_deviation_outside_the_selection_is_not_replayed(workplace):
    workplace.write(right=RIGHT)
    entry = listed(workplace, known())
    for words in (("--clause=accepts",), ("--clause=value", "--dtype=float64")):
        result = workplace.run("--impl=right", "--loss=l1_loss", "--profile=quick", *words, entry)
        assert result.status == 0


# === conditions of an entry ================================================================


@pytest.mark.parametrize(
    ("version", "wanted", "holds"),
    [
        ("2.13.0+cpu", ">=2.13", True),
        ("2.13.0", "<=2.13", True),
        ("2.13.0", ">2.13", False),
        ("2.13.1", ">2.13", True),
        ("2.13.1", "==2.13", True),
        ("2.13.1", "==2.13.0", False),
        ("2.14.0a0+git1", ">=2.4, <2.14", False),
        ("2.9", ">=2.4,<2.14", True),
        # A local suffix names a build of the same release.
        ("2.14.1+cu130", "<2.14", False),
        ("2.14.1+cu130", "==2.14.1", True),
        ("2.13.0+cu130", "<2.14", True),
        # A pre-release or a nightly counts as its release.
        ("2.15.0.dev20261101", ">=2.15", True),
        ("2.15.0.dev20261101+cpu", "<2.15", False),
        ("2.15.dev20261101", "==2.15.0", True),
        ("2.15rc1", "<=2.15", True),
        ("v2.15", ">=2.15", True),
        ("unknown", "<1", True),
        (None, "<1", True),
    ],
)
def test_a_version_condition_accepts_a_range(version, wanted, holds):
    assert known(when={"version": wanted}).holds(version, "cpu", "function") is holds


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({}, True),
        ({"device": "cuda"}, True),
        ({"device": ["mps", "cpu"]}, False),
        ({"surface": ["class", "function"]}, True),
        ({"surface": "class"}, False),
    ],
)
def test_a_condition_matches_device_and_surface(when, holds):
    assert known(when=when).holds("1", "cuda:1", "function") is holds


@pytest.mark.parametrize(
    ("when", "covers"),
    [
        ({"dtype": "float64"}, True),
        ({"dtype": ["float16", "float32"]}, False),
        ({"form": ""}, True),
        ({"reduction": WEIGHTED.reduction}, True),
        ({"reduction": "median"}, False),
        ({"options": ["weight"]}, True),
        ({"options": "weight"}, True),
        ({"options": ["pos_weight"]}, False),
        ({"features": ["with weight"]}, True),
        ({"features": "with weight"}, True),
        ({"features": ["with weight", "empty"]}, "empty" in features(WEIGHTED)),
    ],
)
def test_a_condition_describes_a_case(when, covers):
    assert describes(when, WEIGHTED) is covers


# === inherited =============================================================================


def test_a_known_deviation_of_torch_is_inherited_by_losses_built_on_it(workplace):
    workplace.write(
        mine="""
            from torch.nn import functional as F

            def cross_entropy(input, target, label_smoothing=0.0, **more):
                out = F.cross_entropy(input, target, label_smoothing=label_smoothing, **more)
                return out * 1.5 if label_smoothing == 0.5 else out
        """
    )
    words = ("--loss=cross_entropy", "--clause=refuses-parameters,value", "--profile=quick")
    assert workplace.run("--impl=mine", *words).status == 1
    cells = workplace.cells("mine")
    inherited = cells["cross_entropy/refuses-parameters[function-cpu]"]
    assert inherited["verdict"] == "known"
    assert inherited["reason"].startswith("inherited: torch.nn.functional deviates in the same way")
    own = cells["cross_entropy/value[function-cpu]"]
    assert own["verdict"] == "deviates"
    assert own["case"]["parameters"]["label_smoothing"] == 0.5
