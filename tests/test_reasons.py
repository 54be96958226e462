"""The reasons why clauses were not judged, in the record and in every rendering."""

import json
import re
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

import lossspec
from lossspec.report.records import Report
from lossspec.report.verdict import Verdict

QUICK = {"profile": "quick"}
RUN = ("--profile=quick", "-p", "no:faulthandler")


def reasons(cells, verdict):
    """Return the number of cells by reason."""
    return Counter(cell.reason for cell in cells if cell.verdict == verdict)


def plain(input, target):
    return F.mse_loss(input, target)


def partly(input, target, weight=None, reduction="mean"):
    if reduction == "none":
        raise NotImplementedError("no 'none'\x1b[2J")
    return F.mse_loss(input, target, weight=weight, reduction=reduction)


def narrow(input, target, weight=None, reduction="mean"):
    if input.dtype in (torch.float16, torch.bfloat16):
        raise TypeError("float32 or\nfloat64")
    return F.mse_loss(input, target, weight=weight, reduction=reduction)


def half_kernel(input, target, weight=None, reduction="mean"):
    if input.dtype in (torch.float16, torch.bfloat16) and input.numel():
        raise NotImplementedError('"kernel" not implemented for half precision')
    return F.mse_loss(input, target, weight=weight, reduction=reduction)


def absent_altogether(input, target, weight=None, reduction="mean"):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (plain, "no applicable case: it takes no weight or reduction (for 'none' and 'sum')"),
        (
            partly,
            "no applicable case: not implemented for reduction='none' "
            "(NotImplementedError: “no 'none'\\x1b[2J”)",
        ),
        (
            narrow,
            "no applicable case: bfloat16 and float16 do not work "
            "(TypeError: “float32 or float64”)",
        ),
        (
            half_kernel,
            "no applicable case: not implemented for bfloat16, float16 "
            '(NotImplementedError: “"kernel" not implemented for half precision”)',
        ),
        (
            absent_altogether,
            "no applicable case: not implemented for any call (NotImplementedError)",
        ),
    ],
)
def test_a_reason_names_the_lack_and_quotes_foreign_text(target, wanted):
    cells = lossspec.check("mse_loss", target, **QUICK)
    got = reasons(cells, Verdict.UNSUPPORTED)
    assert wanted in got, got
    for reason in got:
        assert reason.isprintable()
        outside = re.sub(r"“.*?”", "", reason)
        assert "kernel" not in outside


def tuple_of_one(input, target, weight=None, ignore_index=-100, label_smoothing=0.0,
                 reduction="mean"):  # fmt: skip
    options = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    return F.cross_entropy(input, target, reduction=reduction, **options)[None]


def test_inconclusive_clauses_name_the_clause_that_failed():
    cells = lossspec.check("cross_entropy", tuple_of_one, **QUICK)
    got = reasons(cells, Verdict.INCONCLUSIVE)
    wanted = (
        "no applicable case: the call itself fails, see clause result-shape (the result's shape)"
    )
    assert got[wanted] > 10, got
    assert "no applicable case was drawn" not in got
    (shape,) = (cell for cell in cells if cell.clause == "result-shape")
    assert shape.verdict == Verdict.DEVIATES


def test_an_inconclusive_clause_suggests_judging_accepts():
    cells = lossspec.check("cross_entropy", tuple_of_one, clauses=["vmap"], **QUICK)
    assert [(cell.verdict, cell.reason) for cell in cells] == [
        (
            Verdict.INCONCLUSIVE,
            "no applicable case: the call itself fails; judge clause accepts too",
        )
    ]


def test_a_missing_parameter_is_unsupported_and_not_inconclusive():
    cells = lossspec.check("mse_loss", plain, **QUICK)
    assert reasons(cells, Verdict.INCONCLUSIVE) == {}
    assert sum(reasons(cells, Verdict.UNSUPPORTED).values()) > 5


MINE = """
    from torch.nn import functional as F

    def mse_loss(input, target):
        return F.mse_loss(input, target)
"""


def test_every_rendering_groups_the_reasons(workplace):
    workplace.write(mine=MINE)
    result = workplace.run("--impl=mine", "--loss=mse_loss,l1_loss", *RUN)
    assert result.status == 0, result.out
    folder = workplace.path / "reports" / "mine"
    report = Report.read(folder / "conformance.json")
    wanted = "no applicable case: it takes no weight or reduction (for 'none' and 'sum')"
    count = reasons(report.cells, Verdict.UNSUPPORTED)[wanted]
    assert count > 5
    start = next(i for i, line in enumerate(result.out) if line.startswith("mine"))
    end = next(i for i, line in enumerate(result.out) if line.startswith("report: "))
    screen = result.out[start : end + 1]
    assert max(map(len, screen)) <= 80
    assert len(screen) <= 24
    said = " ".join(" ".join(screen).split())
    assert f"{count} unsupported: {wanted}" in said
    assert "absent: l1_loss" in screen
    for text in ((folder / "summary.md").read_text(), (folder / "index.html").read_text()):
        assert "it takes no weight or reduction" in text
        assert "l1_loss" in text
    assert f"{count} unsupported: no applicable case" in (folder / "summary.md").read_text()


def test_counts_leave_out_absent_losses(workplace):
    workplace.write(mine="from torch.nn.functional import mse_loss\n")
    result = workplace.run("--impl=mine", "--loss=mse_loss,l1_loss,nll_loss", *RUN)
    assert result.status == 0, result.out
    folder = workplace.path / "reports" / "mine"
    report = Report.read(folder / "conformance.json")
    judged = [cell for cell in report.cells if cell.loss == "mse_loss"]
    assert report.total == sum(cell.verdict is not Verdict.NOT_APPLICABLE for cell in judged)
    assert report.absent_losses == ("l1_loss", "nll_loss")
    assert report.headline.endswith("; 2 losses absent")
    badge = json.loads((folder / "badge.json").read_text())
    assert badge["message"].endswith(", 2 losses absent")
    assert badge["message"].startswith(f"{report.counts[Verdict.CONFORMS]} of {report.total} ")


def test_a_report_without_a_judged_loss_has_a_grey_badge_and_fails(workplace):
    workplace.write(mine="from torch.nn.functional import mse_loss\n")
    workplace.run("--impl=mine", "--loss=mse_loss,l1_loss", "-k", "l1_loss", *RUN)
    folder = workplace.path / "reports" / "mine"
    report = Report.read(folder / "conformance.json")
    badge = json.loads((folder / "badge.json").read_text())
    assert (badge["message"], badge["color"]) == ("nothing was judged", "57606a")
    assert report.exit_status == 4
    for name in ("summary.md", "index.html"):
        assert "No clause was judged, so the run fails." in (folder / name).read_text()


HOSTILE = r"""
    import torch
    from torch.nn import functional as F

    __version__ = "1\x1b[2J\x07\u202e\ud800<b>|`"

    class Odd(Exception):
        def __repr__(self):
            return "\x1b]0;owned\x07"

    Odd.__name__ = "Odd\x1b[31m"

    def l1_loss(input, target, weight=None, reduction="mean"):
        raise Odd("bad\x1b[2J\x07\x9b31m\u202egpj\r\n</script><b id=owned>|`\udc80")

    class Strange:
        def __repr__(self):
            return "\x1b[2J"

    Strange.__name__ = "Strange\x1b[2J"

    def mse_loss(input, target, weight=None, reduction="mean"):
        return Strange()

    def huber_loss(input, target, reduction="mean", delta=1.0):
        if input.dtype == torch.float16:
            raise NotImplementedError("\x1b[2J|`<b id=owned>\u2028")
        return F.huber_loss(input, target, reduction=reduction, delta=delta)
"""


def test_text_of_an_implementation_is_escaped_in_terminal_and_page(workplace):
    workplace.write(mine=HOSTILE)
    losses = "--loss=l1_loss,mse_loss,huber_loss"
    result = workplace.run("--impl=mine", losses, "-rA", "--clause=accepts,value,gradient", *RUN)
    assert result.status == 1
    printed = "\n".join(result.out + result.err)
    assert {char for char in printed if not char.isprintable()} <= {"\n"}
    assert r"\x1b[2J" in printed
    folder = workplace.path / "reports" / "mine"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".html", ".md", ".py"}
    for path in files:
        raw = {char for char in path.read_text("utf-8") if not char.isprintable()}
        assert raw <= {"\n", "\N{NO-BREAK SPACE}"}, path
        assert path.suffix != ".html" or "<b id=owned>" not in path.read_text("utf-8")
    for script in (folder / "repro").glob("*.py"):
        done = workplace.apart(str(script))
        assert done.status == 1, done
        text = "\n".join(done.out + done.err)
        assert {char for char in text if not char.isprintable()} <= {"\n"}
