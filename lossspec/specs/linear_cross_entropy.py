"""Cross entropy of the softmax of a linear layer's scores."""

import math

from lossspec.maths import matvec
from lossspec.spec.loss import Example, Form, Loss, Refusal
from lossspec.spec.parameters import Parameter, ignore_index, number
from lossspec.spec.roles import ClassIndex, Distribution, Factor, Weight
from lossspec.specs.cross_entropy import define as cross_entropy
from lossspec.specs.cross_entropy import divisor, of_log_sum, skipping_zeros

AUTO = "torch.nn.LinearCrossEntropyOptions()"
BY_TWO = "torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2, acc_policy='accurate')"
CHUNKED = (AUTO, BY_TWO)


def define(input, linear_weight, target, linear_bias, weight, label_smoothing):
    """Return `cross_entropy` of the scores A x + b."""
    scores = matvec(linear_weight, input) + linear_bias
    return cross_entropy(scores, target, weight, label_smoothing)


def define_skipping_zeros(input, linear_weight, target, linear_bias, weight, label_smoothing):
    """Return `cross_entropy` of the scores without the terms with p' = 0."""
    scores = matvec(linear_weight, input) + linear_bias
    return skipping_zeros(scores, target, weight, label_smoothing)


def define_of_log_sum(input, linear_weight, target, linear_bias, weight, label_smoothing):
    """Return `cross_entropy` of the scores z as a sum of log Σ eᶻ - z."""
    scores = matvec(linear_weight, input) + linear_bias
    return of_log_sum(scores, target, weight, label_smoothing)


def constructor(size, tensors):
    """Return the arguments of the class, from the sizes of the axes and the tensors given."""
    return {
        "in_features": size["H"],
        "num_classes": size["C"],
        "out_features": tuple(size[axis] for axis in size if axis.startswith("d")),
        **({"bias": True} if "linear_bias" in tensors else {}),  # the default is False
    }


def parts(size, parameters):
    """Return how many chunks of the batch torch adds up with these options."""
    rows = size.get("N", 1)
    if parameters["options"] == BY_TWO:
        return math.ceil(rows / 2)
    if parameters["options"] == AUTO:
        # Torch documents C / H chunks for `chunking_method` "auto", with C classes and H features.
        # Torch 2.14 may make 4 H / C to save memory. Torch rounds the rows of a chunk to a power of
        # two, and torch 2.13 halves them, so allow for twice the larger number.
        features, classes = max(size["H"], 1), max(size["C"], 1)
        return min(rows, 2 * math.ceil(4 * max(features / classes, classes / features)))
    return 1


def layer(target):
    """Return the roles of the tensors, with the role of the target."""
    return {
        "input": Factor(),
        "linear_weight": Factor(state="linear.weight"),
        "target": target,
    }


def narrower(tensors, parameters):
    """Remove a feature from the input of a valid call."""
    if tensors["input"].shape[-1] < 2:
        return False
    tensors["input"] = tensors["input"][..., 1:].copy()
    return True


def unbatched(tensors, parameters):
    """Remove the batch from a valid call whose layer has further axes."""
    if tensors["linear_weight"].ndim == 2 or not tensors["input"].size:
        return False
    tensors["input"] = tensors["input"][0].copy()
    tensors["target"] = tensors["target"][0].copy()
    return True


spec = Loss(
    name="linear_cross_entropy",
    module="LinearCrossEntropyLoss",
    summary="Cross entropy of the softmax of A x + b relative to the target distribution p. A class"
    " index t stands for the distribution that gives t the probability 1.",
    formula=r"\ell(x, p) = -\sum_c w_c\,p'_c \log\frac{e^{z_c}}{\sum_j e^{z_j}},\quad"
    r" z = A x + b,\quad p' = (1 - \varepsilon)\,p + \varepsilon / C",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.LinearCrossEntropyLoss.html",
    define=define,
    equivalents=(define_skipping_zeros, define_of_log_sum),
    shift_invariant=("linear_bias",),
    forms=(
        Form(
            name="class indices",
            shapes=(
                "(N, H), (C, H), (N) -> (N)",
                "(H), (C, H), () -> ()",
                "(N, H), (C, d1, ..., dk, H), (N, d1, ..., dk) -> (N, d1, ..., dk)",
            ),
            tensors=layer(
                ClassIndex(one_hot=True, ignored_by="ignore_index", tolerated=("uint8",))
            ),
            divisor=divisor,
            skips_ignored=True,
        ),
        Form(
            name="class probabilities",
            optional=True,
            shapes=(
                "(N, H), (C, H), (N, C) -> (N)",
                "(H), (C, H), (C) -> ()",
                "(N, H), (C, d1, ..., dk, H), (N, C, d1, ..., dk) -> (N, d1, ..., dk)",
            ),
            tensors=layer(Distribution(learned=False)),
        ),
    ),
    options={
        "linear_bias": Factor(
            shape="(C, *)",
            default=0.0,
            state="linear.bias",
            doc="The bias b of the layer, in the shape of its weight without the last axis.",
        ),
        "weight": Weight(
            shape="(C)",
            doc="Factor for each class. With class indices, the mean divides by the sum of the"
            " weights of the targets that are not ignored; with class probabilities, by the number"
            " of targets.",
        ),
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
        "options": Parameter(
            default=None,
            values=(None, *CHUNKED),
            code=True,
            limited=CHUNKED,
            doc="How to cut the batch into chunks, which saves memory. The result changes only by"
            " the rounding of a sum over the chunks, added one after the other. Options do not"
            " apply with label smoothing or further axes, nor in torch 2.13 with class"
            " probabilities: the call warns and ignores them.",
        ),
    },
    constructor=constructor,
    parts=parts,
    refusals=(
        Refusal(
            says="the input has fewer features than the layer's weight",
            breaks=narrower,
        ),
        Refusal(
            says="the input has no batch, and the layer has further axes",
            breaks=unbatched,
        ),
    ),
    examples=(
        Example(
            form="class probabilities",
            arguments={
                "input": [7.4, 2.8, -0.6],
                "linear_weight": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
                "target": [0.004496273, 5.5485e-07, 0.99550317],
            },
            value=7.9744,
            digits=3,
            source="cross_entropy of the same numbers; the weight of the layer is the identity",
        ),
    ),
    notes=(
        "With options, torch documents that higher derivatives and forward mode do not work, nor a"
        " second backward, unless the options allow it.",
    ),
)
