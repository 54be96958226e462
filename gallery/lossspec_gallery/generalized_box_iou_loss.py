"""GIoU loss of boxes: how little two boxes overlap, and how far apart they are if they do not."""

from lossspec.maths import maximum, minimum, positive_part
from lossspec.spec import Box, Example, Form, Loss, number


def area(box):
    """Return (x2 - x1) (y2 - y1)."""
    return (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])


def define(input, target, eps):
    """Return 1 - |A ∩ B| / |A ∪ B| + |C minus (A ∪ B)| / |C|, where C is the box around both."""
    inner, outer = [], []
    for side in (0, 1):  # x, then y
        left, right = input[..., side], target[..., side]
        left_end, right_end = input[..., side + 2], target[..., side + 2]
        inner.append(positive_part(minimum(left_end, right_end) - maximum(left, right)))
        outer.append(maximum(left_end, right_end) - minimum(left, right))
    overlap, around = inner[0] * inner[1], outer[0] * outer[1]
    union = area(input) + area(target) - overlap
    return 1 - overlap / (union + eps) + (around - union) / (around + eps)


spec = Loss(
    name="generalized_box_iou_loss",
    module=None,
    summary="One minus the generalised intersection over union of the boxes A and B, which are"
    " given as (x1, y1, x2, y2). C is the smallest box around both.",
    formula=r"\ell(A, B) = 1 - \frac{|A \cap B|}{|A \cup B| + \varepsilon}"
    r" + \frac{|C| - |A \cup B|}{|C| + \varepsilon}",
    source="https://arxiv.org/abs/1902.09630",
    define=define,
    forms=(
        Form(
            shapes=("(N, 4), (N, 4) -> (N)",),
            tensors={"input": Box(), "target": Box(learned=False)},
        ),
    ),
    parameters={
        "eps": number(1e-7, 1e-3, refused=(0.0, -1.0), doc="Added to both divisors; above 0.")
    },
    examples=(
        Example(
            arguments={"input": [[0.0, 0.0, 2.0, 2.0]], "target": [[1.0, 1.0, 3.0, 3.0]]},
            value=1.0794,
            source="worked by hand: 1 - 1/7 + (9 - 7) / 9",
        ),
        Example(
            arguments={"input": [[0.0, 0.0, 1.0, 1.0]], "target": [[2.0, 0.0, 3.0, 1.0]]},
            value=1.3333,
            source="worked by hand: 1 - 0 + (3 - 2) / 3",
        ),
    ),
)
