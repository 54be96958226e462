"""The stopwatch: calls of several arms, timed in turn on the same fresh inputs; their memory."""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from lossspec.cases import Case
from lossspec.implementations import Subject
from lossspec.outcome import arguments, constructed, handed, lacking
from lossspec.spec import Loss
from lossspec.timing import Arm, Mode, foreseen, rounds
from lossspec.workload import workload

Step = Callable[[], Any]
Own = Literal["cpu", "device", "wall"]

#: A block of calls is no shorter, so that reading the clock does not count; in seconds.
BLOCK = 1e-3
#: Nor is the slowest arm's block longer, unless a single call is.
LONGEST = 20e-3
#: A call that takes longer, in seconds, or more of the free memory, is not made at all.
PATIENCE = 0.1
SHARE = 0.4
#: Results that differ by more, of their length, are not those of one loss.
SAME_RESULT = 2.0**-4


class TooLarge(Exception):
    """A call that this machine has not the memory or the patience for; says what it would take."""


# === clocks ===============================================================================


class Clock(Protocol):
    """What times a block of calls. own : what its first reading counts."""

    own: Own

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """Nanoseconds on the own clock and on the wall, and what the calls returned."""

    def rate(self) -> float | None:
        """The device's present clock rate, None where it cannot be read."""


class HostClock:
    """The CPU time of this process beside the time on the wall."""

    own: Own = "cpu"

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """All calls in a row."""
        wall, own = time.perf_counter_ns(), time.process_time_ns()
        results = [step() for step in steps]
        own = time.process_time_ns() - own
        return own, time.perf_counter_ns() - wall, results

    def rate(self) -> float | None:
        """Of no use: CPU time does not tell of a slower clock, but both arms of a pair share it."""
        return None


class WaitingClock:
    """The wall, for a device without events: until the device has nothing left to do."""

    own: Own = "wall"

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """All calls in a row, and what they left to do."""
        self.synchronize()
        wall = time.perf_counter_ns()
        results = [step() for step in steps]
        self.synchronize()
        wall = time.perf_counter_ns() - wall
        return wall, wall, results

    def rate(self) -> float | None:
        """Not known in general."""
        return None


class CudaClock:
    """CUDA events around each call, with the L2 cache flushed before it.

    The wall reading adds what the device still had to do when the second event was over: work on
    another stream, which the events do not see. cuda : torch's module, or a stand-in.
    """

    own: Own = "device"
    #: Cycles for which the device is kept busy, so that launching does not count.
    spin = 100_000

    def __init__(self, device: str, cuda: Any = torch.cuda) -> None:
        self.device = device
        self.cuda = cuda
        cache = cuda.get_device_properties(device).L2_cache_size
        self.flushed = torch.empty(max(2 * cache, 1), dtype=torch.int8, device=device)

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """Each call by itself."""
        own = hidden = 0
        results = []
        for step in steps:
            start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
            self.flushed.zero_()
            self.cuda.synchronize(self.device)
            self.cuda._sleep(self.spin)
            start.record()
            results.append(step())
            end.record()
            end.synchronize()
            seen = time.perf_counter_ns()
            self.cuda.synchronize(self.device)
            hidden += time.perf_counter_ns() - seen
            own += round(1e6 * start.elapsed_time(end))
        return own, own + hidden, results

    def rate(self) -> float | None:
        """In MHz, where the driver's library is installed."""
        try:
            return float(self.cuda.clock_rate(self.device))
        except (ImportError, RuntimeError):
            return None


def clock_of(device: str) -> Clock:
    """The clock for a device."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return HostClock()
    if kind == "cuda":
        return CudaClock(device)
    return WaitingClock(lambda: torch.accelerator.synchronize(device))


# === calls ================================================================================


class Inputs:
    """The tensors of one call, which every arm is handed in turn, and how to make them fresh."""

    def __init__(self, loss: Loss, case: Case, device: str, subject: Subject) -> None:
        self.case = case
        self.tensors = arguments(subject, case, device)
        self.given = {
            # What is computed on the way to the call (a log-softmax, say) is no part of it.
            name: value
            if value is self.tensors[name]
            else value.detach().requires_grad_(value.requires_grad)
            for name, value in handed(subject, case, self.tensors).items()
        }
        plain = [t for t in self.given.values() if isinstance(t, torch.Tensor)]
        self._masters = [(tensor, tensor.detach().clone()) for tensor in plain]
        self._leaves: list[torch.Tensor] = list(plain)
        self.bytes = sum(tensor.nbytes for tensor in plain)

    def call(self, subject: Subject) -> Step:
        """The subject's call on these tensors, constructed."""
        given = dict(self.given)
        made = constructed(subject, self.case, given, {})
        # A class keeps some of them as its parameters, in the same memory.
        self._leaves += [
            t for name, t in given.items() if t is not self.given[name] and hasattr(t, "grad")
        ]
        return lambda: made(given)

    def refill(self) -> None:
        """As they were: the same numbers in the same place, and no gradient."""
        with torch.no_grad():
            for tensor, master in self._masters:
                tensor.copy_(master)
        for leaf in self._leaves:
            leaf.grad = None

    def gradients(self) -> list[torch.Tensor]:
        """What backward left, in the order of the call."""
        return [leaf.grad.detach().clone() for leaf in self._leaves if leaf.grad is not None]

    def untouched(self) -> bool:
        """Whether they hold what they were filled with; nan equals itself."""
        return all(
            torch.equal(tensor.detach().nan_to_num(), master.nan_to_num())
            for tensor, master in self._masters
        )


def step(call: Step, mode: Mode) -> Step:
    """One step of a mode; the gradient that a backward starts from is made beforehand."""
    if mode != "full":
        return call
    upstream = torch.ones_like(call())

    def full() -> Any:
        value = call()
        value.backward(upstream)
        return value

    return full


# === paired timing ========================================================================


class Contest:
    """The arms of one cell, timed in turn: the first one is judged against each of the others.

    A round is `before`, `during`, `after`. The rounds go through all orders of the arms (ABBA, for
    two), so that neither a drift of the machine nor what another arm leaves in the caches favours
    one. Each block gets fresh inputs in the same memory; what the other arms returned stays alive
    meanwhile, so that no memory which they freed holds the answer. budget : seconds.
    """

    def __init__(
        self,
        arms: Mapping[str, Subject],
        case: Case,
        mode: Mode,
        device: str,
        clock: Clock | None = None,
        budget: float = 0.4,
    ) -> None:
        self.arms = dict(arms)
        self.mode: Mode = mode
        self.clock = clock or clock_of(device)
        self.first, *self.baselines = self.arms
        self._orders = list(permutations(self.arms))
        self.rates: list[float | None] = []
        self.round = 0
        self._readings: dict[str, list[tuple[int, int]]] = {name: [] for name in self.arms}
        self._results: dict[str, list[Any]] = {}
        self._steps: dict[str, list[Step]] = {name: [] for name in self.arms}
        self.inputs: list[Inputs] = []
        self._case, self._device = case, device
        self._add_inputs()
        self._calibrate(budget)

    def _add_inputs(self) -> None:
        some = next(iter(self.arms.values()))
        inputs = Inputs(some.loss, self._case, self._device, some)
        self.inputs.append(inputs)
        for name, subject in self.arms.items():
            inputs.refill()
            with torch.set_grad_enabled(self.mode != "infer"):
                self._steps[name].append(step(inputs.call(subject), self.mode))

    def _calibrate(self, budget: float) -> None:
        """How many calls make a block, and how many rounds fit the budget in seconds."""
        taken = {}
        for name in self.arms:
            walls = []
            for _ in range(3):  # the first one warms up
                self._prepare()
                walls.append(self._block(name)[1] / 1e9)
            taken[name] = min(walls[1:])
        fastest, slowest = min(taken.values()), max(taken.values())
        wanted = math.ceil(BLOCK / max(fastest, 1e-7))
        self.calls = max(1, min(wanted, int(LONGEST / max(slowest, 1e-7)), 1000))
        while len(self.inputs) < self.calls + (self.calls > 1):
            self._add_inputs()
        start = time.perf_counter()
        for name in self.arms:
            self._prepare()
            self._block(name)
        self.rounds = rounds(time.perf_counter() - start, budget)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Without the garbage collector, for every arm alike."""
        gc.collect()
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()

    def before(self) -> None:
        """The baselines in front; then everything is ready for the judged arm."""
        for name in self._turn(front=True):
            self._take(name)
        self._results.pop(self.first, None)
        self._prepare()

    def during(self) -> None:
        """The judged arm's block."""
        self._readings[self.first].append(self._block(self.first))

    def after(self) -> None:
        """The baselines behind."""
        for name in self._turn(front=False):
            self._take(name)
        self.rates.append(self.clock.rate())
        self.round += 1

    def run(self) -> None:
        """All rounds."""
        with self.quiet():
            for _ in range(self.rounds):
                self.before()
                self.during()
                self.after()

    def readings(self) -> list[Arm]:
        """What was read so far, the judged arm first."""
        return [
            Arm(name, self.calls, [own for own, _ in pairs], [wall for _, wall in pairs])  # type: ignore[arg-type]  # the record makes tuples
            for name, pairs in self._readings.items()
        ]

    def problem(self) -> str | None:
        """Why the timed calls cannot have been the same work as torch's, if so."""
        for inputs in self.inputs:
            if not inputs.untouched():
                return "after the timed calls the inputs were no longer what they had been"
        mine, base = (self._results[name][-1] for name in (self.first, self.baselines[0]))
        if not alike([mine], [base]):
            return f"the timed call returned another value than {self.baselines[0]} at this size"
        if self.mode == "full" and not alike(*(self._gradients(n) for n in self._two)):
            return f"the gradient is another one than that of {self.baselines[0]} at this size"
        return None

    @property
    def _two(self) -> tuple[str, str]:
        return self.first, self.baselines[0]

    def _gradients(self, name: str) -> list[torch.Tensor]:
        self._prepare()
        self._steps[name][0]()
        return self.inputs[0].gradients()

    def _turn(self, *, front: bool) -> tuple[str, ...]:
        order = self._orders[self.round % len(self._orders)]
        place = order.index(self.first)
        return order[:place] if front else order[place + 1 :]

    def _take(self, name: str) -> None:
        self._results.pop(name, None)
        self._prepare()
        self._readings[name].append(self._block(name))

    def _prepare(self) -> None:
        for inputs in self.inputs:
            inputs.refill()

    def _block(self, name: str) -> tuple[int, int]:
        # A debugger or a coverage tool must not slow down one arm only.
        tracer = sys.gettrace()
        sys.settrace(None)
        steps = self._steps[name]
        try:
            with torch.set_grad_enabled(self.mode != "infer"):
                if len(steps) > 1:  # short calls feel what another arm left in the caches
                    steps[-1]()
                    steps = steps[:-1]
                own, wall, self._results[name] = self.clock.measure(steps)
        finally:
            sys.settrace(tracer)
        return own, wall


def alike(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> bool:
    """Whether tensors are the same but for what rounding and summing may do at any size."""
    if len(got) != len(want):
        return False
    for x, y in zip(got, want, strict=True):
        if x.shape != y.shape:
            return False
        x, y = x.detach().double().nan_to_num(), y.detach().double().nan_to_num()
        if float((x - y).norm()) > SAME_RESULT * float(y.norm()):
            return False
    return True


# === memory ===============================================================================


def peak(work: Step, device: str) -> int:
    """The most bytes on a device that a piece of work held at once, beyond what was there before.

    From torch's profiler, which sees every allocation; the same on every run.
    """
    # Its library tells of every start and stop on the screen otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    kind = device.partition(":")[0]
    activities = [torch.profiler.ProfilerActivity.CPU]
    if kind == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as seen:
        kept = [work()]  # what it returns is alive until here, and counts
    kept.clear()
    recorded: Any = seen.profiler
    events = [
        event
        for event in recorded.kineto_results.events()
        if event.name() == "[memory]" and event.device_type().name.lower() == kind
    ]
    held = top = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        top = max(top, held)
    return top


def weighed(subject: Subject, case: Case, device: str) -> tuple[int, int]:
    """The peak of a full step, and the bytes of its inputs."""
    inputs = Inputs(subject.loss, case, device, subject)
    work = step(inputs.call(subject), "full")
    inputs.refill()
    work()  # what it builds once is no part of a step
    inputs.refill()
    return peak(work, device), inputs.bytes


def clocked(subject: Subject, case: Case, device: str, clock: Clock, times: int = 3) -> float:
    """The median seconds of a few full steps, on the clock's own reading."""
    inputs = Inputs(subject.loss, case, device, subject)
    work = step(inputs.call(subject), "full")
    taken = []
    for _ in range(times + 1):
        inputs.refill()
        taken.append(clock.measure([work])[0] / 1e9)
    return sorted(taken[1:])[times // 2]


def free_memory(device: str) -> int:
    """Bytes that a device, or the machine, has to spare."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Need:
    """What a full step is expected to take: bytes beyond its inputs, and seconds."""

    bytes: float
    seconds: float


def need(subject: Subject, axes: Mapping[str, int], dtype: str, device: str, clock: Clock) -> Need:
    """What a step at these sizes will take, going by smaller ones.

    They grow up to half, or until a step takes too long: going far on from short steps, in which
    the cost of a call still counts, would foresee too little. TooLarge where the subject lacks what
    the call passes.
    """
    sizes: list[float] = []
    bytes_: list[float] = []
    taken: list[float] = []
    for scale in (32, 16, 8, 4, 2):
        small = {axis: max(1, size // scale) for axis, size in axes.items()}
        case = workload(subject.loss, small, dtype, 0)
        missing = lacking(subject, case)
        if missing is not None:
            raise TooLarge(f"it takes no {missing}")
        sizes.append(1 / scale)
        bytes_.append(weighed(subject, case, device)[0])
        taken.append(1e9 * clocked(subject, case, device, clock))
        if len(sizes) > 1 and (
            taken[-1] > 1e9 * PATIENCE
            or foreseen(sizes, bytes_, 2 / scale) > SHARE * free_memory(device)
        ):
            break
    return Need(foreseen(sizes, bytes_, 1.0), foreseen(sizes, taken, 1.0) / 1e9)


def excess(needed: Need, device: str, patience: float = PATIENCE) -> float:
    """How many times over a need is what the device has to spare; at most 1 will do."""
    return max(needed.bytes / (SHARE * free_memory(device)), needed.seconds / patience)


def too_large(needed: Need) -> TooLarge:
    """The error that says what is needed."""
    return TooLarge(
        f"not run: a call needs about {needed.bytes / 2**30:.2g} GiB and {needed.seconds:.2g} s"
    )


def fitted(
    subjects: Sequence[Subject],
    axes: Mapping[str, int],
    batch: str,
    dtype: str,
    device: str,
    clock: Clock,
) -> dict[str, int]:
    """The sizes with the batch halved as often as it takes for every subject to be affordable.

    TooLarge where that leaves less than one sample.
    """
    found = dict(axes)
    for subject in subjects:
        needed = need(subject, axes, dtype, device, clock)
        halvings = max(0, math.ceil(math.log2(max(excess(needed, device), 1e-9))))
        if axes[batch] >> halvings < 1:
            raise too_large(needed)
        found[batch] = min(found[batch], axes[batch] >> halvings)
    return found
