"""Poisson negative log-likelihood of a count, given the rate or its logarithm."""

from lossspec.maths import PI, exp, log, where, x_log_x
from lossspec.spec.loss import Example, Form, Loss
from lossspec.spec.parameters import number, switch
from lossspec.spec.roles import Count, NonNegative, Real


def define(input, target, log_input, full, eps):
    """Return λ - y log λ, where x is log λ, or λ; with `full`, plus approximately log y!."""
    loss = exp(input) - target * input if log_input else input - target * log(input + eps)
    return loss + log_factorial(target) if full else loss


def log_factorial(n):
    """Return Stirling's approximation of log n! for n > 1, and 0 otherwise."""
    many = where(n > 1, n, 2)
    return where(n > 1, x_log_x(many) - many + log(2 * PI * many) / 2, 0)


SHAPES = ("(*), (*) -> (*)",)

spec = Loss(
    name="poisson_nll_loss",
    module="PoissonNLLLoss",
    summary="Minus the log-likelihood of the count y under a Poisson distribution of rate λ. The"
    " input x is log λ, or λ itself.",
    formula=r"\ell(x, y) = \lambda - y \log\lambda + [\,\text{full}, y > 1\,]\,"
    r"\left(y \log y - y + \tfrac12 \log 2\pi y\right),\quad"
    r" \lambda = e^x \text{ or } \lambda = x,\ \log\lambda = \log(x + \epsilon)",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.PoissonNLLLoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(
        Form(
            name="log rate",
            fixed={"log_input": True},
            shapes=SHAPES,
            tensors={"input": Real(), "target": Count(learned=False)},
        ),
        Form(
            name="rate",
            fixed={"log_input": False},
            shapes=SHAPES,
            tensors={"input": NonNegative(), "target": Count(learned=False)},
        ),
    ),
    parameters={
        "log_input": switch(True, doc="Whether the input is the logarithm of the rate."),
        "full": switch(False, doc="Whether to add Stirling's approximation of log y! if y > 1."),
        "eps": number(
            *(1e-8, 2.0**-10, 0.5, 1e-30),
            doc="Added to the rate inside the logarithm, so that a rate of 0 has a finite loss. It"
            " has no effect if the input is the logarithm of the rate.",
        ),
    },
    examples=(
        Example(
            form="log rate",
            arguments={"input": [0.0, 1.0], "target": [1.0, 2.0]},
            value=0.8591,
            source="worked by hand: (1 + (e - 2)) / 2",
        ),
        Example(
            form="rate",
            arguments={"input": [3.0], "target": [5.0]},
            parameters={"log_input": False, "full": True},
            value=2.2778,
            source="worked by hand: 3 - 5 log 3 + (5 log 5 - 5 + log(10π) / 2)",
        ),
    ),
)
