"""Paired timing: calls of several implementations in alternation, on the same inputs."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import permutations
from typing import Any

import torch

from lossspec.cases.case import Case
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.inputs import Inputs, Step, step
from lossspec.thresholds import BLOCK_SECONDS, LONGEST_BLOCK_SECONDS, SAME_RESULT
from lossspec.timing.clocks import Clock, clock_of
from lossspec.timing.results import Arm, Mode
from lossspec.timing.statistics import rounds


class PairedTiming:
    """The alternating timing of the arms of one cell; the first arm is compared with the others.

    A round consists of `before`, `during` and `after`. The rounds use all orders of the arms (ABBA
    for two arms). So neither a drift of the machine nor the state of the caches favours an arm.
    Before each block the inputs are written into the same memory again. The results of the other
    arms stay alive, so that an arm cannot read their values from memory that they freed.

    Args:
        arms: The implementations by the name of the arm.
        case: The call.
        mode: What a call includes, one of `MODES`.
        device: The device.
        clock: The clock of the device; chosen for the device by default.
        budget: The time for all rounds, in seconds.
    """

    def __init__(
        self,
        arms: Mapping[str, LossUnderTest],
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
        inputs = Inputs(some, self._case, self._device)
        self.inputs.append(inputs)
        for name, under_test in self.arms.items():
            inputs.refill()
            with torch.set_grad_enabled(self.mode != "infer"):
                self._steps[name].append(step(inputs.call(under_test), self.mode))

    def _calibrate(self, budget: float) -> None:
        """Set the number of calls in a block, and the number of rounds that fit the budget."""
        taken = {}
        for name in self.arms:
            walls = []
            for _ in range(3):  # the first block warms up
                self._prepare()
                walls.append(self._block(name)[1] / 1e9)
            taken[name] = min(walls[1:])
        fastest, slowest = min(taken.values()), max(taken.values())
        wanted = math.ceil(BLOCK_SECONDS / max(fastest, 1e-7))
        self.calls = max(1, min(wanted, int(LONGEST_BLOCK_SECONDS / max(slowest, 1e-7)), 1000))
        while len(self.inputs) < self.calls + (self.calls > 1):
            self._add_inputs()
        start = time.perf_counter()
        for name in self.arms:
            self._prepare()
            self._block(name)
        self.rounds = rounds(time.perf_counter() - start, budget)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Disable the garbage collector, so that its runs are not counted for any arm."""
        gc.collect()
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()

    def before(self) -> None:
        """Time the baselines that precede the judged arm in this round, and prepare that arm."""
        for name in self._turn(front=True):
            self._take(name)
        self._results.pop(self.first, None)
        self._prepare()

    def during(self) -> None:
        """Time a block of the judged arm."""
        self._readings[self.first].append(self._block(self.first))

    def after(self) -> None:
        """Time the baselines that follow the judged arm in this round, and end the round."""
        for name in self._turn(front=False):
            self._take(name)
        self.rates.append(self.clock.rate())
        self.round += 1

    def run(self) -> None:
        """Run all rounds."""
        with self.quiet():
            for _ in range(self.rounds):
                self.before()
                self.during()
                self.after()

    def readings(self) -> list[Arm]:
        """Return the readings of each arm so far, the judged arm first."""
        return [
            Arm(name, self.calls, [own for own, _ in pairs], [wall for _, wall in pairs])  # type: ignore[arg-type]  # the record makes tuples
            for name, pairs in self._readings.items()
        ]

    def problem(self) -> str | None:
        """Return why the timed calls did not do the same work as torch's; None if they did."""
        for inputs in self.inputs:
            if not inputs.untouched():
                return "the timed calls changed their inputs"
        mine, base = (self._results[name][-1] for name in (self.first, self.baselines[0]))
        if not alike([mine], [base]):
            return f"at this size, the value differs from that of {self.baselines[0]}"
        if self.mode == "full" and not alike(*(self._gradients(n) for n in self._two)):
            return f"at this size, the gradient differs from that of {self.baselines[0]}"
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
                if len(steps) > 1:  # the caches left by another arm would affect a short call
                    steps[-1]()
                    steps = steps[:-1]
                own, wall, self._results[name] = self.clock.measure(steps)
        finally:
            sys.settrace(tracer)
        return own, wall


def alike(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> bool:
    """Return whether two lists of tensors are equal, up to the rounding errors of long sums."""
    if len(got) != len(want):
        return False
    for x, y in zip(got, want, strict=True):
        if x.shape != y.shape:
            return False
        x, y = x.detach().double().nan_to_num(), y.detach().double().nan_to_num()
        if float((x - y).norm()) > SAME_RESULT * float(y.norm()):
            return False
    return True
