"""Calls that overlap, and the settings that a call leaves or runs under."""

from __future__ import annotations

import sys
import threading
import time
import warnings
import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _device
from torch.utils._device import DeviceContext

import lossspec
from lossspec.clauses.overlap import _other_number
from lossspec.execution import process_state, timeout, torch_private
from lossspec.execution.global_state import Setting
from lossspec.execution.process_state import (
    LEFT_OUT,
    _another,
    other_process_settings,
    process_preserved,
    process_settings,
    setters,
)
from lossspec.maths import absolute, positive_part, where
from lossspec.report.verdict import Verdict
from lossspec.spec import Form, Loss, NonNegative, Probability, Real
from tests.defects.catalogue import defects, right_implementations

OVERLAP = ("live-results", "changed-in-place", "threads", "graph-freed")
PROCESS = ("process-state", "user-settings", "inference-tensors")


def values():
    return {switch.name: switch.read() for switch in process_settings()}


def reasons(loss, target, *clauses):
    """Return the reason of each clause that deviates, by clause."""
    cells = lossspec.check(loss, target, profile="quick", clauses=clauses)
    return {cell.clause: cell.reason for cell in cells if cell.verdict.fails}


# === settings of the process ==============================================================


def test_every_setter_of_torch_has_a_setting_or_a_reason_to_be_left_out():
    named = {switch.name for switch in process_settings()}
    missing = [name for name in setters() if f"torch.{name.removeprefix('set_')}" not in named]
    assert missing == []
    assert [name for name in LEFT_OUT if not LEFT_OUT[name]] == []


def test_the_settings_of_the_backends_are_listed_from_torch():
    named = {switch.name for switch in process_settings()}
    assert named >= {
        "torch.backends.cudnn.deterministic",
        "torch.backends.mkldnn.enabled",
        "torch.utils.deterministic.fill_uninitialized_memory",
        "torch.flush_denormal",
        "torch.default_device",
    }


def test_other_values_are_set_and_restored():
    before = values()
    with other_process_settings():
        during = values()
    assert values() == before
    assert during["torch.flush_denormal"] is not before["torch.flush_denormal"]
    assert during["torch.float32_matmul_precision"] != before["torch.float32_matmul_precision"]
    assert len([name for name in before if during[name] != before[name]]) > 20


CHANGES = {
    "torch.flush_denormal": lambda: torch.set_flush_denormal(True),
    "torch.float32_matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.default_device": lambda: torch.set_default_device("cpu"),
    "torch.warn_always": lambda: torch.set_warn_always(True),
    "torch.printoptions": lambda: torch.set_printoptions(precision=9),
    "torch.backends.cudnn.enabled": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "the list of warning filters": lambda: warnings.simplefilter("ignore"),
    "NumPy's handling of errors": lambda: np.seterr(over="ignore"),
    "the recursion limit": lambda: sys.setrecursionlimit(5000),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_a_call_changes_deviates_and_is_restored(name):
    def loss(input, target, **options):
        CHANGES[name]()
        return F.l1_loss(input, target, **options)

    before = values()
    found = reasons("l1_loss", loss, "process-state")
    want = f"{name}, set to another value than its default, was changed"
    assert found == {"process-state": want}
    assert values() == before


@pytest.mark.parametrize("value", [None, torch.device("cpu")])
def test_the_default_device_is_set_to_one_that_no_call_sets(value):
    (switch,) = (each for each in process_settings() if each.name == "torch.default_device")
    assert _another(switch, value) == torch.device("cpu:0")


class Mode(TorchFunctionMode):
    """A mode that changes nothing. Under any mode torch treats tensors as subclasses."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_a_mode_that_a_call_leaves_is_removed():
    def loss(input, target, **options):
        Mode().__enter__()
        return F.l1_loss(input, target, **options)

    assert [*reasons("l1_loss", loss, "process-state")] == ["process-state"]
    assert torch_private.function_modes() == ()
    assert reasons("l1_loss", F.l1_loss, "value") == {}


@pytest.mark.parametrize("device", [None, "cpu:0"])
def test_modes_and_the_default_device_are_restored_independently(device):
    before = values()
    with process_preserved(), Mode() as mode:
        torch.set_default_device(device)
        with process_preserved():
            torch.set_default_device("cpu")
            Mode().__enter__()
        assert torch_private.function_modes() == (mode,)
        assert torch_private.default_device() == (device and torch.device(device))
    assert values() == before


def test_a_default_device_of_an_interrupted_call_is_restored():
    with process_preserved():
        DeviceContext("cpu").__enter__()  # torch was interrupted before it noted the context
    assert torch_private.default_device() is None
    assert _device.CURRENT_DEVICE is None


def test_settings_are_restored_before_a_time_limit_ends_the_call(monkeypatch):
    monkeypatch.setattr(timeout, "LIMIT", 0.02)

    def slowly(value):
        sys.setrecursionlimit(value)
        for _ in range(20):
            time.sleep(0.01)

    switch = Setting("slow", "slow", sys.getrecursionlimit, slowly)
    monkeypatch.setattr(process_state, "process_settings", lambda: (switch,))
    before = sys.getrecursionlimit()

    def work():
        with process_preserved():
            sys.setrecursionlimit(before + 1)
        time.sleep(60)

    with pytest.raises(timeout.CallTimeout), timeout.time_limit():
        work()
    assert sys.getrecursionlimit() == before


def test_settings_that_a_call_restores_conform():
    def loss(input, target, **options):
        with process_preserved(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_float32_matmul_precision("medium")
        return F.l1_loss(input, target, **options)

    assert reasons("l1_loss", loss, "process-state") == {}


def test_warning_filters_that_a_first_call_adds_conform():
    seen = []

    def loss(input, target, **options):
        if len(seen) in (0, 40):  # such as an import at the first use of an option
            warnings.filterwarnings("ignore", message="once")
        seen.append(input)
        return F.l1_loss(input, target, **options)

    assert reasons("l1_loss", loss, "process-state") == {}


# === settings of users ====================================================================


class HalfUnderAnomaly(torch.autograd.Function):
    """Halve the gradient under anomaly detection."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad / 2 if torch.is_anomaly_enabled() else grad


def deterministic(input, target, **options):
    value = F.l1_loss(input, target, **options)
    return value * 2 if torch.are_deterministic_algorithms_enabled() else value


def wide(input, target, **options):
    return F.l1_loss(input, target, **options) * (torch.get_default_dtype().itemsize / 4)


def anomalous(input, target, **options):
    return F.l1_loss(HalfUnderAnomaly.apply(input), target, **options)


@pytest.mark.parametrize(
    ("loss", "setting"),
    [
        (deterministic, "the value under deterministic algorithms"),
        (wide, "the value under the default dtype float64"),
        (anomalous, "the gradient of input under anomaly detection"),
    ],
    ids=["deterministic algorithms", "default dtype", "anomaly detection"],
)
def test_the_setting_that_breaks_a_call_is_named(loss, setting):
    found = reasons("l1_loss", loss, "user-settings", "value", "gradient")
    assert [*found] == ["user-settings"]
    assert found["user-settings"].startswith(setting)


def test_a_documented_refusal_under_deterministic_algorithms_conforms():
    def loss(input, target, **options):
        if torch.are_deterministic_algorithms_enabled():
            raise RuntimeError("l1_loss does not have a deterministic implementation")
        return F.l1_loss(input, target, **options)

    assert reasons("l1_loss", loss, "user-settings") == {}


def test_an_inference_tensor_that_is_ignored_deviates():
    def loss(input, target, weight=None, pos_weight=None, **options):
        if pos_weight is not None and pos_weight.is_inference() and not input.is_inference():
            pos_weight = None
        return F.binary_cross_entropy_with_logits(
            input, target, weight=weight, pos_weight=pos_weight, **options
        )

    found = reasons("binary_cross_entropy_with_logits", loss, "inference-tensors", "value")
    assert [*found] == ["inference-tensors"]


# === overlapping calls ====================================================================


@pytest.mark.parametrize(
    ("defect", "clause"),
    [
        ("smooth_l1_loss/result-in-scratch", "live-results"),
        ("soft_margin_loss/gradient-in-scratch", "live-results"),
        ("kl_div/latest-call-only", "live-results"),
        ("nll_loss/unversioned", "changed-in-place"),
        ("binary_cross_entropy/unversioned", "changed-in-place"),
        ("huber_loss/options-in-class", "threads"),
        ("cosine_embedding_loss/keeps-last", "graph-freed"),
        ("kl_div/lower-precision", "process-state"),
        ("soft_margin_loss/flushes-subnormals", "process-state"),
        ("gaussian_nll_loss/reads-uninitialised", "user-settings"),
    ],
)
def test_a_wrong_loss_deviates(defect, clause):
    wrong = defects()[defect]
    assert [*reasons(wrong.loss, wrong.make(), clause)] == [clause]


@pytest.mark.parametrize(
    "name", ["kl_div/composite", "l1_loss/in-blocks", "cross_entropy/textbook", "ctc_loss/textbook"]
)
def test_a_right_loss_conforms(name):
    right = right_implementations()[name]
    assert reasons(right.loss, right.make(), *OVERLAP, *PROCESS) == {}


def test_a_value_that_is_kept_for_a_tensor_deviates():
    kept = {}

    def loss(input, target, **options):
        found, copy = kept.get(id(target), (lambda: None, target))
        if found() is not target:
            copy = target.detach().clone()
            kept[id(target)] = weakref.ref(target), copy
        return F.l1_loss(input, target if target.requires_grad else copy, **options)

    found = reasons("l1_loss", loss, "live-results", "value")
    assert [*found] == ["live-results"]
    what = "the value of a call with other numbers in the same tensors"
    assert found["live-results"].startswith(what)


def test_a_loss_that_locks_its_shared_options_conforms():
    lock, shared = threading.Lock(), {}

    def loss(input, target, **options):
        with lock:
            shared["options"] = options
            value = F.huber_loss(input, target, **shared["options"])
            shared.clear()
        return value

    assert reasons("huber_loss", loss, "threads") == {}


class ConstructedInMainThreadOnce(torch.nn.MSELoss):
    """A second construction in a thread other than the main one raises."""

    threads: ClassVar[set[int]] = set()

    def __init__(self, reduction="mean"):
        here = threading.get_ident()
        if here != threading.main_thread().ident:
            if here in self.threads:
                raise RuntimeError("one module for each thread")
            self.threads.add(here)
        super().__init__(reduction=reduction)


def test_a_constructor_that_raises_in_a_thread_is_found():
    (cell,) = lossspec.check(
        "mse_loss", ConstructedInMainThreadOnce, clauses=["threads"], profile="quick"
    )
    assert (cell.verdict, cell.reason) == (
        Verdict.DEVIATES,
        "a call from one of several threads raised",
    )
    assert cell.got == "RuntimeError: one module for each thread"


def test_threads_restore_the_trace_function_and_the_switch_interval():
    before = sys.gettrace(), sys.getswitchinterval()
    assert reasons("huber_loss", F.huber_loss, "threads") == {}
    assert (sys.gettrace(), sys.getswitchinterval()) == before


# === several live results =================================================================


class FromARing(torch.autograd.Function):
    """The absolute error, whose gradient waits in one of four buffers that take turns."""

    @staticmethod
    def forward(ctx, input, target, rings):
        difference = input - target
        ring = rings.setdefault((input.shape, input.dtype), [])
        ctx.sign = ring.pop(0) if len(ring) == 4 else torch.empty_like(difference)
        ring.append(ctx.sign)
        torch.sign(difference, out=ctx.sign)
        return difference.abs()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.sign, -grad * ctx.sign, None


def reduced(losses, reduction):
    return losses if reduction == "none" else getattr(losses, reduction)()


def test_a_ring_of_buffers_is_found_by_several_later_calls():
    rings = {}

    def loss(input, target, weight=None, reduction="mean"):
        if weight is not None or input.shape != target.shape:
            return F.l1_loss(input, target, weight=weight, reduction=reduction)
        return reduced(FromARing.apply(input, target, rings), reduction)

    found = reasons("l1_loss", loss, "live-results", "plain-live-results", "value", "gradient")
    assert "plain-live-results" in found
    assert not {"value", "gradient"} & {*found}


def test_scratch_memory_of_calls_without_options_is_found():
    scratch = {}

    def loss(input, target, weight=None, reduction="mean"):
        value = F.binary_cross_entropy(input, target, weight, reduction=reduction)
        if value.requires_grad or weight is not None or reduction != "none":
            return value
        kept = scratch.setdefault((value.shape, value.dtype), torch.empty_like(value))
        return kept.copy_(value)

    found = reasons("binary_cross_entropy", loss, "plain-live-results", "value")
    what = "the first result after 4 calls with other numbers"
    assert [*found] == ["plain-live-results"]
    assert found["plain-live-results"].startswith(what)


def test_a_value_that_is_kept_by_address_under_a_switch_is_found():
    kept = {}

    def loss(input, target, var, full=False, **options):
        if not full or not torch.is_tensor(var) or var.requires_grad:
            return F.gaussian_nll_loss(input, target, var, full=full, **options)
        key = var.data_ptr(), var.shape, var.dtype
        if key not in kept:
            kept.clear()
            kept[key] = var.clone()
        return F.gaussian_nll_loss(input, target, kept[key], full=full, **options)

    found = reasons("gaussian_nll_loss", loss, "live-results")
    what = "the value of a call with other numbers in the same tensors"
    assert found["live-results"].startswith(what)


def test_a_number_that_is_kept_for_a_shape_is_found():
    class Kept(torch.nn.GaussianNLLLoss):
        def __init__(self, **options):
            super().__init__(**options)
            self.kept = {}

        def forward(self, input, target, var):
            if isinstance(var, float):
                var = self.kept.setdefault((input.shape, input.dtype), var)
            return super().forward(input, target, var)

    found = reasons("gaussian_nll_loss", Kept, "live-results", "value")
    assert [*found] == ["live-results"]


def pinball(input, target, quantile):
    return where(target > input, quantile, quantile - 1) * (target - input)


def test_another_number_is_one_that_its_role_allows():
    spec = Loss(
        name="quantile_loss",
        module=None,
        summary="The pinball loss of one quantile.",
        formula="x",
        source="by hand",
        define=pinball,
        forms=(
            Form(
                shapes=("(*), (*), () -> (*)",),
                tensors={
                    "input": Real(),
                    "target": Real(learned=False),
                    "quantile": Probability(scalar=True),
                },
            ),
        ),
    )

    def loss(input, target, quantile, reduction="mean"):
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile is {quantile}")
        apart = target - input
        losses = torch.where(apart > 0, quantile * apart, (quantile - 1) * apart)
        return losses if reduction == "none" else getattr(losses, reduction)()

    assert reasons(spec, loss, "live-results", "changed-in-place") == {}


@pytest.mark.parametrize(
    ("role", "number", "other"),
    [
        (NonNegative(scalar=True), 4.0, 5.0),
        (NonNegative(scalar=True), 2.0**30, 2.0**29),  # in float32 one more is the same number
        (Probability(scalar=True), 0.5, 0.25),
        (Probability(scalar=True), 0.0, 1.0),
    ],
)
def test_another_number_differs_and_is_in_the_domain(role, number, other):
    assert _other_number(role, np.float32(number).reshape(())) == other


def test_a_number_in_an_optional_argument_stays():
    def define(input, target, margin):
        return positive_part(absolute(input - target) - margin)

    spec = Loss(
        name="dead_zone",
        module=None,
        summary="The absolute error beyond a margin.",
        formula="x",
        source="by hand",
        define=define,
        forms=(Form(shapes=("(*), (*) -> (*)",), tensors={"input": Real(), "target": Real()}),),
        options={"margin": NonNegative(scalar=True, default=0.0, shape="()")},
    )

    def loss(input, target, margin=0.0, reduction="mean"):
        losses = ((input - target).abs() - margin).clamp(min=0)
        return losses if reduction == "none" else getattr(losses, reduction)()

    assert reasons(spec, loss, "live-results") == {}


@pytest.mark.parametrize("loss", ["ctc_loss", "nll_loss", "triplet_margin_loss", "mse_loss"])
def test_torch_conforms_with_several_live_results(loss):
    names = ["live-results", "plain-live-results"]
    cells = lossspec.check(loss, getattr(F, loss), profile="quick", clauses=names)
    assert {str(cell.verdict) for cell in cells} == {"conforms"}
