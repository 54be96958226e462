"""Extension: a loss is one file and a clause is one function, without other edits."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from lossspec.report.records import Report

ROOT = Path(__file__).parents[1]

SPEC = r'''
"""Squared hinge loss: how far the score is from being on its side by 1, squared."""

from lossspec.maths import positive_part
from lossspec.spec import Form, Logit, Loss, Sign


def define(input, target):
    return positive_part(1 - target * input) ** 2


spec = Loss(
    name="squared_hinge_loss",
    module=None,
    summary="The square of how far the score is from being on its side by 1.",
    formula=r"\ell(x, y) = \max(0,\; 1 - x y)^2",
    source="https://arxiv.org/abs/1306.0239",
    define=define,
    forms=(Form(shapes=("(*), (*) -> (*)",), tensors={"input": Logit(), "target": Sign()}),),
)
'''

CLAUSE = '''
"""Clauses on the sign of a result."""

from lossspec.clauses import Judgement, clause
from lossspec.clauses.trial import Deviation, Trial


@clause(lambda loss, surface: loss.name == "squared_hinge_loss")
def never_negative(trial: Trial) -> Judgement:
    """The loss is nowhere below 0."""
    value = trial.number(trial.outcome)
    if value is None:
        return None
    if (value < 0).any():
        raise Deviation("a negative loss", value.min(), "at least 0", check=None)
    return True
'''

LOSS = """
def squared_hinge_loss(input, target, reduction="mean"):
    losses = (1 - target * input).clamp(min=0) ** 2
    return losses if reduction == "none" else getattr(losses, reduction)()
"""


def test_a_spec_file_and_a_clause_function_need_no_other_edit(tmp_path):
    site = tmp_path / "site"
    for folder, place in (("lossspec", "lossspec"), ("suites", "lossspec/suites")):
        shutil.copytree(
            ROOT / folder, site / place, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    (site / "lossspec/specs/squared_hinge_loss.py").write_text(SPEC.lstrip(), "utf-8")
    (site / "lossspec/clauses/sign.py").write_text(CLAUSE.lstrip(), "utf-8")
    (tmp_path / "mine.py").write_text(dedent(LOSS), "utf-8")
    words = ("--impl=mine", "--profile=quick", "--clause=value,gradient,never-negative")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "lossspec.suites", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = Report.read(tmp_path / "reports" / "mine" / "conformance.json")
    found = {(cell.loss, cell.clause): str(cell.verdict) for cell in report.cells if cell.examples}
    assert found == {
        ("squared_hinge_loss", clause): "conforms"
        for clause in ("value", "gradient", "never-negative")
    }
