"""Timing: exact statistics on made-up pairs, paired timing on a simulated clock, and options."""

import gc
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch
from test_render import Page
from torch.nn import functional

from lossspec.cases.workloads import Size, axes, batch_axis, has_classes, sizes, workload
from lossspec.errors import ReportError
from lossspec.execution.implementation import Implementation, LossUnderTest
from lossspec.execution.memory import peak, weighed
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.report.records import Report
from lossspec.spec.catalogue import catalogue, find
from lossspec.spec.loss import Loss
from lossspec.timing.clocks import CudaClock, HostClock
from lossspec.timing.measure import MINE, TEXTBOOK, TORCH, TimingRun
from lossspec.timing.memory import Need, TooLarge, excess, fitted
from lossspec.timing.page import page
from lossspec.timing.pairs import PairedTiming, alike
from lossspec.timing.plan import TimedLoss, TimingCell, growing, points
from lossspec.timing.results import (
    MODES,
    SCHEMA,
    SPEEDS,
    Arm,
    Growth,
    Interval,
    TimingReport,
    timing_id,
)
from lossspec.timing.statistics import (
    beyond,
    compared,
    exponent,
    foreseen,
    interval,
    kept,
    limit,
    rounds,
    speed,
)

ROOT = Path(__file__).parents[1]
SAMPLE = Report.read(Path(__file__).parent / "data" / "conformance.json")


# === intervals and verdicts ================================================================


@pytest.mark.parametrize(("n", "low", "high"), [(12, 3, 10), (32, 10, 23), (64, 24, 41)])
def test_the_interval_matches_the_sign_test(n, low, high):
    # ranks of the 95 % interval of a median, as in published tables
    ratios = [math.exp(rank) for rank in range(1, n + 1)]
    random.Random(0).shuffle(ratios)
    found = interval(ratios, 0.95)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((low, high))
    assert math.log(found.ratio) == pytest.approx((n + 1) / 2)


@pytest.mark.parametrize("n", [8, 12, 37, 64, 128])
def test_the_interval_has_its_stated_coverage(n):
    ratios = [math.exp(rank) for rank in range(1, n + 1)]
    below = round(math.log(interval(ratios).low)) - 1
    missed = 2 * sum(math.comb(n, i) for i in range(below + 1)) / 2**n
    wider = 2 * sum(math.comb(n, i) for i in range(below + 2)) / 2**n
    assert missed <= 0.01 < wider


def test_few_pairs_give_an_infinite_interval():
    found = interval([2.0] * 7)
    assert (found.low, found.ratio, found.high) == (0, pytest.approx(2), math.inf)
    assert speed(found) == "unclear"


@pytest.mark.parametrize("ratios", [[], [1.0, 0.0], [math.inf], [math.nan]])
def test_invalid_ratios_are_refused(ratios):
    with pytest.raises(ValueError, match="want at least one, all finite and > 0"):
        interval(ratios)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.952, "faster"),
        (0.5, 0.953, "unclear"),
        (0.953, 1.05, "same"),
        (0.9, 1.2, "unclear"),
        (1.0, 1.0501, "unclear"),
        (1.0501, 3.0, "slower"),
    ],
)
def test_a_verdict_requires_the_whole_interval(low, high, verdict):
    assert speed(Interval(1.0, low, high)) == verdict


@pytest.mark.parametrize(
    ("seconds", "number"), [(1.0, 12), (0.1, 18), (0.001, 126), (0.0, 126), (1e9, 12)]
)
def test_the_number_of_rounds_follows_from_the_time_within_bounds(seconds, number):
    assert rounds(seconds, 2.0) == number


def arm(name, own, wall=None, calls=1):
    return Arm(name, calls, tuple(own), tuple(wall or own))


def test_a_ratio_compares_single_calls():
    found = compared(arm("mine", [300] * 20, calls=3), arm("torch", [400] * 20, calls=2), "cpu")
    assert (found.own.ratio, found.verdict) == (pytest.approx(0.5), "faster")


def test_a_drift_of_both_arms_cancels():
    drift = [1000 * (1 + i) for i in range(64)]
    found = compared(arm("mine", [2 * t for t in drift]), arm("torch", drift), "cpu")
    assert (found.own.low, found.own.high) == (pytest.approx(2), pytest.approx(2))


def test_waiting_work_is_suspicious():
    found = compared(arm("mine", [500] * 20, [9000] * 20), arm("torch", [1000] * 20), "cpu")
    assert (found.verdict, found.own.ratio) == ("suspicious", pytest.approx(0.5))
    want = "0.5 times as long as the baseline by the cpu clock, but 9 times by the wall clock"
    assert want in found.reason


def test_waiting_caused_by_a_busy_machine_is_not_suspicious():
    wall = [100, 300] * 5 + [300, 300]  # the median is three times that of torch, by chance
    found = compared(arm(MINE, [100] * 12, wall), arm("torch", [100] * 12), "cpu")
    assert (found.wall.ratio, found.wall.low) == (pytest.approx(3), pytest.approx(1))
    assert (found.verdict, found.reason) == ("same", None)


def test_work_on_another_stream_is_suspicious():
    found = compared(arm("mine", [100] * 20, [1100] * 20), arm("torch", [900] * 20), "device")
    assert found.verdict == "suspicious"


def test_parallel_work_is_judged_on_the_wall_clock():
    found = compared(arm("mine", [2000] * 20, [500] * 20), arm("torch", [1000] * 20), "cpu")
    assert (found.clock, found.verdict) == ("wall", "faster")
    assert found.own.ratio == pytest.approx(2)


def test_an_implausible_ratio_is_suspicious_only_against_torch():
    mine, times = arm("mine", [90] * 20), [1000] * 20
    assert compared(mine, arm("torch", times), "cpu").verdict == "suspicious"
    assert compared(mine, arm("composite", times), "cpu").verdict == "faster"


def test_throttled_rounds_are_dropped_from_every_arm():
    arms = [arm("mine", [1, 2, 3, 4]), arm("torch", [5, 6, 7, 8])]
    (mine, base), dropped = kept(arms, [1000.0, 740.0, 760.0, None])
    assert (mine.own, base.wall, dropped) == ((1, 3, 4), (5, 7, 8), 1)
    assert kept(arms, [None] * 4) == (arms, 0)


def test_arms_with_unequal_readings_are_refused():
    with pytest.raises(ReportError, match="as many readings"):
        arm("mine", [1, 2], [1])


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_a_power_is_fitted_and_extrapolated(power):
    grown = [10, 20, 40, 80]
    amounts = [3 * size**power for size in grown]
    assert exponent(grown, amounts) == pytest.approx(power)
    assert foreseen(grown, amounts, 800) == pytest.approx(3 * 800**power)


def test_a_single_point_is_extrapolated_in_proportion():
    assert foreseen([10], [3.0], 800) == pytest.approx(240)


def test_two_points_give_no_power():
    assert exponent([1, 2], [1, 2]) is None
    assert exponent([1, 2, 3], [1, 0, 3]) is None


@pytest.mark.parametrize(
    "text", ["slower", "slower:", "slower:0.9", "faster:2", "1.5", "slower:inf"]
)
def test_an_invalid_limit_is_refused(text):
    assert limit("slower:1.5") == 1.5
    with pytest.raises(ValueError, match="--timing-fail takes slower:RATIO"):
        limit(text)


# === workloads =============================================================================


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # kl_div warns about its mean
@pytest.mark.parametrize("loss", catalogue().values(), ids=lambda loss: loss.name)
def test_every_loss_has_workloads_that_torch_accepts(loss: Loss):
    under_test = torch_counterpart(loss, "function") or torch_counterpart(loss, "class")
    assert {"small", "cache", "large"} <= {size.name for size in sizes(loss, "cpu")}
    for size in sizes(loss, "cpu")[:2]:
        case = workload(loss, axes(loss, size), "float32", 0)
        timing = PairedTiming({MINE: under_test, TORCH: under_test}, case, "full", "cpu", Ticks())
        timing.before()
        timing.during()
        timing.after()
        assert timing.problem() is None
        assert case.requires_grad
        # Scores computed by a layer count as elements, although no argument holds them.
        elements = next(iter(case.tensors.values())).size
        assert size.elements // (2 * size.inner) < elements <= size.elements
    assert batch_axis(loss) in axes(loss, size)


def test_only_losses_with_classes_have_a_vocabulary_size():
    with_classes = {name for name, loss in catalogue().items() if has_classes(loss)}
    assert {"cross_entropy", "nll_loss", "linear_cross_entropy"} <= with_classes
    assert not {"mse_loss", "multilabel_soft_margin_loss", "kl_div"} & with_classes
    (size,) = [s for s in sizes(find("nll_loss"), "cpu") if s.name == "vocabulary"]
    assert axes(find("nll_loss"), size) == {"N": 64, "C": 32768}


def test_a_workload_is_the_same_for_the_same_seed():
    loss = find("cross_entropy")
    known = axes(loss, Size("any", 600, 5, None, ""))
    first, again, other = (workload(loss, known, "float32", seed) for seed in (0, 0, 1))
    assert known == {"N": 120, "C": 5}
    assert first.to_json() == again.to_json() != other.to_json()
    assert first.requires_grad == ("input",)


def test_the_number_of_classes_grows_to_a_large_vocabulary():
    timed_loss = timed_loss_of("cross_entropy", functional.cross_entropy)
    assert growing(timed_loss) == ["N", "C"]
    assert [size for size, _ in points(timed_loss, "C")][-1] == 2**17
    assert len({known["N"] for _, known in points(timed_loss, "C")}) == 1


# === paired timing =========================================================================


class Ticks:
    """A simulated clock: each call takes one million ns, or the time that it states."""

    own = "cpu"

    def __init__(self, rates=()):
        self.rates = list(rates)
        self.order = []

    def measure(self, steps):
        results = [step() for step in steps]
        self.order.append(len(steps))
        return 10**6 * len(steps), 10**6 * len(steps), results

    def rate(self):
        return self.rates.pop(0) if self.rates else None


def timed_loss_of(name, function):
    implementation = Implementation("mine", functions={name: function})
    (under_test,) = implementation.losses_under_test(find(name))
    return TimedLoss(implementation, under_test, "cpu", "float32")


def paired_timing(*functions, mode="full", loss="mse_loss"):
    spec = find(loss)
    case = workload(spec, axes(spec, sizes(spec, "cpu")[0]), "float32", 0)
    names = (MINE, TORCH, TEXTBOOK)
    arms = {
        name: LossUnderTest(name, spec, "function", function)
        for name, function in zip(names, functions, strict=False)
    }
    return PairedTiming(arms, case, mode, "cpu", Ticks())


def test_the_arms_run_in_every_order():
    called = []

    def named(name):
        def mse_loss(*tensors, **parameters):
            called.append(name)
            return functional.mse_loss(*tensors, **parameters)

        return mse_loss

    made = paired_timing(named("a"), named("b"), named("c"))
    assert made.calls == 1
    made.rounds = 6
    called.clear()
    made.run()
    orders = {"".join(called[i : i + 3]) for i in range(0, 18, 3)}
    assert orders == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert [len(arm.own) for arm in made.readings()] == [6, 6, 6]


def test_every_call_gets_fresh_inputs_and_no_old_gradient():
    seen = []

    def greedy(input, target, reduction="mean"):
        seen.append((float(input.detach().sum()), input.grad))
        value = functional.mse_loss(input, target, reduction=reduction)
        with torch.no_grad():
            target += 1
        return value

    made = paired_timing(greedy, functional.mse_loss, mode="infer")
    made.run()
    assert len(set(seen)) == 1
    assert "changed their inputs" in problem_of(made)


def problem_of(made):
    made.before()
    made.during()
    return made.problem()


def test_a_timed_call_with_another_value_is_found():
    made = paired_timing(
        lambda x, y, reduction="mean": 1.1 * functional.mse_loss(x, y), functional.mse_loss
    )
    made.run()
    assert made.problem() == "at this size, the value differs from that of torch"


def test_a_timed_call_with_another_gradient_is_found():
    def mse_loss(x, y, reduction="mean"):
        right = functional.mse_loss(x, y)
        return 2 * right - right.detach()

    made = paired_timing(mse_loss, functional.mse_loss)
    made.run()
    assert made.problem() == "at this size, the gradient differs from that of torch"


@pytest.mark.parametrize(("mode", "learns"), [("infer", False), ("forward", True), ("full", True)])
def test_a_mode_determines_whether_gradients_are_recorded(mode, learns):
    recorded = []

    def mse_loss(x, y, reduction="mean"):
        value = functional.mse_loss(x, y)
        recorded.append((torch.is_grad_enabled(), value.requires_grad, x.grad is not None))
        return value

    made = paired_timing(mse_loss, functional.mse_loss, mode=mode)
    made.run()
    assert set(recorded) == {(learns, learns, False)}
    assert mode in MODES


def test_the_garbage_collector_is_off_for_every_arm():
    states = []

    def mse_loss(x, y, reduction="mean"):
        states.append(gc.isenabled())
        return functional.mse_loss(x, y)

    made = paired_timing(mse_loss, mse_loss)
    states.clear()
    made.run()
    assert set(states) == {False}
    assert gc.isenabled()


def test_the_arguments_of_a_call_are_made_outside_the_timing():
    made = paired_timing(functional.ctc_loss, functional.ctc_loss, loss="ctc_loss")
    log_probs = made.inputs[0].given["log_probs"]
    assert log_probs.is_leaf
    assert log_probs.exp().sum(-1).detach() == pytest.approx(torch.ones(4, 8))


def test_the_host_clock_reads_both_clocks():
    own, wall, results = HostClock().measure([lambda: 1, lambda: 2])
    assert (own >= 0, wall > 0, results) == (True, True, [1, 2])


class Device:
    """A stand-in for torch.cuda: a call takes its stated time, part of it on another stream."""

    def __init__(self, rate=1500):
        self.log = []
        self.elapsed = 2.0
        self.mhz = rate

    def Event(self, enable_timing):
        return SimpleNamespace(
            record=lambda: self.log.append("record"),
            synchronize=lambda: self.log.append("event"),
            elapsed_time=lambda end: self.elapsed,
        )

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=64)

    def synchronize(self, device):
        self.log.append("device")

    def _sleep(self, cycles):
        self.log.append("spin")

    def clock_rate(self, device):
        if self.mhz is None:
            raise ModuleNotFoundError("pynvml")
        return self.mhz


def test_the_device_clock_flushes_times_and_waits_for_all_streams():
    device = Device()
    clock = CudaClock("cpu", device)
    clock.flushed.fill_(1)
    own, wall, results = clock.measure([lambda: device.log.append("call") or 7])
    assert device.log == ["device", "spin", "record", "call", "record", "event", "device"]
    assert (own, results, wall >= own) == (2_000_000, [7], True)
    assert clock.flushed.numel() == 128
    assert not clock.flushed.any()
    assert clock.rate() == 1500
    assert CudaClock("cpu", Device(None)).rate() is None


# === memory and size =======================================================================


def test_the_peak_is_the_memory_in_use_and_reproducible():
    def work():
        first = torch.empty(1000)
        del first
        return torch.empty(600), torch.empty(600)

    assert {peak(work, "cpu") for _ in range(3)} == {4800}


def test_cross_entropy_holds_three_times_its_input():
    # the log-softmax, its gradient, and the gradient of the input
    loss = find("cross_entropy")
    case = workload(loss, {"N": 64, "C": 1000}, "float32", 0)
    top, size = weighed(torch_counterpart(loss, "function"), case, "cpu")
    assert size == 64 * 1000 * 4 + 64 * 8
    assert 2.9 < top / size < 3.1


def test_a_need_is_compared_with_the_limits_of_memory_and_time():
    assert excess(Need(1, 0.1), "cpu", 0.25) == pytest.approx(0.4)
    assert excess(Need(1e18, 0.1), "cpu") > 1


def test_a_batch_is_halved_until_it_fits_the_limits():
    loss = find("mse_loss")
    under_test = torch_counterpart(loss, "function")
    assert fitted([under_test], {"d1": 4096}, "d1", "float32", "cpu", Ticks()) == {"d1": 4096}

    class Slow(Ticks):
        def measure(self, steps):
            return 10**9, 10**9, [step() for step in steps]

    assert fitted([under_test], {"d1": 4096}, "d1", "float32", "cpu", Slow()) == {"d1": 256}
    with pytest.raises(TooLarge, match="not run: a call needs about"):
        fitted([under_test], {"d1": 2}, "d1", "float32", "cpu", Slow())


@pytest.mark.parametrize(
    ("got", "want", "same"),
    [
        ([1.0, 2.0], [1.0, 2.001], True),
        ([1.0, 2.0], [1.0, 2.5], False),
        ([math.nan, 1.0], [math.nan, 1.0], True),
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_results_are_compared_as_whole_tensors(got, want, same):
    assert alike([torch.tensor(got)], [torch.tensor(want)]) is same


# === timing cells ==========================================================================


def timing_run():
    made = TimingRun(budget=0.0)
    made._clocks["cpu"] = Ticks()
    return made


def run(function, name="mse_loss", mode="full"):
    timed_loss = timed_loss_of(name, function)
    size = Size("small", 128, 4, None, "")
    return timing_run().run(TimingCell(timed_loss, size, mode))


def test_a_loss_that_conforms_is_timed_against_torch_and_the_textbook():
    cell = run(functional.mse_loss)
    assert (cell.verdict, cell.reason) == ("same", None)
    assert cell.id == "mse_loss/small/full[function-cpu-float32]"
    assert [found.baseline for found in cell.comparisons] == ["torch", "composite"]
    assert [len(arm.own) for arm in cell.arms] == [12, 12, 12]
    assert [peak.arm for peak in cell.peaks] == [MINE, TORCH, TEXTBOOK]
    assert cell.peaks[0].ratio == cell.peaks[1].ratio > 0


def test_a_loss_that_deviates_is_not_timed():
    cell = run(lambda x, y, reduction="mean": functional.l1_loss(x, y, reduction=reduction))
    assert cell.verdict == "not-timed"
    assert cell.reason.startswith("value: deviates")
    assert cell.arms == ()


def test_a_loss_that_fails_during_timing_is_not_timed():
    def mse_loss(input, target, reduction="mean"):
        if input.numel() == 128:
            raise RuntimeError("no kernel for this size")
        return functional.mse_loss(input, target, reduction=reduction)

    cell = run(mse_loss)
    assert (cell.verdict, cell.reason) == ("not-timed", "RuntimeError: “no kernel for this size”")


def test_growth_ends_at_the_largest_size_that_works():
    def mse_loss(input, target, reduction="mean"):
        if input.numel() > 2**15:
            raise MemoryError("enough")
        return functional.mse_loss(input, target, reduction=reduction)

    mine, torchs = timing_run().grow(timed_loss_of("mse_loss", mse_loss), "N")
    assert (mine.arm, mine.sizes) == (MINE, (4096, 16384))
    assert mine.reason == "at size 65536: MemoryError: “enough”"
    assert (torchs.arm, torchs.reason, len(torchs.sizes)) == (TORCH, None, 5)
    assert torchs.memory_power == pytest.approx(1, abs=0.01)


# === the artifact and its page =============================================================


@pytest.fixture(scope="module")
def report():
    curve = timing_run().grow(timed_loss_of("mse_loss", functional.mse_loss), "N")
    slow = run(functional.mse_loss)
    slow = replace(
        slow,
        comparisons=(
            replace(slow.comparisons[0], own=Interval(1.6, 1.55, math.inf), verdict="slower"),
            *slow.comparisons[1:],
        ),
        verdict="slower",
    )
    cells = [slow, run(functional.l1_loss, mode="infer")]
    return TimingReport(
        implementation=SAMPLE.implementation,
        environment=SAMPLE.environment,
        seed=0,
        rules={"confidence": 0.99, "band": 1.05, "incredible": 10, "disagree": 2},
        load=(0.5, 0.25, 1),
        cells=cells,
        growth=curve,
    )


def test_an_artifact_survives_a_round_trip_and_fits_its_schema(report):
    text = report.to_json()
    assert TimingReport.from_json(text) == report
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    schema.check_schema(schema.schema)
    schema.validate(json.loads(text))
    assert report.headline == "2 cells against torch: 1 slower, 1 not-timed"


EQUAL = compared(*(Arm(name, 1, [1] * 12, [1] * 12) for name in (MINE, TORCH)), "cpu")


def told_of(report, *intervals) -> str:
    """Return the headline of a run with these intervals."""
    cell, cells = report.cells[1], []
    for place, ends in enumerate(intervals):
        measured = Interval(1.0, *ends)
        found = replace(EQUAL, own=measured, verdict=speed(measured))
        loss, size = cell.loss, f"size {place}"
        name = timing_id(loss, size, cell.mode, cell.surface, cell.device, cell.dtype)
        more = {"id": name, "size": size, "comparisons": (found,), "reason": None}
        cells.append(replace(cell, verdict=found.verdict, **more))
    return replace(report, cells=cells).headline


def test_the_headline_bounds_the_difference_of_unclear_cells(report):
    same, around, wide, above = (0.99, 1.01), (0.96, 1.06), (0.9, 1.5), (1.01, 1.2)
    told = told_of(report, same, around, wide, above)
    want = "1 same, 1 unclear, 2 with no difference above 6.0 % to 50 %"
    assert told == f"4 cells against torch: {want}"
    assert told_of(report, around) == "1 cell against torch: 1 with no difference above 6.0 %"
    assert told_of(report, above) == "1 cell against torch: 1 unclear"
    assert told_of(report, (0.0, math.inf)) == "1 cell against torch: 1 unclear"


def test_the_page_bounds_the_difference_of_an_unclear_cell(report):
    found = replace(EQUAL, own=Interval(1.0, 0.96, 1.06), verdict="unclear")
    timed, other = report.cells
    cell = replace(other, verdict="unclear", comparisons=(found,), arms=timed.arms, reason=None)
    assert "no difference above 6.0 %" in page(replace(report, cells=(cell,)))


def test_verdicts_can_be_computed_again_from_the_readings(report):
    for cell in TimingReport.from_json(report.to_json()).cells:
        for found, baseline in zip(cell.comparisons[1:], cell.arms[2:], strict=True):
            assert compared(cell.arms[0], baseline, found.clock) == found


def test_a_limit_holds_for_the_whole_interval(report):
    slow = report.cells[0]
    assert beyond(slow, 1.5) is slow.comparisons[0]
    assert beyond(slow, 1.55) is None


def test_a_timing_cell_with_another_id_is_refused(report):
    with pytest.raises(ReportError, match="want 'mse_loss/small/full"):
        replace(report.cells[0], id="mse_loss")
    with pytest.raises(ReportError, match="same cell twice"):
        replace(report, cells=(report.cells[0], report.cells[0]))


def test_the_page_is_self_contained_and_shows_every_verdict(report):
    html = page(report)
    links = [a.get("href") or a.get("src") for _, a in Page(html).elements]
    assert [link for link in links if link and not link.startswith("#")] == []
    assert "<script" not in html
    for text in ("slower", "not-timed", "power 1.00", "polyline", "1.55 to ∞"):
        assert text in html
    assert page(TimingReport.from_json(report.to_json())) == html


@pytest.mark.parametrize("word", SPEEDS)
def test_the_guide_explains_every_verdict(word):
    assert f"| {word} | " in (ROOT / "docs" / "timing.md").read_text("utf-8")


def test_the_name_of_an_implementation_is_escaped(report):
    odd = replace(report, implementation=replace(report.implementation, name="<b>&"))
    assert "<b>&" not in page(odd).replace("<b>Time", "").replace("<b>Peak", "")


def test_a_curve_of_one_point_is_described_in_words(report):
    curve = replace(report.growth[0], sizes=(4096,), seconds=(1.0,), bytes=(1,), reason="enough")
    assert isinstance(curve, Growth)
    html = page(replace(report, growth=(curve,)))
    assert "polyline class" not in html
    assert "implementation: enough" in html
