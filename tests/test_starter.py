"""The command `lossspec new`: the file that it writes, and the three mistakes that people make."""

import re
import shlex

import pytest

from lossspec import starter
from lossspec.cli import main
from lossspec.errors import ArgumentError
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import names_of


def new(workplace, *words):
    return workplace.within(lambda: main(["new", *words]))


def run(workplace, *words):
    return workplace.within(lambda: main(["run", *words, "-p", "no:faulthandler"]))


def test_the_file_is_judged_by_the_printed_command_and_conforms(workplace):
    written = new(workplace, "my_loss")
    assert (written.status, written.err) == (0, [])
    (command,) = [line for line in written.out if "lossspec run" in line]
    assert f"\n{command}\n" in (workplace.path / "my_loss.py").read_text()
    program, *words = shlex.split(command)
    assert program == "lossspec"
    judged = workplace.within(lambda: main([*words, "-p", "no:faulthandler"]))
    assert judged.status == 0, judged.out
    verdicts = [v for v in workplace.verdicts("my_loss.py").values() if v != "not-applicable"]
    assert set(verdicts) == {"conforms"}
    assert len(verdicts) > 20


def test_the_file_conforms_in_the_standard_profile_too(workplace):
    assert new(workplace, "huber_like").status == 0
    words = ("huber_like.py", "--loss=huber_like", "--profile=standard")
    judged = run(workplace, *words, "--clause=value,gradient,refuses-parameters,refuses-shapes")
    assert judged.status == 0, judged.out
    assert "4 of 4 clauses conform." in judged.out


def test_a_wrong_implementation_in_the_file_deviates(workplace):
    new(workplace, "my_loss")
    change(workplace, "losses = ((input - target) / scale) ** 2", "losses = (input - target) ** 2")
    judged = run(workplace, "my_loss.py", "--loss=my_loss", "--clause=value", "--profile=quick")
    assert judged.status == 1
    assert set(workplace.verdicts("my_loss.py").values()) == {"deviates"}


def test_the_file_has_the_name_of_the_loss_in_every_place(workplace):
    new(workplace, "ranked_pairs")
    text = (workplace.path / "ranked_pairs.py").read_text()
    assert "my_loss" not in text
    template = starter.TEMPLATE.read_text()
    assert text == template.replace("my_loss", "ranked_pairs")
    assert len(re.findall(r"\bmy_loss\b", template)) == template.count("my_loss")


def test_an_existing_file_is_overwritten_with_force_only(workplace):
    path = workplace.path / "my_loss.py"
    path.write_text("mine = 1\n")
    refused = new(workplace, "my_loss")
    assert refused.status == 4
    assert refused.err == [
        "lossspec new: my_loss.py exists; choose another name, or overwrite the file with --force"
    ]
    assert path.read_text() == "mine = 1\n"
    assert new(workplace, "my_loss", "--force").status == 0
    assert path.read_text() == starter.TEMPLATE.read_text()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("2x", "is no Python identifier"),
        ("my-loss", "is no Python identifier"),
        ("my_loss.py", "is no Python identifier"),
        ("../up", "is no Python identifier"),
        ("größe", "is no Python identifier of ASCII letters"),
        ("class", "is a word of Python"),
        ("sum", "is a word of Python"),
        ("mse_loss", "is the name of a loss that has a spec already"),
        ("CrossEntropyLoss", "is the name of a loss that has a spec already"),
        ("define", "is a word of the file that is written"),
        ("input", "is a word of Python"),
        ("torch", "is a word of the file that is written"),
        ("json", "is the name of an installed module, which a file of that name would hide"),
        ("numpy", "is the name of an installed module, which a file of that name would hide"),
    ],
)
def test_a_name_that_a_new_loss_cannot_have_is_one_error(workplace, name, why):
    refused = new(workplace, name)
    assert refused.status == 4
    (said,) = refused.err
    assert said.startswith(f"lossspec new: {name!r} {why}")
    assert said.endswith(
        "; choose the name of a Python function that is not taken, such as my_loss"
    )
    assert list(workplace.path.iterdir()) == []


def test_the_name_of_every_loss_is_taken():
    for name in names_of(catalogue().values()):
        with pytest.raises(ArgumentError, match="has a spec already"):
            starter.check_name(name)


# === specs in a module ====================================================================


def test_a_spec_with_the_name_of_another_is_refused(workplace):
    workplace.write(
        mine="""
            from dataclasses import replace
            from lossspec.specs.mse_loss import spec as theirs

            spec = replace(theirs)

            def mse_loss(input, target, reduction="mean"):
                return input
        """
    )
    refused = run(workplace, "mine", "--loss=mse_loss")
    assert refused.status == 4
    assert "its spec 'mse_loss' has the name of another spec; rename one of them" in (
        " ".join(refused.err)
    )


def test_a_shipped_spec_that_a_module_imports_is_no_spec_of_its_own(workplace):
    workplace.write(
        mine="""
            from torch.nn.functional import mse_loss
            from lossspec.specs.mse_loss import spec
        """
    )
    words = ("mine", "--loss=mse_loss", "--clause=result-shape", "--profile=quick")
    assert run(workplace, *words).status == 0


def test_a_spec_without_an_implementation_says_which_name_is_wanted(workplace):
    new(workplace, "my_loss")
    change(workplace, "def my_loss(", "def other(")
    refused = run(workplace, "my_loss.py")
    assert refused.status == 4
    assert "nothing in it is named like a loss, such as my_loss, of its spec" in (
        " ".join(refused.err)
    )


# === three mistakes =======================================================================


def change(workplace, old, to, name="my_loss"):
    path = workplace.path / f"{name}.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, to))


def nan_in_the_domain(workplace):
    change(workplace, "import Example", "import Positive, NonNegative, Example")
    change(
        workplace, "lossspec.spec import", "lossspec.maths import log\nfrom lossspec.spec import"
    )
    change(workplace, "return ((input - target) / scale) ** 2\n", "return target * log(target)\n")
    change(workplace, "equivalents=(of_squares,),", "")
    change(workplace, "Real(learned=False)", "NonNegative(learned=False)")
    change(workplace, '"target": [0.0, 4.0]', '"target": [1.0, 4.0]')
    change(workplace, "value=0.625", "value=2.7726")


def wrong_example(workplace):
    change(workplace, "value=0.625", "value=0.652")


def size_rule_that_settle_breaks(workplace):
    change(
        workplace,
        "spec = Loss(",
        "def settle(rng, tensors, parameters):\n"
        "    kept = tensors['target'] != 0\n"
        "    tensors.update({name: x[kept] for name, x in tensors.items()})\n\n\n"
        "spec = Loss(",
    )
    change(workplace, '"(*), (*) -> (*)",', '"(N), (N) -> (N)",')
    change(workplace, "tensors={", 'sizes={"N": (2, 4)}, settle=settle, tensors={')


MISTAKES = {
    nan_in_the_domain: (
        r"define is nan at \[.*\] for finite numbers that its roles allow: input = \S+, "
        r"target = 0, scale = .*; correct define, narrow the domain of a role, or declare the "
        "nan with maths.by_convention"
    ),
    wrong_example: (
        r"its example \(worked by hand: \(0.25 \+ 1\) / 2\) states 0.652; define gives 0.625; "
        "correct one of them"
    ),
    size_rule_that_settle_breaks: (
        r"settle changed input from the shape \[[24]\] to \[\d\]; sizes allows 2 or 4 for the axis "
        "N; make settle keep the size of N"
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_one_error_line(workplace, mistake):
    new(workplace, "my_loss")
    mistake(workplace)
    result = run(workplace, "my_loss.py", "--loss=my_loss", "--profile=quick")
    assert result.status == 4
    (line,) = [line for line in (*result.out, *result.err) if line]
    wanted = rf"ERROR: --impl my_loss\.py: spec 'my_loss': {MISTAKES[mistake]}"
    assert re.fullmatch(wanted, line), line


def test_a_mistake_while_the_spec_is_made_names_its_line(workplace):
    new(workplace, "my_loss")
    change(workplace, "def define(input, target, scale)", "def define(input, target, scales)")
    result = run(workplace, "my_loss.py")
    (line,) = [line for line in (*result.out, *result.err) if line]
    number = 1 + (workplace.path / "my_loss.py").read_text().split("spec = Loss(")[0].count("\n")
    assert line == (
        "ERROR: --impl my_loss.py: spec 'my_loss': arguments of define: unknown 'scales'; known: "
        f"'input', 'target', 'scale' (my_loss.py, line {number})"
    )
