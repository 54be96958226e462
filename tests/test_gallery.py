"""The gallery: the right losses conform to its specs, and wrong ones are found."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from lossspec_gallery import implementations
from lossspec_gallery.implementations import _giou_losses, info_nce, reduced
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

import lossspec

GALLERY = Path(__file__).parents[1] / "gallery"
ENTRIES = tomllib.loads((GALLERY / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
SPECS = {
    name: EntryPoint(name, value, "lossspec.specs").load()
    for name, value in ENTRIES["lossspec.specs"].items()
}
CLAUSES = ["value", "gradient", "sum-of-none", "refuses-parameters", "refuses-shapes"]
#: The clauses that only some of the losses have.
MORE = {
    "dice_loss": ["whole-batch-permutation", "live-results", "changed-in-place"],
    "info_nce": ["whole-batch-permutation", "mean-divisor"],
}
WITHOUT_REDUCTION = {"dice_loss"}


def verdicts(name, target, clauses, dtypes=None):
    cells = lossspec.check(SPECS[name], target, profile="quick", clauses=clauses, dtypes=dtypes)
    return {cell.clause: str(cell.verdict) for cell in cells}


@pytest.mark.parametrize("name", SPECS)
def test_a_right_loss_conforms(name):
    clauses = [*CLAUSES, *MORE.get(name, ["mean-divisor"])]
    clauses = [c for c in clauses if name not in WITHOUT_REDUCTION or c != "sum-of-none"]
    found = verdicts(name, getattr(implementations, name), clauses)
    assert found == dict.fromkeys(clauses, "conforms")


def focal_with_swapped_balance(input, target, alpha=0.25, gamma=2.0, reduction="mean"):
    return implementations.sigmoid_focal_loss(input, target, 1 - alpha, gamma, reduction)


def focal_that_cancels(input, target, alpha=0.25, gamma=2.0, reduction="mean"):
    """Compute 1 - p, which loses the digits of a right prediction."""
    losses = binary_cross_entropy_with_logits(input, target, reduction="none")
    balance = alpha * target + (1 - alpha) * (1 - target)
    return reduced(balance * (1 - torch.exp(-losses)) ** gamma * losses, reduction)


def focal_with_detached_factor(input, target, alpha=0.25, gamma=2.0, reduction="mean"):
    """Take the factor (1 - p)^γ as a constant: the value is right, the gradient is not."""
    wrong = torch.where(target == 1, -input, input)
    factor = (torch.sigmoid(wrong) ** gamma).detach()
    balance = alpha * target + (1 - alpha) * (1 - target)
    return reduced(balance * factor * torch.nn.functional.softplus(wrong), reduction)


def dice_of_rows(input, target, smooth=1.0):
    overlap, size = (input * target).sum(-1), (input + target).sum(-1)
    return (1 - (2 * overlap + smooth) / (size + smooth)).mean()


def dice_smooth_below_only(input, target, smooth=1.0):
    overlap, size = (input * target).sum(), input.sum() + target.sum()
    return 1 - 2 * overlap / (size + smooth)


def nce_of_queries(query, key, temperature=0.1, reduction="mean"):
    return info_nce(key, query, temperature, reduction)


def nce_times_temperature(query, key, temperature=0.1, reduction="mean"):
    own = torch.arange(len(query))
    return cross_entropy(query @ key.T * temperature, own, reduction=reduction)


def nce_without_own_key(query, key, temperature=0.1, reduction="mean"):
    """Leave the own key out of the sum."""
    scores = query @ key.T / temperature
    others = scores.masked_fill(torch.eye(len(query), dtype=torch.bool), -torch.inf)
    return reduced(torch.logsumexp(others, 1) - scores.diagonal(), reduction)


def giou_without_clamp(input, target, eps=1e-7, reduction="mean"):
    """Take the product of two negative sides for an overlap."""
    near, far = torch.maximum(input[:, :2], target[:, :2]), torch.minimum(input, target)[:, 2:]
    around = torch.maximum(input, target)[:, 2:] - torch.minimum(input, target)[:, :2]
    overlap, around = (far - near).prod(-1), around.prod(-1)
    union = sum((box[:, 2:] - box[:, :2]).prod(-1) for box in (input, target)) - overlap
    return reduced(1 - overlap / (union + eps) + (around - union) / (around + eps), reduction)


def giou_in_float16(input, target, eps=1e-7, reduction="mean"):
    """Divide by eps in float16, where the gradient of the quotient overflows."""
    return reduced(_giou_losses(input, target, eps), reduction)


def iou(input, target, eps=1e-7, reduction="mean"):
    """Leave out the box around both."""
    overlap = torch.minimum(input, target)[:, 2:] - torch.maximum(input, target)[:, :2]
    overlap = overlap.clamp(min=0).prod(-1)
    union = sum((box[:, 2:] - box[:, :2]).prod(-1) for box in (input, target)) - overlap
    return reduced(1 - overlap / (union + eps), reduction)


def pinball_of_other_side(input, target, quantile=0.5, reduction="mean"):
    return implementations.pinball_loss(target, input, quantile, reduction)


def pinball_twice(input, target, quantile=0.5, reduction="mean"):
    """Scale the loss so that the median is the absolute error."""
    return 2 * implementations.pinball_loss(input, target, quantile, reduction)


def dpo_without_reference(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1, reduction="mean"
):
    return reduced(-logsigmoid(beta * (policy_chosen - policy_rejected)), reduction)


def dpo_that_overflows(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1, reduction="mean"
):
    """Take the logarithm of the sigmoid, which is 0 for a large negative score."""
    policy, reference = policy_chosen - policy_rejected, reference_chosen - reference_rejected
    return reduced(-torch.log(torch.sigmoid(beta * (policy - reference))), reduction)


WRONG = [
    ("sigmoid_focal_loss", focal_with_swapped_balance, "value"),
    ("sigmoid_focal_loss", focal_that_cancels, "gradient"),
    ("sigmoid_focal_loss", focal_with_detached_factor, "gradient"),
    ("dice_loss", dice_of_rows, "value"),
    ("dice_loss", dice_smooth_below_only, "value"),
    ("info_nce", nce_of_queries, "value"),
    ("info_nce", nce_times_temperature, "value"),
    ("info_nce", nce_without_own_key, "value"),
    ("generalized_box_iou_loss", giou_without_clamp, "value"),
    ("generalized_box_iou_loss", iou, "value"),
    ("pinball_loss", pinball_of_other_side, "value"),
    ("pinball_loss", pinball_twice, "value"),
    ("dpo_loss", dpo_without_reference, "value"),
    ("dpo_loss", dpo_that_overflows, "value"),
]


@pytest.mark.parametrize(("name", "wrong", "clause"), WRONG, ids=[w.__name__ for _, w, _ in WRONG])
def test_a_wrong_loss_is_found(name, wrong, clause):
    assert verdicts(name, wrong, [clause], "float32") == {clause: "deviates"}


def test_a_gradient_that_the_plain_formula_loses_in_float16_is_not_compared():
    found = verdicts("generalized_box_iou_loss", giou_in_float16, ["gradient"], "float16")
    assert found == {"gradient": "conforms"}


def test_each_spec_is_an_entry_point_of_its_name():
    files = {path.stem for path in (GALLERY / "lossspec_gallery").glob("*.py")}
    assert set(SPECS) == files - {"__init__", "implementations"}
    assert {name: spec.name for name, spec in SPECS.items()} == {name: name for name in SPECS}
    assert [name for name in SPECS if not hasattr(implementations, name)] == []


def test_the_installed_gallery_is_judged_by_name(tmp_path):
    # setuptools leaves a build folder in the source
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(
        GALLERY, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg*")
    )
    options = ("--no-deps", "--no-build-isolation", "--target", str(site))
    run(sys.executable, "-m", "pip", "install", *options, str(source), cwd=tmp_path)
    judge = ("run", "gallery", "--profile=quick", "--clause=value", f"--reports={tmp_path / 'r'}")
    run(sys.executable, "-m", "lossspec", *judge, cwd=tmp_path, path=str(site))
    artifact = json.loads((tmp_path / "r/gallery/conformance.json").read_text("utf-8"))
    judged = [cell for cell in artifact["cells"] if cell["loss"] in SPECS]
    assert {cell["loss"]: cell["verdict"] for cell in judged} == dict.fromkeys(SPECS, "conforms")


def run(*command, cwd, path=""):
    """Run a command and return its output; a failure shows the whole output."""
    # The pytest around this one must not configure the one inside.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=inherited | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
