"""Implementations: loading by name, the record of where a loss was found, and signatures."""

import dataclasses
import functools
import sys
from textwrap import dedent
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lossspec.errors import ImplementationError, UnknownName
from lossspec.execution.implementation import Implementation, LossUnderTest
from lossspec.execution.loading import load
from lossspec.spec.catalogue import find

L1 = find("l1_loss")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Yield the name of a package that holds a loss in every supported way."""
    folder = tmp_path / "losses_of_mine"
    folder.mkdir()
    folder.joinpath("__init__.py").write_text("__version__ = '1.2'\n")
    folder.joinpath("inner.py").write_text(
        dedent(
            """
            import types
            import lossspec
            from torch.nn import functional as F

            l1_loss = F.l1_loss
            space = types.SimpleNamespace(deep=types.SimpleNamespace(l1_loss=F.l1_loss))
            wrapped = lossspec.Implementation("Mine", {"mse_loss": F.mse_loss}, version="7")

            class L1Loss:
                pass

            def squared(a, b):
                return (a - b) ** 2

            class Squared:
                pass
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "losses_of_mine.inner"
    for name in ("losses_of_mine", "losses_of_mine.inner"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("rest", "losses", "found"),
    [
        ("", (), {"l1_loss": ":l1_loss", "L1Loss": ":L1Loss"}),
        (":space.deep", (), {"l1_loss": ":space.deep.l1_loss"}),
        (":l1_loss", (), {"l1_loss": ":l1_loss"}),
        (":L1Loss", (), {"L1Loss": ":L1Loss"}),
        (":squared", ("mse_loss",), {"mse_loss": ":squared"}),
        (":squared", ("MSELoss",), {"mse_loss": ":squared"}),
        (":Squared", ("mse_loss",), {"MSELoss": ":Squared"}),
        (":wrapped", (), {"mse_loss": ":wrapped.functions['mse_loss']"}),
    ],
)
def test_a_name_is_loaded_with_the_location_of_each_loss(package, rest, losses, found):
    got = load(package + rest, losses)
    assert {*got.functions, *got.classes} == set(found)
    assert got.found == {name: package + where for name, where in found.items()}
    assert (got.name, got.target) == (package + rest, package + rest)
    assert got.version == ("7" if rest == ":wrapped" else "1.2")


@pytest.mark.parametrize(
    ("name", "module"), [("torch.nn", "torch.nn"), ("torch.nn.functional", "torch.nn.functional")]
)
def test_the_shipped_implementations_are_those_of_torch(name, module):
    got = load(name)
    assert got.version == torch.__version__
    assert {*got.found.values()} == {f"{module}:{loss}" for loss in (*got.functions, *got.classes)}


def test_an_entry_point_names_an_implementation(package, tmp_path, monkeypatch):
    info = tmp_path / "losses_of_mine-1.2.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: losses-of-mine\n")
    info.joinpath("entry_points.txt").write_text(
        f"[lossspec.implementations]\nmine = {package}:wrapped\nmissing = {package}:none\n"
        "dead = no_such_module:losses\n"
    )
    got = load("mine")
    assert (got.name, got.target, list(got.functions)) == (
        "mine",
        f"{package}:wrapped",
        ["mse_loss"],
    )
    with pytest.raises(ImplementationError, match=r"--impl missing: .* has no attribute 'none'"):
        load("missing")
    with pytest.raises(ImplementationError, match="; known: dead, mine, missing, oracle, "):
        load("nosuch")
    dead = "dead: its entry point of losses-of-mine, 'no_such_module:losses', cannot be imported"
    with pytest.raises(ImplementationError, match=f"{dead}: .*“No module named 'no_such_module'”$"):
        load("dead")


@pytest.mark.parametrize("loss", ["l1_loss", "mse_loss"])
def test_a_loss_is_matched_by_its_name_in_any_order_of_losses(loss):
    (other,) = {"l1_loss", "mse_loss"} - {loss}
    name = f"torch.nn.functional:{loss}"
    assert list(load(name, (loss, other)).functions) == [loss]
    with pytest.raises(ImplementationError, match=f"judged as {loss}, which --loss={other} "):
        load(name, (other,))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("{}.py", "{}"),
        ("./{}.py", "{}"),
        ("{}/inner.py", "{}.inner"),
        ("{}.inner.squared", "{}.inner:squared"),
        ("{}.inner::squared", "{}.inner:squared"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(package, typed, meant):
    package = package.removesuffix(".inner")
    with pytest.raises(ImplementationError) as caught:
        load(typed.format(package), ("mse_loss",))
    assert str(caught.value).endswith(f"; try {meant.format(package)}")


def test_a_lambda_and_a_partial_are_named_by_their_attribute(here):
    here.joinpath("nameless.py").write_text(
        "import functools\nfrom torch.nn import functional as F\n\n"
        "mse_loss = lambda input, target: F.mse_loss(input, target)\n"
        "class space:\n    l1_loss = functools.partial(F.l1_loss, weight=None)\n"
        "other = lambda input, target: F.mse_loss(input, target)\n"
    )
    assert load("nameless.py:mse_loss").found == {"mse_loss": "nameless.py:mse_loss"}
    assert load("nameless.py:space.l1_loss").found == {"l1_loss": "nameless.py:space.l1_loss"}
    with pytest.raises(ImplementationError, match="other is not named like a loss; say which one"):
        load("nameless.py:other")


@pytest.mark.parametrize(
    ("name", "losses"),
    [(":squared", ()), (":squared", ("mse_loss", "l1_loss")), (":squared", ("l2_loss",))],
)
def test_a_single_loss_of_another_name_needs_one_name(package, name, losses):
    with pytest.raises(
        ImplementationError,
        match=r"say which one it is with --loss=NAME; .*`lossspec list losses` prints all$",
    ):
        load(package + name, losses)


@pytest.mark.parametrize("kind", ["functions", "classes"])
def test_a_loss_without_a_spec_is_refused(kind):
    with pytest.raises(UnknownName, match=r"unknown loss (function|class) 'own'; the nearest of 2"):
        Implementation("mine", **{kind: {"own": F.l1_loss}})


def test_a_loss_with_its_own_spec_is_accepted():
    own = dataclasses.replace(L1, name="own_loss", module=None)
    (under_test,) = Implementation("mine", {"own_loss": F.l1_loss}, own=(own,)).losses_under_test(
        own
    )
    assert (under_test.loss, under_test.surface) == (own, "function")


class Module(torch.nn.Module):
    def forward(self, input, target, *, weight=None):
        return F.l1_loss(input, target, weight=weight)


@pytest.mark.parametrize(
    ("target", "takes"),
    [
        (F.l1_loss, {"weight", "reduction"}),
        (lambda prediction, truth: 0, set()),
        (lambda *tensors, **more: 0, {"weight", "reduction"}),
        (functools.partial(F.l1_loss, weight=None), {"weight", "reduction"}),
        (Module(), {"weight"}),
        (torch.nn.L1Loss, {"reduction"}),
        (Module().forward, {"weight"}),
        (torch.abs, {"weight", "reduction"}),  # has no signature; only a call shows what it accepts
    ],
)
def test_a_signature_gives_the_accepted_options(target, takes):
    under_test = LossUnderTest("mine", L1, "function", target)
    assert {name for name in ("weight", "reduction") if under_test.takes(name)} == takes


def test_a_tensor_with_the_name_of_an_option_is_not_the_option():
    poisson = find("poisson_nll_loss")
    for target in (lambda log_input, target, full=False: 0, torch.nn.PoissonNLLLoss().forward):
        assert not LossUnderTest("mine", poisson, "function", target).takes("log_input")
    assert LossUnderTest(
        "mine", poisson, "function", lambda log_input, target, full=False: 0
    ).takes("full")
    assert LossUnderTest("mine", poisson, "function", F.poisson_nll_loss).takes("log_input")
    assert LossUnderTest("mine", poisson, "class", torch.nn.PoissonNLLLoss).takes("log_input")


def test_only_callables_are_losses():
    space = SimpleNamespace(l1_loss=torch.nn, mse_loss=3, huber_loss=F.huber_loss, HuberLoss=None)
    got = Implementation.of("space", space)
    assert (list(got.functions), list(got.classes)) == (["huber_loss"], [])


@pytest.mark.parametrize("name", ["torch.nn", "torch.nn.functional"])
def test_torch_is_declared_as_the_reference(name):
    assert load(name).reference


def test_a_custom_implementation_is_not_the_reference():
    assert not Implementation(
        "torch.nn", functions={"mse_loss": torch.nn.functional.mse_loss}
    ).reference
