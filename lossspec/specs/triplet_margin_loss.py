"""Triplet margin loss: the anchor should be nearer to the positive than to the negative."""

from math import inf

from lossspec.maths import minimum, norm, positive_part
from lossspec.spec.loss import Example, Form, Loss, Symmetry
from lossspec.spec.parameters import number, switch
from lossspec.spec.roles import Real


def define(anchor, positive, negative, margin, p, eps, swap):
    """Return max(0, d(a, x) - d(a, y) + m) with d(u, v) = ‖u - v + ε‖ₚ."""

    def d(x, y):
        return norm(x - y + eps, p)

    away = d(anchor, negative)
    if swap:
        away = minimum(away, d(positive, negative))
    return positive_part(d(anchor, positive) - away + margin)


TENSORS = {"anchor": Real(), "positive": Real(), "negative": Real()}
CORNERS = {"anchor": [[0.0, 0.0]], "positive": [[3.0, 4.0]], "negative": [[0.0, 6.0]]}
PAPER = "https://bmva-archive.org.uk/bmvc/2016/papers/paper119/index.html"

spec = Loss(
    name="triplet_margin_loss",
    module="TripletMarginLoss",
    summary="How far the anchor a falls short of being nearer to the positive x than to the"
    " negative y by the margin m, in p-norm distance.",
    formula=r"\ell(a, x, y) = \max(0,\; d(a, x) - d(a, y) + m),\quad"
    r" d(u, v) = \lVert u - v + \varepsilon \rVert_p;"
    r"\quad\text{with swap } \min(d(a, y), d(x, y)) \text{ for } d(a, y)",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.TripletMarginLoss.html;"
    f" the swap: {PAPER}",
    define=define,
    deprecated_reductions=True,
    forms=(Form(shapes=("(N, D), (N, D), (N, D) -> (N)", "(D), (D), (D) -> ()"), tensors=TENSORS),),
    parameters={
        "margin": number(
            1.0, 0.3, 2.5, 20.0, refused=(0.0, -1.0), doc="By how much nearer; above 0."
        ),
        "p": number(
            2.0, 1.0, 1.5, 3.0, inf, doc="The degree of the norm; inf gives the maximum norm."
        ),
        "eps": number(
            *(1e-6, 0.0, 2.0**-10, 0.25), absent=0.0, doc="Added to each difference of coordinates."
        ),
        "swap": switch(
            False,
            doc="Whether to take the smaller of the negative's distances from the anchor and from"
            " the positive.",
        ),
    },
    symmetries=(
        Symmetry(says="1 added to all three", maps={name: (name, 1, 1) for name in TENSORS}),
    ),
    examples=(
        Example(
            arguments=CORNERS,
            parameters={"margin": 2.0},
            value=1.0,
            source="worked by hand: 5 - 6 + 2",
        ),
        Example(
            arguments=CORNERS,
            parameters={"margin": 2.0, "swap": True},
            value=3.3944,
            source="worked by hand: 5 - √13 + 2",
        ),
        Example(
            arguments=CORNERS,
            parameters={"p": 1.0},
            value=2.0,
            source="worked by hand: 7 - 6 + 1",
        ),
    ),
)
