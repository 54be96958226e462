"""Cosine embedding loss: the cosine of similar vectors should be 1, that of others small."""

import numpy as np

from lossspec.maths import by_convention, norm, positive_part, total, where
from lossspec.spec.loss import Example, Form, Loss, Symmetry
from lossspec.spec.parameters import number
from lossspec.spec.roles import Real, Sign

#: No case has a shorter vector other than 0. The documentation writes cos, which may mean torch's
#: cosine similarity, and that bounds the lengths, or their product, from below by 1e-8.
SHORTEST = 1e-4


def define(input1, input2, target, margin):
    """Return 1 - cos(a, b) for y = 1, and max(0, cos(a, b) - m) for y = -1."""
    lengths = norm(input1, 2) * norm(input2, 2)
    cos = by_convention(total(input1 * input2) / lengths, 0.0, lengths == 0)
    return where(target > 0, 1 - cos, positive_part(cos - margin))


def of_unit_vectors(input1, input2, target, margin):
    """Return the same with cos(a, b) = (|u|² + |v|² - |u - v|²) / 2 of the unit vectors u and v."""
    long1, long2 = norm(input1, 2), norm(input2, 2)
    u = by_convention(input1 / long1[..., None], 0.0, (long1 == 0)[..., None])
    v = by_convention(input2 / long2[..., None], 0.0, (long2 == 0)[..., None])
    cos = (total(u * u) + total(v * v) - total((u - v) * (u - v))) / 2
    return where(target > 0, 1 - cos, positive_part(cos - margin))


def settle(rng, tensors, parameters):
    """Lengthen vectors that are too short but not zero; give one case in ten a zero vector."""
    for name in ("input1", "input2"):
        x = tensors[name].astype(np.float64)
        if x.size and rng.random() < 0.1:
            np.atleast_2d(x)[0] = 0.0
        length = np.linalg.norm(x, axis=-1, keepdims=True)
        short = (length > 0) & (length < SHORTEST)
        tensors[name] = np.where(short, x + 1, x).astype(tensors[name].dtype)


spec = Loss(
    name="cosine_embedding_loss",
    module="CosineEmbeddingLoss",
    summary="One minus the cosine of the angle between a and b for a similar pair (y = 1). For a"
    " dissimilar pair (y = -1), how far the cosine exceeds the margin m.",
    formula=r"\ell(a, b, y) = \begin{cases} 1 - \cos(a, b) & y = 1 \\"
    r" \max(0, \cos(a, b) - m) & y = -1 \end{cases},\quad"
    r" \cos(a, b) = \frac{a \cdot b}{\lVert a \rVert\,\lVert b \rVert}",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.CosineEmbeddingLoss.html",
    define=define,
    equivalents=(of_unit_vectors,),
    deprecated_reductions=True,
    forms=(
        Form(
            shapes=("(N, D), (N, D), (N) -> (N)", "(D), (D), () -> ()"),
            tensors={"input1": Real(), "input2": Real(), "target": Sign()},
            settle=settle,
        ),
    ),
    parameters={
        "margin": number(
            0.0, 0.3, -0.5, 1.0, -1.0, doc="The cosine up to which a dissimilar pair has loss 0."
        )
    },
    symmetries=(
        Symmetry(
            says="both inputs negated",
            maps={"input1": ("input1", -1, 0), "input2": ("input2", -1, 0)},
        ),
    ),
    examples=(
        Example(
            arguments={
                "input1": [[1.0, 0.0], [1.0, 0.0]],
                "input2": [[3.0, 4.0], [3.0, 4.0]],
                "target": [1.0, -1.0],
            },
            parameters={"margin": 0.5},
            reduction="none",
            value=[0.4, 0.1],
            source="worked by hand: the cosine is 3/5",
        ),
    ),
    notes=(
        "The cosine of a zero vector is 0, as in torch.nn.CosineSimilarity, which divides by at"
        " least its eps. The gradient of a zero vector is not judged.",
    ),
)
