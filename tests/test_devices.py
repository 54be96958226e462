"""A stand-in accelerator, on which the suite runs as on any other accelerator."""

from pathlib import Path
from textwrap import dedent

import pytest
import standin

CLONE = Path(__file__).parents[1]
HERE = ("result-device", "no-host-copy", "refuses-mixed-devices")
SEEN = (*HERE, "accepts", "value", "gradient", "random-state")
#: This module is written to a file because the clone is not on the path there.
LOSSES = """
    import sys
    sys.path.insert(0, CLONE)
    import torch
    from lossspec import Implementation
    from tests.defects.binary_cross_entropy_with_logits import BCEWithLogits
    from tests.defects.cross_entropy import CrossEntropy
    from tests.defects.huber_loss import Huber
    from tests.defects.kl_div import KLDiv
    from tests.defects.l1_loss import L1
    from tests.defects.nll_loss import NLL

    class ResultOnHost(L1):
        def leave(self, c, result):
            return super().leave(c, result).cpu()

    class ForwardOnHost(L1):
        def element(self, c):
            return (c.x.cpu() - c.y.cpu()).abs().to(c.x.device)

    class _Sign(torch.autograd.Function):
        @staticmethod
        def forward(ctx, r):
            ctx.save_for_backward(r)
            return r.abs()

        @staticmethod
        def backward(ctx, upstream):
            (r,) = ctx.saved_tensors
            return upstream * r.cpu().sign().to(upstream.device)

    class BackwardOnHost(L1):
        def element(self, c):
            return _Sign.apply(c.residual)

    class EveryNumberRead(L1):
        def element(self, c):
            for number in c.x.detach().flatten():
                assert number.item() is not None
            return super().element(c)

    class ListMade(L1):
        def element(self, c):
            assert c.x.detach().tolist() is not None
            return super().element(c)

    class CopiedInPlace(L1):
        def element(self, c):
            torch.empty_like(c.x, device="cpu").copy_(c.x.detach())
            return super().element(c)

    class TargetMoved(L1):
        def __call__(self, input, target, *more, **options):
            return super().__call__(input, target.to(input.device), *more, **options)

    class DrawsOnDevice(L1):
        def element(self, c):
            torch.standin.generator.seed()
            return super().element(c)

    class FlagRead(L1):
        def element(self, c):
            losses = super().element(c)
            return losses + 0 if losses.isnan().any() else losses

    class ParameterRead(Huber):
        def element(self, c):
            c.parameter = torch.tensor(c.parameter, dtype=torch.float64).to(c.x.device).item()
            return super().element(c)

    class Reordered(L1):
        # Every second call rounds in another way, as sums by atomic additions do.
        calls, size = 0, 1

        def element(self, c):
            self.calls += 1
            self.add()
            losses = super().element(c)
            last = torch.finfo(losses.dtype).eps * self.size
            return losses * (1 + last * (self.calls % 2))

        def add(self):  # torch documents put_ as nondeterministic
            index = torch.zeros(1, dtype=torch.int64, device="standin")
            torch.zeros(2, device="standin").put_(index, torch.ones(1, device="standin"))

    class ReorderedInSilence(Reordered):
        def add(self):
            pass

    class FarApart(Reordered):
        size = 1000

    wrong = (
        ResultOnHost, ForwardOnHost, BackwardOnHost, EveryNumberRead, ListMade, CopiedInPlace,
        TargetMoved, DrawsOnDevice,
    )
    repeated = (Reordered, ReorderedInSilence, FarApart)
    for kind in (*wrong, FlagRead, ParameterRead, *repeated):
        name = kind.__name__
        vars()[name] = Implementation(name, functions={kind.loss: kind()})
    composite = Implementation(
        "composite",
        functions={k.loss: k() for k in (L1, BCEWithLogits, CrossEntropy, Huber, KLDiv, NLL)},
    )
"""
WRONG = {
    "ResultOnHost": {"result-device", "no-host-copy"},
    "ForwardOnHost": {"no-host-copy", "refuses-mixed-devices"},
    "BackwardOnHost": {"no-host-copy"},
    "EveryNumberRead": {"no-host-copy"},
    "ListMade": {"no-host-copy"},
    "CopiedInPlace": {"no-host-copy"},
    "TargetMoved": {"refuses-mixed-devices"},
    "DrawsOnDevice": {"random-state"},
}
MODULE = """
    import accelerator
    import torch


    class AdaptiveLogSoftmaxWithLoss(torch.nn.AdaptiveLogSoftmaxWithLoss):
        def forward(self, input, target):
            found = super().forward(input, target)
            return found._replace(loss=found.loss.cpu())
"""
RIGHT = ("FlagRead", "ParameterRead")


@pytest.fixture(scope="module")
def place(outpost):
    """Return a directory for processes that register the device, which a process cannot undo."""
    if standin.compiler() is None:
        pytest.skip("there is no C++ compiler to build the stand-in device with")
    library = standin.build(outpost.path)
    plugin = f"""
        import sys
        from pathlib import Path

        sys.path.insert(0, {str(standin.SOURCE.parents[1])!r})
        import standin

        library = standin.load(Path({str(library)!r}))
    """
    single = "from accelerator import library\n\nlibrary.standin_without_doubles()\n"
    outpost.write(
        accelerator=plugin,
        without_doubles=single,
        losses=LOSSES.replace("CLONE", repr(str(CLONE))),
        moved=MODULE,
    )
    return outpost


def run(place, *arguments, plugin="accelerator"):
    words = ("-p", plugin, "-p", "no:cacheprovider", "--device=standin", "--profile=quick")
    return place.apart("-m", "pytest", "--pyargs", "lossspec.suites", *words, *arguments)


def told(place, script):
    """Return the output of a script in a process that registers the device."""
    done = place.apart("-c", "from accelerator import library\n" + dedent(script))
    assert done.status == 0, done.err
    return done.out


def deviating(verdicts):
    return {
        name.partition("/")[2].partition("[")[0]
        for name, verdict in verdicts.items()
        if verdict in ("deviates", "crash")
    }


# === the stand-in device ==================================================================


def test_torch_recognises_the_stand_in_as_an_accelerator(place):
    assert told(
        place,
        """
        import torch
        from lossspec.execution.devices import DeviceError, chosen, present

        print(torch.accelerator.current_accelerator(), present())
        print(chosen(["all"]), chosen(["standin:0"]))
        try:
            chosen(["standin:1"])
        except DeviceError as error:
            print(error)
        """,
    ) == [
        "standin ['cpu', 'standin']",
        "('cpu', 'standin') ('standin:0',)",
        "--device standin:1: the last device of this type is standin:0",
    ]


def test_a_loss_on_the_device_copies_nothing_to_the_host(place):
    assert told(
        place,
        """
        import torch
        from torch.nn import functional as F

        x = torch.randn(3, 4, device="cpu").to("standin").requires_grad_()
        F.cross_entropy(x, torch.tensor([0, 1, 3]).to("standin")).backward()
        print(x.grad.device, library.standin_copies_to_host())
        x.grad.cpu()
        x.grad.sum().item()
        print(library.standin_copies_to_host())
        """,
    ) == ["standin:0 0", "2"]


def test_strides_and_lazy_conjugates_survive_a_round_trip_to_the_device(place):
    assert (
        told(
            place,
            """
        import torch

        x = torch.arange(24.0).reshape(2, 3, 4)
        there = x.to("standin")
        print(torch.equal(there.permute(2, 0, 1)[1:].cpu(), x.permute(2, 0, 1)[1:]))
        z = torch.view_as_complex(there.reshape(2, 3, 2, 2)).conj()
        print(torch.equal(z.cpu(), torch.view_as_complex(x.reshape(2, 3, 2, 2)).conj()))
        there.transpose(0, 1)[1].mul_(2)
        print(there.cpu()[:, 1].tolist() == (2 * x[:, 1]).tolist())
        """,
        )
        == ["True"] * 3
    )


# === runs on the device ===================================================================


@pytest.fixture(scope="module")
def torchs(place):
    """Run the suite on the device for the torch losses that use most of its features."""
    losses = "l1_loss,cross_entropy,ctc_loss,gaussian_nll_loss,AdaptiveLogSoftmaxWithLoss"
    done = run(place, "--impl=torch.nn,torch.nn.functional", f"--loss={losses}")
    return done, {**place.cells("torch.nn"), **place.cells("torch.nn.functional")}


def test_torch_has_no_deviation_only_on_the_device(torchs):
    done, cells = torchs
    assert done.status == 0, done.out
    assert deviating({name: cell["verdict"] for name, cell in cells.items()}) == set()
    assert {cell["device"] for cell in cells.values()} == {"standin"}


def test_every_device_clause_conforms_for_torch(torchs):
    _, cells = torchs
    got = {
        (cell["loss"], cell["clause"]): cell["verdict"]
        for cell in cells.values()
        if cell["clause"] in HERE and cell["verdict"] != "unsupported"
    }
    assert got.pop(("ctc_loss", "refuses-mixed-devices")) == "not-applicable"
    assert len(got) == 14
    assert set(got.values()) == {"conforms"}


def test_calls_that_may_crash_a_device_are_not_made(torchs):
    _, cells = torchs
    assert cells["cross_entropy/refuses-classes[function-standin]"]["verdict"] == "not-applicable"


def test_device_clauses_do_not_apply_on_the_cpu(workplace):
    workplace.write(mine="from torch.nn.functional import l1_loss\n")
    done = workplace.run("--impl=mine", "--loss=l1_loss", f"--clause={','.join(HERE)},accepts")
    assert done.status == 0
    cells = [workplace.cells("mine")[f"l1_loss/{name}[function-cpu]"] for name in HERE]
    got = {(cell["verdict"], cell["reason"]) for cell in cells}
    assert got == {("not-applicable", "this clause applies to accelerators only")}


def test_a_run_with_only_inapplicable_clauses_is_an_error(workplace):
    workplace.write(mine="from torch.nn.functional import l1_loss\n")
    done = workplace.run("--impl=mine", "--clause=no-host-copy")
    assert done.status == 4
    want = "nothing to judge: no selected clause (no-host-copy) applies to any loss on cpu"
    assert want in done.err[0]


def test_a_dtype_that_the_device_lacks_is_not_judged(place):
    done = run(
        place,
        "--impl=torch.nn",
        "--loss=cross_entropy,HuberLoss,AdaptiveLogSoftmaxWithLoss",
        "--reports=single",
        plugin="without_doubles",
    )
    assert done.status == 0, done.out
    report = (place.path / "single" / "torch.nn" / "conformance.json").read_text("utf-8")
    assert "TypeError: “this device holds no float64”" in report


def test_check_runs_on_a_device(place):
    assert told(
        place,
        """
        import lossspec
        from torch.nn import functional as F

        cells = lossspec.check(
            "l1_loss", F.l1_loss, profile="quick", device="all", clauses=["value", "result-device"]
        )
        print(sorted(f"{cell.clause} on {cell.device}: {cell.verdict}" for cell in cells))
        """,
    ) == [
        "['result-device on standin: conforms', 'value on cpu: conforms',"
        " 'value on standin: conforms']"
    ]


# === wrong losses and right losses on the device ==========================================


@pytest.fixture(scope="module")
def judged(place):
    """Return the verdicts of the device clauses for each wrong loss and its right counterpart."""
    names = ",".join(f"losses:{name}" for name in (*WRONG, *RIGHT))
    run(place, f"--impl={names}", f"--clause={','.join(SEEN)}", "--loss=l1_loss,huber_loss")
    return {name: place.verdicts(f"losses.{name}") for name in (*WRONG, *RIGHT)}


@pytest.mark.parametrize("name", WRONG)
def test_a_loss_that_is_wrong_only_on_a_device_deviates(judged, name):
    assert deviating(judged[name]) == WRONG[name]


@pytest.mark.parametrize("name", RIGHT)
def test_copying_a_single_number_to_the_host_conforms(judged, name):
    assert deviating(judged[name]) == set()
    conform = [key for key, verdict in judged[name].items() if verdict == "conforms"]
    assert len(conform) == len(SEEN)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("Reordered", "conforms"), ("ReorderedInSilence", "deviates"), ("FarApart", "deviates")],
)
def test_a_repeated_call_may_round_differently_where_torch_documents_it(place, name, verdict):
    run(place, f"--impl=losses:{name}", "--clause=second-call", "--loss=l1_loss")
    (cell,) = place.cells(f"losses.{name}").values()
    assert cell["verdict"] == verdict, str(cell)
    assert "nondeterministic" in cell["excused"] or name != "Reordered"


def test_a_reproduction_script_moves_a_module_to_the_device(place):
    words = ("--loss=AdaptiveLogSoftmaxWithLoss", "--clause=result-device,value")
    assert run(place, "--impl=moved", *words).status == 1
    (cell,) = [cell for cell in place.cells("moved").values() if cell["script"]]
    assert (cell["clause"], cell["got"], cell["want"]) == ("result-device", "cpu", "standin:0")
    done = place.apart(f"reports/moved/{cell['script']}")
    assert (done.status, done.err, done.out[-1]) == (1, [], "deviates")
    assert "error here: None" in done.out


def test_every_device_clause_finds_a_wrong_loss():
    assert set(HERE) <= set().union(*WRONG.values())


def test_a_composition_of_torch_operations_conforms_on_the_device(place):
    done = run(place, "--impl=losses:composite")
    assert done.status == 0, done.out
    verdicts = place.verdicts("losses.composite")
    assert deviating(verdicts) == set()
    conform = [n for n, v in verdicts.items() if v == "conforms" and n.split("/")[1][:-18] in HERE]
    assert len(conform) == 6 * len(HERE)
