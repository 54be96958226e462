"""Renamed specs: the engine reads roles, and no name of a tensor, a parameter or an axis."""

import json
import re
from dataclasses import replace
from inspect import signature

import pytest
from torch.nn import functional

from lossspec.cases.features import features
from lossspec.cases.workloads import axes, batch_axis, has_classes, sizes, workload
from lossspec.errors import SpecError
from lossspec.execution.implementation import Implementation
from lossspec.judging.plan import Plan
from lossspec.judging.profiles import PROFILES
from lossspec.judging.run import Run
from lossspec.judging.shrinking import shrink
from lossspec.judging.stream import stream
from lossspec.spec.catalogue import find
from lossspec.spec.roles import ClassIndex

#: Another name for every tensor, parameter and axis of cross_entropy and nll_loss.
NAMES = {
    "input": "scores",
    "target": "y",
    "weight": "w",
    "ignore_index": "skip",
    "label_smoothing": "eps",
}
AXES = {"N": "B", "C": "K"}
OLD = {new: old for old, new in {**NAMES, **AXES}.items()}


def renamed_axes(text):
    """Return a shape contract with other names of axes."""
    return re.sub(r"\b(N|C)\b", lambda match: AXES[match[0]], text)


def renamed(mapping):
    """Return a mapping with other names of tensors and parameters as its keys."""
    return {NAMES[name]: value for name, value in mapping.items()}


def renamed_function(function):
    """Return a function that accepts its arguments by their other names."""
    if function is None:
        return None
    names = [NAMES[name] for name in signature(function).parameters]

    def other(**given):
        return function(*(given[name] for name in names))

    other.__signature__ = signature(eval(f"lambda {', '.join(names)}: None"))
    return other


def renamed_role(role):
    changes = {"shape": renamed_axes(role.shape)} if role.shape else {}
    if getattr(role, "ignored_by", None):
        changes["ignored_by"] = NAMES[role.ignored_by]
    if getattr(role, "classes", None):
        changes["classes"] = AXES[role.classes]
    return replace(role, **changes)


def renamed_form(form):
    tensors = {name: renamed_role(role) for name, role in form.tensors.items()}
    return replace(
        form,
        shapes=tuple(map(renamed_axes, form.shapes)),
        tensors=renamed(tensors),
        divisor=renamed_function(form.divisor),
    )


def renamed_spec(loss):
    """Return a copy of a spec in which every tensor, parameter and axis has another name."""
    return replace(
        loss,
        batch=AXES[loss.batch],
        classes=AXES[loss.classes],
        define=renamed_function(loss.define),
        equivalents=tuple(map(renamed_function, loss.equivalents)),
        forms=tuple(map(renamed_form, loss.forms)),
        options=renamed({name: renamed_role(role) for name, role in loss.options.items()}),
        parameters=renamed(loss.parameters),
        shift_invariant=tuple(NAMES[name] for name in loss.shift_invariant),
        examples=tuple(
            replace(
                example,
                arguments=renamed(example.arguments),
                parameters=renamed(example.parameters),
            )
            for example in loss.examples
        ),
    )


LOSSES = ["cross_entropy", "nll_loss"]
SPECS = {name: (find(name), renamed_spec(find(name))) for name in LOSSES}


def as_before(data):
    """Return the JSON of a case with the names of the shipped spec."""
    if isinstance(data, dict):
        found = {OLD.get(key, key): as_before(value) for key, value in data.items()}
        return found | ({"omitted": sorted(found["omitted"])} if "omitted" in found else {})
    if isinstance(data, list):
        return [as_before(item) for item in data]
    if isinstance(data, str) and "->" in data:
        return re.sub(r"\b(B|K)\b", lambda match: OLD[match[0]], data)
    return OLD.get(data, data) if isinstance(data, str) else data


def comparable(case):
    return json.dumps(as_before(case.to_json()))


@pytest.fixture(params=LOSSES)
def specs(request):
    return SPECS[request.param]


def drawn(loss):
    return [solved.case for solved in stream(loss, PROFILES["quick"], 0)]


def test_a_renamed_spec_draws_the_same_cases(specs):
    got, want = (list(map(comparable, drawn(loss))) for loss in reversed(specs))
    assert got == want


def test_cases_of_a_renamed_spec_have_the_same_features(specs):
    before, after = specs
    for old, new in zip(drawn(before), drawn(after), strict=True):
        got = {" ".join(OLD.get(w, w) for w in word.split()) for word in features(new, after)}
        assert got == features(old, before)


def test_a_renamed_spec_shrinks_to_the_same_cases(specs):
    def large(case):
        return next(iter(case.tensors.values())).size > 3

    before, after = specs
    both = [stream(loss, PROFILES["quick"], 0) for loss in (before, after)]
    pairs = [pair for pair in zip(*both, strict=True) if 3 < pair[0].case.cotangent.size < 40]
    for pair in pairs[:8]:
        want, got = (shrink(solved, lambda s: large(s.case), effort=0.3).case for solved in pair)
        assert comparable(got) == comparable(want)


def test_a_renamed_spec_is_timed_by_the_same_calls(specs):
    before, after = specs
    assert has_classes(after)
    assert batch_axis(after) == AXES[batch_axis(before)]
    for old, new in zip(sizes(before, "cpu")[:1], sizes(after, "cpu")[:1], strict=True):
        got, want = axes(after, new), axes(before, old)
        assert as_before(got) == want
        case = workload(after, got, "float32", 3)
        assert case.requires_grad == ("scores",)
        assert comparable(case) == comparable(workload(before, want, "float32", 3))


@pytest.mark.parametrize(("copy", "want"), [(0, "input"), (1, "scores")], ids=["old", "new"])
def test_the_gradient_by_target_probabilities_is_not_timed(copy, want):
    loss = SPECS["cross_entropy"][copy]
    by_probabilities = replace(loss, forms=loss.forms[::-1], examples=())
    wanted = axes(by_probabilities, sizes(by_probabilities, "cpu")[0])
    assert workload(by_probabilities, wanted, "float32", 0).requires_grad == (want,)


@pytest.mark.parametrize("form", [0, 1], ids=["index", "distribution"])
def test_a_spec_without_an_axis_for_its_classes_is_refused(form):
    spec = SPECS["cross_entropy"][1]
    tensors = {
        name: replace(role, classes="") if isinstance(role, ClassIndex) else role
        for name, role in spec.forms[form].tensors.items()
    }
    changed = replace(spec.forms[form], tensors=tensors)
    forms = tuple(changed if i == form else other for i, other in enumerate(spec.forms))
    with pytest.raises(SpecError, match=r"'y' refers to classes, .* has no axis 'C' for them"):
        replace(spec, forms=forms, classes="C", examples=())


def right(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    return functional.cross_entropy(
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def unsmoothed(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0):
    if not 0 <= label_smoothing <= 1:
        raise ValueError("label_smoothing must lie in [0, 1]")
    return right(input, target, weight, ignore_index, reduction)


def counted(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """Compute cross entropy with a mean over the number of targets instead of their weights."""
    each = right(input, target, weight, ignore_index, "none", label_smoothing)
    if reduction == "mean":
        return each.mean()
    return (
        each
        if reduction == "none"
        else right(input, target, weight, ignore_index, reduction, label_smoothing)
    )


def by_other_names(function):
    def other(scores, y, w=None, skip=-100, reduction="mean", eps=0.0):
        return function(scores, y, w, skip, reduction, eps)

    return other


def judged(loss, function):
    """Return the finding of each clause, without known deviations of torch."""
    implementation = Implementation(
        "mine", functions={loss.name: function}, own=(loss,), reference=True
    )
    run = Run(PROFILES["quick"], ship=False)
    plan = Plan([implementation], (loss.name,), None, ("cpu",), False)
    cells = [cell for cell in plan.cells() if cell.applies]
    found = {}
    for cell in cells:
        record, _ = run.judge(cell, cells)
        case = json.dumps(as_before(record.case)) if record.case else None
        found[record.clause] = (str(record.verdict), record.examples, record.informative, case)
    return found


WRONG = {
    right: set(),
    unsmoothed: {"value", "gradient"},
    counted: {"value", "mean-divisor", "weight-scale"},
}


@pytest.mark.parametrize("function", WRONG, ids=lambda function: function.__name__)
def test_a_renamed_spec_gives_the_same_verdicts(function):
    before, after = SPECS["cross_entropy"]
    got, want = judged(after, by_other_names(function)), judged(before, function)
    assert got == want
    assert {clause for clause in WRONG[function] if got[clause][0] != "deviates"} == set()
