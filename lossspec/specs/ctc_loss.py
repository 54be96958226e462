"""Connectionist temporal classification: the probability that frames spell a target sequence."""

from math import log

import numpy as np

from lossspec.maths import constant, log_softmax, log_sum_exp, pick, where
from lossspec.spec.loss import AnySize, Example, Form, Loss, Refusal
from lossspec.spec.parameters import Parameter, switch
from lossspec.spec.roles import ClassIndex, Length, Logit


def define(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity):
    """Return -log Σ Π p over the paths that spell the target, by the forward algorithm."""
    # The states of a path are the labels with a blank before, between and after them: _ a _ b _
    states = np.full((*targets.shape[:-1], 2 * targets.shape[-1] + 1), blank)
    states[..., 1::2] = targets
    place = np.broadcast_to(np.arange(states.shape[-1]), states.shape)
    # A frame keeps the state, or advances by one, or by two to skip a blank between other labels.
    steps = place[..., :, None] - place[..., None, :]
    differ = states[..., :, None] != states[..., None, :]
    follows = (steps == 0) | (steps == 1) | ((steps == 2) & differ)

    # The log-probability of each state in each frame.
    log_p = pick(log_softmax(log_probs)[..., None, :], states[..., None, :])
    never = constant(-np.inf, log_p[..., 0, :])
    paths = where(place == 0, constant(0.0, never), never)  # log Σ p, by last state
    for t in range(log_p.shape[-2]):
        onward = where(follows, paths[..., None, :], never[..., None, :])
        paths = where(t < input_lengths[..., None], log_sum_exp(onward) + log_p[..., t, :], paths)

    end = 2 * target_lengths[..., None]  # the blank after the last label; a path may omit it
    loss = -log_sum_exp(where((place == end) | (place == end - 1), paths, never))
    return where(loss < np.inf, loss, constant(0.0, loss)) if zero_infinity else loss


def define_concatenated(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity):
    """Return `define` of the padded targets; `targets` holds them one after the other."""
    start = np.cumsum(target_lengths, axis=-1) - target_lengths
    place = start[..., None] + np.arange(target_lengths.max(initial=0))
    targets = np.take_along_axis(targets, np.minimum(place, targets.shape[-1] - 1), axis=-1)
    return define(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)


def share(target_lengths):
    """Return 1 / max(length, 1): the mean divides each loss by the length of its target."""
    return np.longdouble(1) / np.maximum(target_lengths, 1)


def settle(rng, tensors, parameters):
    """Make the targets fit their lengths, replace labels that equal the blank, mask some classes.

    In one case of eight, a class that no target holds is impossible in some frames: its score is
    -inf.
    """
    targets, lengths = tensors["targets"], tensors["target_lengths"]
    classes = tensors["log_probs"].shape[-1]
    blank = parameters["blank"] = parameters["blank"] % classes
    if classes == 1:  # every label is the blank
        lengths[...] = 0
    if targets.ndim == 2:
        counts = np.arange(targets.shape[1]) < lengths[:, None]
    else:
        targets = np.resize(targets, lengths.sum())
        counts = np.ones(targets.shape, bool)
    # A label is never the blank. Padding after the last label need not be a class.
    other = np.where(counts, (blank + 1) % classes, -1)
    targets = np.where(targets == blank, other, targets).astype(targets.dtype)
    tensors["targets"] = targets
    if rng.random() < 1 / 8:
        x = tensors["log_probs"]
        unused = ~np.isin(np.arange(classes), [blank, *targets.ravel()])
        x[(rng.random(x.shape) < 0.5) & unused] = -np.inf


def breaks(name, value):
    """Return a change of a valid call: put a wrong number into the first element of a tensor."""

    def put(tensors, parameters):
        if not tensors[name].size:
            return False
        tensors[name].flat[0] = value(tensors)
        return True

    return put


def forms():
    """Yield the forms: padded or concatenated targets, lengths as tensors or as tuples."""
    for name, targets, more, definition, unbatched in (
        ("padded", "(N, S)", "S", define, ()),
        ("concatenated", "(L)", "L", define_concatenated, ("(T, C), (L), (), () -> ()",)),
    ):
        for scalar in (False, True):
            yield Form(
                name=f"{name}, lengths in tuples" if scalar else name,
                shapes=(
                    f"(T, N, C), {targets}, (N), (N) -> (N)",
                    *(() if scalar else unbatched),
                ),
                tensors={
                    "log_probs": Logit(through="log_softmax"),
                    "targets": ClassIndex(dtypes=("int64", "int32"), tolerated=(), checked=False),
                    "input_lengths": Length(of="T", scalar=scalar),
                    "target_lengths": Length(of=more, scalar=scalar),
                },
                share=share,
                sizes={
                    "T": AnySize((4, 6, 3, 2, 8, 1)),
                    "N": AnySize((2, 3, 1, 5, 33)),
                    "C": AnySize((3, 4, 2, 6)),
                    more: AnySize((2, 1, 3, 4, 0)),
                },
                settle=settle,
                define=definition,
            )


spec = Loss(
    name="ctc_loss",
    module="CTCLoss",
    summary="Minus the logarithm of the probability that a sequence of frames spells the target t."
    " A path π, one label for each frame, spells t if merging equal neighbours and then removing"
    " blanks gives t.",
    formula=r"\ell(x, t) = -\log \sum_{\pi \,:\, \mathcal{B}(\pi) = t} \prod_{i=1}^{T}"
    r" p_i(\pi_i),\quad \log p_i = x_i",
    source="https://www.cs.toronto.edu/~graves/icml_2006.pdf",
    define=define,
    exchangeable=False,
    # The recursion adds up probabilities of 0, where autograd gives NaN and torch raises.
    differentiable_twice=False,
    dtypes=("float32", "float64"),
    forms=tuple(forms()),
    parameters={
        "blank": Parameter(
            default=0,
            values=(0, 1, 2, 3, 5),
            refused=(-1, 100),
            doc="The class that stands for no label; no target contains it.",
        ),
        "zero_infinity": switch(
            False,
            doc="Whether a target that no path spells has loss 0 and gradient 0 instead of inf.",
        ),
    },
    refusals=(
        Refusal(
            says="an input length exceeds the number of frames",
            breaks=breaks("input_lengths", lambda tensors: tensors["log_probs"].shape[0] + 1),
        ),
        Refusal(
            says="an input length is negative",
            breaks=breaks("input_lengths", lambda tensors: -1),
        ),
        Refusal(
            says="a target length exceeds the number of targets",
            breaks=breaks("target_lengths", lambda tensors: tensors["targets"].shape[-1] + 1),
        ),
        Refusal(
            says="a target length is negative",
            breaks=breaks("target_lengths", lambda tensors: -1),
        ),
    ),
    examples=(
        Example(
            form="concatenated",
            arguments={
                "log_probs": [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1]],
                "targets": [1, 2],
                "input_lengths": 2,
                "target_lengths": 2,
            },
            reduction="sum",
            value=2.4629,
            source="SeanNaren/warp-ctc, README; by hand: -2 log(e^0.6 / (e^0.6 + 4 e^0.1))",
        ),
        Example(
            form="concatenated",
            arguments={
                "log_probs": [
                    [log(p) for p in frame]
                    for frame in (
                        (0.633766, 0.221185, 0.0917319, 0.0129757, 0.0142857, 0.0260553),
                        (0.111121, 0.588392, 0.278779, 0.0055756, 0.00569609, 0.010436),
                        (0.0357786, 0.633813, 0.321418, 0.00249248, 0.00272882, 0.0037688),
                        (0.0663296, 0.643849, 0.280111, 0.00283995, 0.0035545, 0.00331533),
                        (0.458235, 0.396634, 0.123377, 0.00648837, 0.00903441, 0.00623107),
                    )
                ],
                "targets": [0, 1, 2, 1, 0],
                "input_lengths": 5,
                "target_lengths": 5,
            },
            parameters={"blank": 5},
            reduction="none",
            value=3.34211,
            source="TensorFlow, ctc_loss_op_test.py, testBasic",
        ),
    ),
    notes=(
        "Gradients are judged with respect to the input of log_softmax. The documentation expects"
        " its result as `log_probs`, and implementations rely on probabilities that sum to 1.",
        "A target that no path spells has the loss inf. Without zero_infinity its gradient is"
        " undefined.",
    ),
)
