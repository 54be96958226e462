"""Triplet margin loss with a distance function of the caller's choice."""

from numpy import inf

from lossspec.maths import minimum, norm, positive_part, total
from lossspec.spec.loss import Example, Form, Loss, Symmetry
from lossspec.spec.parameters import Parameter, number, switch
from lossspec.spec.roles import Real

SQUARED = "lambda x, y: (x - y).square().flatten(1).sum(1)"


def squared(x, y):
    """Return ‖x - y‖² over all axes but the batch."""
    z = (x - y) ** 2
    while z.ndim > 2:
        z = total(z)
    return z


def of_a_batch(x, y):
    """Return the sum of |x - y| over the coordinates, divided by the number of rows."""
    return norm(x - y, 1) / x.shape[-2]


#: For each value of `distance_function`, which is Python code or None, the distance in our words.
DISTANCES = {
    None: lambda x, y: norm(x - y + 1e-6, 2),
    "torch.nn.PairwiseDistance(p=1.0, eps=0.25)": lambda x, y: norm(x - y + 0.25, 1),
    "lambda x, y: torch.max(torch.abs(x - y), dim=1).values": lambda x, y: norm(x - y, inf),
    SQUARED: squared,
}


def of_tokens(x, y):
    """Return the largest sum of |x - y| over the coordinates of a token."""
    return norm(norm(x - y, 1), inf)


#: Distances that only examples use. They depend on the number of rows, and on the axes.
OF_A_BATCH = "lambda x, y: torch.abs(x - y).sum(1) / len(x)"
OF_TOKENS = "lambda x, y: torch.abs(x - y).sum(-1).amax(-1)"
#: The same as `DISTANCES` for these.
SPECIAL = {OF_A_BATCH: of_a_batch, OF_TOKENS: of_tokens}


def define(anchor, positive, negative, distance_function, margin, swap):
    """Return max(0, d(a, x) - d(a, y) + m) for the distance d that is given."""
    d = {**DISTANCES, **SPECIAL}[distance_function]
    away = d(anchor, negative)
    if swap:
        away = minimum(away, d(positive, negative))
    return positive_part(d(anchor, positive) - away + margin)


TENSORS = {"anchor": Real(), "positive": Real(), "negative": Real()}
CORNERS = {"anchor": [[0.0, 0.0]], "positive": [[3.0, 4.0]], "negative": [[0.0, 6.0]]}

spec = Loss(
    name="triplet_margin_with_distance_loss",
    module="TripletMarginWithDistanceLoss",
    summary="How far the anchor a falls short of being nearer to the positive x than to the"
    " negative y by the margin m.",
    formula=r"\ell(a, x, y) = \max(0,\; d(a, x) - d(a, y) + m);"
    r"\quad\text{with swap } \min(d(a, y), d(x, y)) \text{ for } d(a, y)",
    source="https://docs.pytorch.org/docs/stable/generated/"
    "torch.nn.TripletMarginWithDistanceLoss.html",
    define=define,
    forms=(
        Form(name="vectors", shapes=("(N, D), (N, D), (N, D) -> (N)",), tensors=TENSORS),
        Form(
            name="any shape",
            fixed={"distance_function": SQUARED},
            shapes=("(N, d1, ..., dk), (N, d1, ..., dk), (N, d1, ..., dk) -> (N)",),
            tensors=TENSORS,
        ),
    ),
    parameters={
        "distance_function": Parameter(
            default=None,
            values=tuple(DISTANCES),
            code=True,
            doc="The distance d: a function of two batches that returns a number for each sample."
            " The default is Euclidean, with 1e-6 added to each difference of coordinates.",
        ),
        "margin": number(
            1.0, 0.3, 0.0, 2.5, 20.0, refused=(-1.0,), doc="By how much nearer; 0 or more."
        ),
        "swap": switch(
            False,
            doc="Whether to take the smaller of the negative's distances from the anchor and from"
            " the positive.",
        ),
    },
    symmetries=(
        Symmetry(
            says="1 added to all three",
            maps={name: (name, 1, 1) for name in TENSORS},
        ),
    ),
    examples=(
        Example(
            form="vectors",
            arguments=CORNERS,
            parameters={"margin": 2.0},
            value=1.0,
            source="worked by hand: 5 - 6 + 2",
        ),
        Example(
            form="vectors",
            arguments=CORNERS,
            parameters={"margin": 2.0, "distance_function": SQUARED, "swap": True},
            value=14.0,
            source="worked by hand: 25 - 13 + 2",
        ),
        Example(
            form="vectors",
            arguments={name: [*rows, *rows] for name, rows in CORNERS.items()},
            parameters={"margin": 2.0, "distance_function": OF_A_BATCH},
            value=2.5,
            source="worked by hand: 7 / 2 - 6 / 2 + 2",
        ),
        Example(
            form="any shape",
            arguments={
                "anchor": [[[0.0, 0.0], [0.0, 0.0]]],
                "positive": [[[3.0, 4.0], [0.0, 12.0]]],
                "negative": [[[0.0, 5.0], [2.0, 1.0]]],
            },
            parameters={"margin": 2.0, "distance_function": OF_TOKENS},
            value=9.0,
            source="worked by hand: max(7, 12) - max(5, 3) + 2",
        ),
    ),
)
