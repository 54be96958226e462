"""Known deviations of a wrong l1_loss, shared by the tests."""

from lossspec.cases.case import Case
from lossspec.judging import known_deviations
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.spec.catalogue import find

L1 = find("l1_loss")
QUICK = ("--profile=quick", "--loss=l1_loss", "--clause=value,accepts")
#: A loss with two defects: one with a weight, one in float16 without a weight.
WRONG = """
    from torch.nn import functional as F

    def l1_loss(input, target, weight=None, reduction="mean"):
        wrong = 1 if weight is not None else 2 if input.dtype.itemsize == 2 else 0
        return F.l1_loss(input, target, weight=weight, reduction=reduction) + wrong
"""
RIGHT = "from torch.nn.functional import l1_loss"


def case_with(dtype: str, *options: str) -> Case:
    """Return a drawn case of l1_loss with exactly these options and a positive, exact loss."""
    for solved in stream(L1, PROFILES["quick"], 0, (dtype,)):
        given = {*solved.case.tensors} - {"input", "target"}
        want = solved.expected.value(solved.case.reduction)
        exact = want.budget.size and want.budget.max() < 0.1
        if given == {*options} and exact and 0 < solved.expected.losses.sum() < 100:
            return solved.case
    raise LookupError(dtype)


PLAIN, HALF, WEIGHTED = case_with("float32"), case_with("float16"), case_with("float64", "weight")


def known(case: Case = HALF, **more) -> KnownDeviation:
    named = {"loss": "l1_loss", "clause": "value", "reason": "explained", "case": case}
    return KnownDeviation(**{**named, "shows": {"is": "finite"}, **more})


def listed(workplace, *entries: KnownDeviation) -> str:
    known_deviations.write(workplace.path / "known.toml", list(entries))
    return f"--deviations={workplace.path / 'known.toml'}"


BOTH = (
    known(when={"dtype": ["float16", "bfloat16"]}, link="https://example.org/1"),
    known(WEIGHTED, when={"options": ["weight"]}),
)
