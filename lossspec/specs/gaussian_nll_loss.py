"""Gaussian negative log-likelihood of a target, given the mean and the variance."""

from math import log as exact_log

from lossspec.maths import PI, clamped, log, sqrt
from lossspec.spec.loss import Example, Form, Loss, Refusal, Symmetry
from lossspec.spec.parameters import number, switch
from lossspec.spec.roles import NonNegative, Real


def define(input, target, var, full, eps):
    """Return (log v' + (x - y)² / v') / 2 with v' = max(v, ε); with `full`, plus (log 2π) / 2."""
    v = clamped(var, eps)
    loss = (log(v) + (input - target) ** 2 / v) / 2
    return loss + exact_log(2 * PI) / 2 if full else loss


def of_standard_score(input, target, var, full, eps):
    """Return log σ + ((x - y) / σ)² / 2 with the standard deviation σ, the root of v'."""
    deviation = sqrt(clamped(var, eps))
    loss = log(deviation) + ((input - target) / deviation) ** 2 / 2
    return loss + exact_log(2 * PI) / 2 if full else loss


def negative_variance(tensors, parameters):
    """Make one variance a little negative, so that a check of their mean misses it."""
    var = tensors["var"]
    if not var.size:
        return False
    if var.ndim:
        var.flat[var.size // 2] = -(2**-10)
    else:
        tensors["var"] = -1.0
    return True


spec = Loss(
    name="gaussian_nll_loss",
    module="GaussianNLLLoss",
    summary="Minus the log-likelihood of the target y under a normal distribution of mean x and"
    " variance v.",
    formula=r"\ell(x, y, v) = \tfrac12\left(\log v' + (x - y)^2 / v'\right)"
    r" + [\,\text{full}\,]\,\tfrac12 \log 2\pi,\quad v' = \max(v, \epsilon)",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.GaussianNLLLoss.html",
    define=define,
    equivalents=(of_standard_score,),
    forms=(
        Form(
            name="variances",
            shapes=(
                "(*), (*), (*) -> (*)",
                "(*, D), (*, D), (*, 1) -> (*, D)",
                "(N, D), (N, D), (N) -> (N, D)",
                "(*, D), (*, D), (*) -> (*, D)",
                "(N, C, d1, ..., dk), (N, C, d1, ..., dk), (N, 1, d1, ..., dk)"
                " -> (N, C, d1, ..., dk)",
                "(N, *), (1, *), (N, *) -> (N, *)",
                "(*, D), (*, 1), (*, D) -> (*, D)",
            ),
            tensors={"input": Real(), "target": Real(learned=False), "var": NonNegative()},
        ),
        Form(
            name="one variance",
            shapes=("(*), (*), () -> (*)",),
            tensors={
                "input": Real(),
                "target": Real(learned=False),
                "var": NonNegative(scalar=True),
            },
        ),
    ),
    parameters={
        "full": switch(False, doc="Whether to add the constant term, (log 2π) / 2."),
        "eps": number(
            *(1e-6, 2.0**-10, 0.5, 1e-12),
            doc="The lower bound of the variance. A smaller variance is replaced by it and gets the"
            " gradient at the bound, since autograd does not see the replacement.",
        ),
    },
    refusals=(Refusal(says="a variance is negative", breaks=negative_variance),),
    symmetries=(
        Symmetry(
            says="input and target negated",
            maps={"input": ("input", -1, 0), "target": ("target", -1, 0)},
        ),
    ),
    examples=(
        Example(
            form="variances",
            arguments={"input": [0.0, 3.0], "target": [1.0, 1.0], "var": [4.0, 1.0]},
            value=1.4091,
            source="worked by hand: ((log 4 + 1/4) / 2 + (0 + 4) / 2) / 2",
        ),
        Example(
            form="one variance",
            arguments={"input": [0.0], "target": [1.0], "var": 4.0},
            parameters={"full": True},
            value=1.7371,
            source="worked by hand: (log 4 + 1/4 + log 2π) / 2",
        ),
    ),
    notes=(
        "The page of the function says that ε is added to the variance, and refers to the page of"
        " the class, where ε is the lower bound of the variance. This spec follows the class.",
        "A target or variance may broadcast along one axis of size 1. Broadcasting along several"
        " axes is not documented.",
    ),
)
