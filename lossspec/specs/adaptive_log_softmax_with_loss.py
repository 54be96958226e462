"""Adaptive softmax: a head scores frequent classes and clusters, each cluster its rare classes."""

from lossspec.maths import joined, log_softmax, log_sum_exp, matvec, pick
from lossspec.spec.loss import AnySize, Example, Form, Loss, Refusal
from lossspec.spec.parameters import number
from lossspec.spec.roles import ClassIndex, Factor


def log_probability(input, target, head, bias, *tails, normalized=log_softmax):
    """Return log p(t | x); each of `tails` holds the matrices D and O of one cluster."""
    log_p = normalized(matvec(head, input) + bias)
    frequent = log_p.shape[-1] - len(tails)
    clusters = [
        log_p[..., frequent + i, None] + normalized(matvec(out, matvec(down, input)))
        for i, (down, out) in enumerate(tails)
    ]
    return pick(joined(log_p[..., :frequent], *clusters), target)


def less_log_sum(scores):
    """Return z - log Σ eᶻ, which is log softmax(z)."""
    return scores - log_sum_exp(scores)[..., None]


def define(input, target, head, bias, down_1, out_1):
    """Return log p(t | x) with one cluster of rare classes."""
    return log_probability(input, target, head, bias, (down_1, out_1))


def define_two(input, target, head, bias, down_1, out_1, down_2, out_2):
    """Return log p(t | x) with two clusters of rare classes."""
    return log_probability(input, target, head, bias, (down_1, out_1), (down_2, out_2))


def of_log_sum(input, target, head, bias, down_1, out_1):
    """Return log p(t | x) with one cluster, from z - log Σ eᶻ."""
    tail = (down_1, out_1)
    return log_probability(input, target, head, bias, tail, normalized=less_log_sum)


def of_log_sum_two(input, target, head, bias, down_1, out_1, down_2, out_2):
    """Return log p(t | x) with two clusters, from z - log Σ eᶻ."""
    tails = (down_1, out_1), (down_2, out_2)
    return log_probability(input, target, head, bias, *tails, normalized=less_log_sum)


def share(input):
    """Return -1: the result under `mean` is minus the mean of the log-probabilities."""
    return -1


def form(name, clusters, define, equivalent):
    """Return the form of a call with these clusters.

    The head maps `H` features to `A` scores: its frequent classes and one for each cluster. Cluster
    i maps the features to `Hi` of its own and these to the scores of its `Bi` classes.
    """
    layers = ["(A, H)", *(f"(H{i}, H), (B{i}, H{i})" for i in clusters)]
    tails = {}
    sizes = {
        "N": AnySize((2, 3, 1, 5, 67, 0)),
        "H": AnySize((4, 3, 8, 7, 1)),  # of 7, ⌊7 / 1.5²⌋ is not ⌊⌊7 / 1.5⌋ / 1.5⌋
        "A": tuple(len(clusters) + frequent for frequent in (2, 1, 5)),
    }
    for i in clusters:
        tails |= {
            f"down_{i}": Factor(count=3, state=f"tail.{i - 1}.0.weight"),
            f"out_{i}": Factor(count=3, state=f"tail.{i - 1}.1.weight"),
        }
        sizes[f"B{i}"] = AnySize((2, 1, 3, 5))
        sizes[f"H{i}"] = lambda size, given, i=i: int(size["H"] // given["div_value"] ** i)
    sizes["C"] = lambda size, given: cutoffs(size)[-1]
    return Form(
        name=name,
        shapes=(f"(N, H), (N), {', '.join(layers)} -> (N)", f"(H), (), {', '.join(layers)} -> ()"),
        tensors={
            "input": Factor(count=3),
            "target": ClassIndex(whole=False),  # no dtype is documented
            "head": Factor(count=3, state="head.weight"),
            **tails,
        },
        share=share,
        sizes=sizes,
        define=define,
        equivalents=(equivalent,),
    )


def cutoffs(size):
    """Return the number of classes up to the end of the head and of each cluster."""
    clusters = [size[axis] for axis in ("B1", "B2") if axis in size]
    ends = [size["A"] - len(clusters)]
    for classes in clusters:
        ends.append(ends[-1] + classes)
    return ends


def constructor(size, tensors):
    """Return the arguments of the class, from the sizes of the axes and the tensors given."""
    *inner, classes = cutoffs(size)
    return {
        "in_features": size["H"],
        "n_classes": classes,
        "cutoffs": inner,
        **({"head_bias": True} if "bias" in tensors else {}),  # the default is False
    }


def refused(*given):
    """Return a change of a valid call that passes these cutoffs."""

    def breaks(tensors, parameters):
        parameters["cutoffs"] = list(given)
        return True

    return breaks


spec = Loss(
    name="adaptive_log_softmax_with_loss",
    module="AdaptiveLogSoftmaxWithLoss",
    summary="The log-probability of class t. The head scores a frequent class directly. For a rare"
    " class, the head's log-probability of its cluster and that of t in the cluster are added. The"
    " loss is minus the mean.",
    formula=r"\log p(t \mid x) = \begin{cases} \log\operatorname{softmax}(A x + b)_t & t < k_0 \\"
    r" \log\operatorname{softmax}(A x + b)_{k_0 + i - 1} +"
    r" \log\operatorname{softmax}(O_i D_i x)_{t - k_{i-1}} & k_{i-1} \le t < k_i \end{cases}",
    source="https://arxiv.org/abs/1609.04309",
    define=define,
    shift_invariant=("bias",),
    exchangeable=False,
    ranks=True,
    forms=(
        form("one cluster", (1,), define, of_log_sum),
        form("two clusters", (1, 2), define_two, of_log_sum_two),
    ),
    options={
        "bias": Factor(
            count=3, shape="(A)", default=0.0, state="head.bias", doc="The bias b of the head."
        ),
    },
    parameters={
        "div_value": number(
            4.0,
            2.0,
            1.0,
            1.5,
            doc="Cluster i maps the H features to ⌊H / div_valueⁱ⌋ features D_i x.",
        ),
    },
    constructor=constructor,
    reductions=("mean", "none"),
    results={"mean": "loss", "none": "output"},
    refusals=(
        Refusal(says="no cutoff is given", breaks=refused()),
        Refusal(says="the cutoffs decrease", breaks=refused(2, 1)),
        Refusal(says="two cutoffs are equal", breaks=refused(1, 1)),
        Refusal(says="the first cutoff is 0", breaks=refused(0, 1)),
        Refusal(
            says="the last cutoff leaves no class for the last cluster", breaks=refused(1, 1000)
        ),
    ),
    examples=(
        Example(
            form="one cluster",
            arguments={
                "input": [[1.0, -1.0], [2.0, 0.5]],
                "target": [0, 3],
                "head": [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
                "down_1": [[1.0, 0.0]],
                "out_1": [[0.0], [0.0]],
            },
            parameters={"div_value": 2.0},
            value=1.4452,
            source="worked by hand: (log 3 + log 3 + log 2) / 2",
        ),
    ),
)
