"""The squared difference of input and target, measured in units of `scale`.

This file judges itself. Change it step by step to your loss, and repeat the command after each
step:

    lossspec run my_loss.py --loss=my_loss --profile=quick
"""

from lossspec.spec import Example, Form, Loss, Real, number

# 1. The formula, as in the paper. `define` gets the tensors and the parameters by name, and
#    returns the loss before reduction. Use + - * / ** and the functions of `lossspec.maths`, such
#    as log, exp, where and total. Each of them rounds as a dtype does, so no tolerance is set.


def define(input, target, scale):
    """Return ((x - y) / s)²."""
    return ((input - target) / scale) ** 2


# 2. An equal formula that other right implementations compute, which rounds differently. Declare
#    each of them in `equivalents` below; leave it empty if there is none.


def of_squares(input, target, scale):
    """Return (x - y)² / s²."""
    return (input - target) ** 2 / scale**2


# 3. The facts about the loss. lossspec draws its calls from them.

spec = Loss(
    name="my_loss",
    module=None,  # the name of the class, if the loss has one
    summary="The squared difference of x and y in units of s.",
    formula=r"\ell(x, y) = \left(\frac{x - y}{s}\right)^2",
    source="the paper or page with the formula",
    define=define,
    equivalents=(of_squares,),
    forms=(
        Form(
            # `*` stands for any axes. For a loss of rows, write "(N, D), (N, D) -> (N)": `define`
            # then sums over D, for example with `lossspec.maths.total`.
            shapes=("(*), (*) -> (*)",),
            # The role says which numbers are valid: Real, Positive, Probability, Binary, Logit,
            # ClassIndex and others of `lossspec.spec`. A target is data and is not trained.
            tensors={"input": Real(), "target": Real(learned=False)},
        ),
    ),
    parameters={
        # The default comes first, then other valid values. Those in `refused` must raise.
        "scale": number(1.0, 0.3, 4.0, refused=(0.0, -1.0), doc="The unit of the difference."),
    },
    # Each example is compared with `define` before anything is judged. Take them from the paper,
    # or work them out by hand.
    examples=(
        Example(
            arguments={"input": [1.0, 2.0], "target": [0.0, 4.0]},
            parameters={"scale": 2.0},
            value=0.625,
            source="worked by hand: (0.25 + 1) / 2",
        ),
    ),
)


# 4. An implementation, which is judged by the spec. It has the name of the loss.


def my_loss(input, target, scale=1.0, reduction="mean"):
    """Return the loss of torch tensors."""
    if input.shape != target.shape:
        raise ValueError(f"input {list(input.shape)} and target {list(target.shape)} differ")
    if scale <= 0:
        raise ValueError(f"scale must be above 0, got {scale}")
    losses = ((input - target) / scale) ** 2
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}")
    return losses.mean() if reduction == "mean" else losses.sum()
