"""Suggestions for misspelt names, and the lists of known names."""

import pytest
import torch

import lossspec
from lossspec.cli import main
from lossspec.errors import ImplementationError, UnknownName
from lossspec.execution.implementation import Implementation
from lossspec.execution.loading import load
from lossspec.nearest import SHORT, alike, nearest, suggestion
from lossspec.spec.catalogue import catalogue, find
from lossspec.spec.loss import names_of

FEW = ("quick", "standard", "deep")


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("qick", "; did you mean quick? known: quick, standard, deep"),
        ("fast", "; known: quick, standard, deep"),
        ("", "; known: quick, standard, deep"),
    ],
)
def test_a_short_list_is_printed_completely(given, want):
    assert suggestion(given, FEW) == want


def test_an_empty_list_is_reported_as_none():
    assert suggestion("x", []) == "; known: none"


def test_a_long_list_is_cut_to_the_nearest_names_and_a_command():
    known = names_of(catalogue().values())
    assert len(known) > SHORT
    command = "lossspec list losses"
    got = suggestion("mse_los", known, command)
    assert got.startswith("; did you mean mse_loss or MSELoss? ")
    assert got.endswith("? `lossspec list losses` prints all")
    got = suggestion("qqqq", known, command)
    assert got.startswith(f"; the nearest of {len(known)} are ")
    assert got.endswith("; `lossspec list losses` prints all")
    assert suggestion("qqqq", known).count(",") == 2


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_a_name_with_a_missing_letter_is_recognised(name):
    for typed in (name[1:], name[:-1], name.upper(), name.replace("_", "-")):
        assert alike(typed, list(catalogue()))[0] == name, typed


def test_a_part_of_a_name_is_recognised():
    assert "cross_entropy" in alike("entropy", list(catalogue()))
    assert len(nearest("entropy", list(catalogue()))) == 3


@pytest.mark.parametrize(
    ("ask", "want"),
    [
        (lambda: find("mse_los"), "unknown loss 'mse_los'; did you mean mse_loss or MSELoss? "),
        (lambda: find("MSELos"), "unknown loss 'MSELos'; did you mean MSELoss, "),
        (
            lambda: lossspec.check("mse_loss", torch.nn.MSELoss, clauses=["graident"]),
            "unknown clause 'graident'; did you mean gradient? ",
        ),
        (
            lambda: lossspec.check("mse_loss", torch.nn.MSELoss, clauses=["mse_loss/vlaue"]),
            "unknown clause 'vlaue'; did you mean value? ",
        ),
        (
            lambda: lossspec.check("mse_loss", torch.nn.MSELoss, profile="qick"),
            "unknown profile 'qick'; did you mean quick? known: ",
        ),
        (
            lambda: lossspec.check("mse_loss", torch.nn.MSELoss, dtypes=["flaot32"]),
            "unknown dtype 'flaot32'; did you mean float32? known: ",
        ),
        (
            lambda: lossspec.check("mse_loss", torch.nn.MSELoss, device="cpuu"),
            "device cpuu: not a torch device; did you mean cpu? known: cpu, ",
        ),
        (lambda: load("torch.m"), "--impl torch.m: no entry point of that name and no module "),
        (lambda: Implementation("x", {"mse_los": abs}), "unknown loss function 'mse_los'; did you"),
    ],
)
def test_an_unknown_name_gets_the_nearest_name(ask, want):
    with pytest.raises(ValueError, match=r".") as caught:
        ask()
    assert str(caught.value).startswith(want)
    assert len(str(caught.value)) < 250


def test_a_theme_before_a_clause_is_distinguished_from_a_loss():
    with pytest.raises(
        ValueError, match=r"value is the theme of clause value; did you mean value\?"
    ):
        lossspec.check("mse_loss", torch.nn.MSELoss, clauses=["value/value"])


def test_an_unknown_loss_raises_unknown_name():
    with pytest.raises(UnknownName):
        find("mse_los")


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ("rn torch.nn", "unknown 'rn'; did you mean run?"),
        ("list loses", "unknown 'loses'; did you mean losses or clauses? known: "),
        ("audit --profle=deep", "unrecognized arguments: --profle=deep; did you mean --profile? "),
        ("show a b\x1b", "lossspec: show: unrecognized arguments: b\\x1b"),
    ],
)
def test_the_command_suggests_the_nearest_word(words, want, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words.split(" "))
    assert caught.value.code == 4
    assert want in capsys.readouterr().err.splitlines()[-1]


def test_an_unknown_option_of_run_gets_the_nearest_option(workplace):
    result = workplace.within(lambda: main(["run", "torch.nn", "--los=l1_loss"]))
    assert result.status == 4
    text = "\n".join(result.err)
    assert "unrecognized arguments: --los=l1_loss" in text
    assert "did you mean --loss" in text


# === an instance in place of a class ======================================================


class Halved:
    """A loss that is constructed, without being a module."""

    def __init__(self, reduction="mean"):
        self.reduction = reduction

    def __call__(self, input, target):
        return torch.nn.functional.mse_loss(input, target, reduction=self.reduction) / 2


@pytest.mark.parametrize("made", [torch.nn.MSELoss(), Halved()], ids=["module", "other"])
def test_an_instance_in_place_of_a_class_is_refused(made):
    kind = type(made).__name__
    want = rf"is an instance of {kind}, not a class: pass the class, {kind} without parentheses, "
    with pytest.raises(ImplementationError, match=f"^mine: MSELoss {want}"):
        Implementation("mine", classes={"MSELoss": made})


@pytest.mark.parametrize("name", ["mine:one", "mine:space"])
def test_a_name_of_an_instance_is_refused_with_a_reason(workplace, name):
    workplace.write(
        mine="""
            import types
            import torch

            one = torch.nn.MSELoss()
            space = types.SimpleNamespace(MSELoss=one)
        """
    )
    result = workplace.run(f"--impl={name}", "--profile=quick", "--loss=mse_loss")
    assert result.status == 4
    assert "is an instance of MSELoss, not a class: " in "\n".join(result.err)


class Whole(torch.nn.Module):
    def forward(self, input, target, weight=None, reduction="mean"):
        return torch.nn.functional.mse_loss(input, target, weight=weight, reduction=reduction)


@pytest.mark.parametrize(
    "target",
    [
        Whole(),
        Whole().forward,
        lambda input, target, weight=None, reduction="mean": 0,
        torch.nn.L1Loss,
    ],
)
def test_an_object_that_accepts_all_arguments_in_its_call_is_a_function(target):
    from lossspec.execution.implementation import unconstructed

    assert unconstructed(find("mse_loss"), target, "function") is None


def test_a_factory_is_accepted_as_a_class():
    made = Implementation("mine", classes={"MSELoss": lambda reduction="mean": Halved(reduction)})
    assert list(made.classes) == ["MSELoss"]
