"""The table of times in a terminal: its statements on recorded readings, at 80 columns."""

import math
from dataclasses import replace

import pytest

from lossspec.thresholds import BAND, CONFIDENCE
from lossspec.timing.results import Arm, Interval, Timing, timing_id
from lossspec.timing.statistics import compared, said, speed
from lossspec.timing.table import WIDTH, table

#: Readings in ns from a run of torch.nn.functional against itself, mode `infer`: calls in a block,
#: and the readings of both arms.
RECORDED = {
    "quiet": (  # nll_loss, large
        21,
        "4993593 4821948 4784883 4649531 6743194 4665526 "
        "4731555 4685204 4638375 4639457 4679776 5827463",
        "5206670 4700277 4827066 4634710 4621600 4669121 "
        "4769200 4808057 4819544 4760857 5291526 5600841",
    ),
    "noisy": (  # l1_loss, large
        2,
        "1285150 1420902 1338570 1145763 1090731 1262997 "
        "1234976 1269658 1177330 1193575 1381334 1254004",
        "1507481 1244910 1123881 1173565 1162398 1198081 "
        "1210870 1339060 1171120 1230840 1570876 1298921",
    ),
    "outlier": (  # nll_loss, vocabulary
        31,
        "626141 293045 400947 427906 430631 477219 484490 409839 412874 417731 457561 432653",
        "378573 304602 302910 386084 430880 418192 418572 417791 420435 420765 436279 441256",
    ),
}


def timed(size="large", mode="infer", loss="l1_loss", run="quiet", factor=1.0, **more) -> Timing:
    """Return a cell with recorded readings, those of the implementation multiplied by a factor."""
    calls, mine, base = RECORDED[run]
    mine, base = ([int(word) for word in arm.split()] for arm in (mine, base))
    mine = [round(factor * reading) for reading in mine]
    arms = (Arm("implementation", calls, mine, mine), Arm("torch", calls, base, base))
    found = compared(*arms, "cpu")
    fields = {
        "id": timing_id(loss, size, mode, "function", "cpu", "float32"),
        "loss": loss,
        "surface": "function",
        "size": size,
        "mode": mode,
        "device": "cpu",
        "dtype": "float32",
        "shapes": {},
        "verdict": found.verdict,
        "reason": found.reason,
        "comparisons": (found,),
        "arms": arms,
        "peaks": (),
        "dropped": 0,
        "seconds": 0.4,
    }
    return Timing(**{**fields, **more})


def untimed(reason, **more) -> Timing:
    return timed(verdict="not-timed", reason=reason, comparisons=(), arms=(), **more)


def lines(*cells) -> list[str]:
    made = table(cells, CONFIDENCE, BAND)
    assert max(map(len, made)) <= WIDTH
    return made


def test_each_loss_size_and_mode_has_a_line_with_ratio_interval_and_verdict():
    cells = [
        timed("small", "infer"),
        timed("small", "full", factor=2.0),
        timed("large", "infer", run="noisy"),
        timed("vocabulary", "infer", loss="nll_loss", run="outlier"),
        timed("vocabulary", "full", loss="nll_loss", factor=0.5),
        timed("vocabulary", "forward", loss="nll_loss", factor=1.05),
    ]
    assert lines(*cells) == [
        "time of a call divided by torch's, and its 99 % interval; same: within 5 %",
        "",
        "l1_loss (function, cpu, float32)",
        " size        mode      a call  ratio  interval        against torch",
        " small       infer     224 µs   0.99  0.96 to 1.04    same (within 4.3 %)",
        "             full      448 µs   1.98  1.92 to 2.08    slower",
        " large       infer     629 µs   0.97  0.88 to 1.14    no difference above 15 %",
        "",
        "nll_loss (function, cpu, float32)",
        " size        mode      a call  ratio  interval        against torch",
        " vocabulary  infer    13.8 µs   1.02  0.98 to 1.32    no difference above 33 %",
        "             full      112 µs   0.50  0.48 to 0.52    faster",
        "             forward   235 µs   1.04  1.01 to 1.09    unclear: 0 to 10 % slower",
    ]


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (0.98, 1.03, "same (within 3.0 %)"),
        (1 / 1.05, 1.05, "same (within 5.0 %)"),
        (0.96, 1.0501, "no difference above 5.1 %"),
        (0.8, 1.05, "no difference above 25 %"),
        (0.8, 1.3, "no difference above 30 %"),
        (1.0, 1.999, "no difference above 100 %"),
        (0.615, 2.006, "no difference above 2.1×"),
        (1.001, 1.171, "unclear: 0 to 18 % slower"),
        (1.0, 1.171, "no difference above 18 %"),
        (1.0351, 1.4, "unclear: 3 to 40 % slower"),
        (0.8, 0.98, "unclear: 2 to 25 % faster"),
        (1.01, 3.0, "unclear: up to 3.0× slower"),
        (0.3, 0.99, "unclear: up to 3.4× faster"),
        (1.06, 3.0, "slower"),
        (0.1, 0.9, "faster"),
        (0.0, math.inf, "unclear"),
        (0.0, 1.2, "unclear"),
    ],
)
def test_an_interval_bounds_the_difference(low, high, want):
    assert said(Interval(1.0, low, high)) == want


@pytest.mark.parametrize("run", RECORDED)
@pytest.mark.parametrize("factor", [0.5, 0.9, 0.97, 1.0, 1.03, 1.1, 2.0])
def test_the_text_never_claims_more_than_the_interval(run, factor):
    found = timed(run=run, factor=factor).comparisons[0].deciding
    words, verdict = said(found), speed(found)
    assert words.startswith(verdict) or (verdict, words[:20]) == ("unclear", "no difference above ")
    if "no difference above" in words:
        number = words.removeprefix("no difference above ")
        factor = float(number[:-1]) if number.endswith("×") else 1 + float(number[:-2]) / 100
        assert found.low >= 1 / factor - 1e-9
        assert found.high <= factor + 1e-9
        assert found.low <= 1 <= found.high


def test_a_reason_for_not_timing_is_printed_once_and_cut():
    reason = "value: deviates (" + "a word " * 60 + ")\n  call: mse_loss(input, target)"
    got = lines(*(untimed(reason, size=size) for size in ("small", "large")))
    assert got[2:4] == [
        "l1_loss (function, cpu, float32)",
        "    not timed: value: deviates (" + " ".join(["a word"] * 7),
    ]
    assert len(got) <= 6
    assert not any("call:" in line for line in got)


def test_a_reason_for_not_timing_one_size_is_printed_beside_it():
    large = untimed("not run: a call needs about 90 GiB and 12 s", size="large")
    odd = timed("vocabulary", verdict="suspicious", reason="20 times as fast: \x1b[31mred")
    assert lines(timed("small"), large, odd)[4:] == [
        " small       infer     224 µs   0.99  0.96 to 1.04    same (within 4.3 %)",
        " large       infer          -      -  -               not timed",
        "    not run: a call needs about 90 GiB and 12 s",
        " vocabulary  infer     224 µs   0.99  0.96 to 1.04    suspicious",
        r"    20 times as fast: \x1b[31mred",
    ]


def test_surfaces_devices_and_dtypes_are_kept_apart():
    name = timing_id("l1_loss", "large", "infer", "class", "cpu", "float64")
    other = replace(timed(), surface="class", dtype="float64", id=name)
    titles = [line for line in lines(timed(), other, timed(mode="full")) if line[:1].isalpha()]
    assert titles[1:] == ["l1_loss (function, cpu, float32)", "l1_loss (class, cpu, float64)"]
