"""Cross entropy of the softmax of the input with a class, or with a distribution over classes."""

from lossspec.maths import log_softmax, log_sum_exp, times, total, where
from lossspec.spec.loss import Example, Form, Loss
from lossspec.spec.parameters import ignore_index, number
from lossspec.spec.roles import ClassIndex, Distribution, Logit, Weight


def define(input, target, weight, label_smoothing):
    """Return -Σ w p' log softmax(x) over the classes, with p' = (1 - ε) p + ε / C."""
    p = smoothed(target, label_smoothing)
    return -total(weight * times(p, log_softmax(input)))


def skipping_zeros(input, target, weight, label_smoothing):
    """Return the same sum without the terms with p' = 0, whose derivative by p is then 0."""
    p = smoothed(target, label_smoothing)
    return -total(where(p == 0, 0, weight * times(p, log_softmax(input))))


def of_log_sum(input, target, weight, label_smoothing):
    """Return Σ w p' (log Σ eˣ - x) over the classes, without the terms with p' = 0.

    Here p' is written as p - ε (p - 1 / C), which cancels where p is much larger than p'.
    """
    p = target - label_smoothing * (target - 1 / max(target.shape[-1], 1))
    return total(where(p == 0, 0, weight * times(p, log_sum_exp(input)[..., None] - input)))


def smoothed(target, label_smoothing):
    """Return (1 - ε) p + ε / C."""
    classes = target.shape[-1]
    return (1 - label_smoothing) * target + label_smoothing / max(classes, 1)


def divisor(target, weight):
    """Return Σ w p over the classes: the weight of the target class."""
    return total(weight * target)


#: The softmax of [3.9, -5.1, 9.3] and of [-5.3, 7.2, -8.4].
SOFT = [
    [0.004496270666031674, 5.548838820156531e-07, 0.9955031744500863],
    [3.7266386585505353e-06, 0.9999961054792422, 1.6788209917669984e-07],
]

spec = Loss(
    name="cross_entropy",
    module="CrossEntropyLoss",
    summary="Cross entropy of the softmax of the input x relative to the target distribution p. A"
    " class index t stands for the distribution that gives t the probability 1.",
    formula=r"\ell(x, p) = -\sum_c w_c\,p'_c \log\frac{e^{x_c}}{\sum_j e^{x_j}},\quad"
    r" p' = (1 - \varepsilon)\,p + \varepsilon / C",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html",
    define=define,
    equivalents=(skipping_zeros, of_log_sum),
    shift_invariant=("input",),
    deprecated_reductions=True,
    forms=(
        Form(
            name="class indices",
            shapes=(
                "(N, C), (N) -> (N)",
                "(C), () -> ()",
                "(N, C, d1, ..., dk), (N, d1, ..., dk) -> (N, d1, ..., dk)",
            ),
            tensors={
                "input": Logit(),
                "target": ClassIndex(one_hot=True, ignored_by="ignore_index"),
            },
            divisor=divisor,
            skips_ignored=True,
            widest=1027,
        ),
        Form(
            name="class probabilities",
            optional=True,
            shapes=(
                "(N, C), (N, C) -> (N)",
                "(C), (C) -> ()",
                "(N, C, d1, ..., dk), (N, C, d1, ..., dk) -> (N, d1, ..., dk)",
            ),
            tensors={"input": Logit(), "target": Distribution(learned=False)},
            widest=1027,
        ),
    ),
    options={
        "weight": Weight(
            shape="(C)",
            doc="Factor for each class. With class indices, the mean divides by the sum of the"
            " weights of the targets that are not ignored; with class probabilities, by the number"
            " of targets.",
        )
    },
    parameters={
        "ignore_index": ignore_index(forms=["class indices"]),
        "label_smoothing": number(
            0.0,
            0.1,
            0.5,
            1.0,
            refused=(-0.1, 1.5),
            smooths=True,
            doc="Share ε of the uniform distribution in the smoothed target.",
        ),
    },
    examples=(
        Example(
            form="class indices",
            arguments={
                "input": [
                    [0.5153, 0.7051, 0.4947, 0.3446, 0.5288],
                    [0.3464, 0.2458, 0.8569, 0.4821, 0.3244],
                    [0.4474, 0.6615, 0.0062, 0.6603, 0.2461],
                ],
                "target": [1, 0, 4],
            },
            value=1.6554,
            source="as nll_loss of the log-softmax of these scores",
        ),
        Example(
            form="class probabilities",
            arguments={"input": [7.4, 2.8, -0.6], "target": SOFT[0]},
            value=7.9744,
            source="target = softmax([3.9, -5.1, 9.3])",
        ),
        Example(
            form="class probabilities",
            arguments={"input": [[7.4, 2.8, -0.6], [1.3, 0.0, 4.2]], "target": SOFT},
            reduction="sum",
            value=12.2420,
            source="target = softmax([3.9, -5.1, 9.3]), softmax([-5.3, 7.2, -8.4])",
        ),
        Example(
            form="class probabilities",
            arguments={"input": [[7.4, 2.8, -0.6], [1.3, 0.0, 4.2]], "target": SOFT},
            value=6.1210,
            source="target = softmax([3.9, -5.1, 9.3]), softmax([-5.3, 7.2, -8.4])",
        ),
    ),
    notes=(
        "The score of a class that is not the target may be -inf, which makes the class impossible."
        " The row of an ignored element may hold any number, including nan.",
    ),
)
