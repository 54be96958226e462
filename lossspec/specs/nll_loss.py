"""Negative log-likelihood loss: minus the log-probability of the target class."""

from lossspec.maths import pick
from lossspec.spec.loss import Example, Form, Loss
from lossspec.spec.parameters import ignore_index
from lossspec.spec.roles import ClassIndex, LogProbability, Weight


def define(input, target, weight):
    """Return -w_t x_t, where t is the target class."""
    return -pick(weight, target) * pick(input, target)


def divisor(target, weight):
    """Return w_t: the mean divides by the sum of the weights of the targets."""
    return pick(weight, target)


spec = Loss(
    name="nll_loss",
    module="NLLLoss",
    summary="Minus the log-probability x of class t, times the weight of the class.",
    formula=r"\ell(x, t) = -w_t\,x_t",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(
        Form(
            shapes=(
                "(N, C), (N) -> (N)",
                "(C), () -> ()",
                "(N, C, d1, ..., dk), (N, d1, ..., dk) -> (N, d1, ..., dk)",
            ),
            tensors={
                "input": LogProbability(),
                "target": ClassIndex(ignored_by="ignore_index"),
            },
            divisor=divisor,
            skips_ignored=True,
            widest=1027,
        ),
    ),
    options={
        "weight": Weight(
            shape="(C)",
            doc="Factor for each class; the mean divides by the sum of the weights of the targets"
            " that are not ignored.",
        )
    },
    parameters={"ignore_index": ignore_index()},
    piecewise_linear=True,
    examples=(
        Example(
            arguments={
                "input": [
                    [-1.6184540440, -1.4286540440, -1.6390540440, -1.7891540440, -1.6049540440],
                    [-1.7394124976, -1.8400124976, -1.2289124976, -1.6037124976, -1.7614124976],
                    [-1.5967454180, -1.3826454180, -2.0379454180, -1.3838454180, -1.7980454180],
                ],
                "target": [1, 0, 4],
            },
            value=1.6554,
            source="the log-softmax of the scores below",
        ),
        Example(
            arguments={
                "input": [
                    [0.5153, 0.7051, 0.4947, 0.3446, 0.5288],
                    [0.3464, 0.2458, 0.8569, 0.4821, 0.3244],
                    [0.4474, 0.6615, 0.0062, 0.6603, 0.2461],
                ],
                "target": [1, 0, 4],
            },
            value=-0.4325,
            source="worked by hand from raw scores: -(0.7051 + 0.3464 + 0.2461) / 3",
        ),
    ),
    notes=(
        "The log-probability of a class that is not the target may be -inf, which makes the class"
        " impossible. The row of an ignored element may hold any number, including nan.",
    ),
)
