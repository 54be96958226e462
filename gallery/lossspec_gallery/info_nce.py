"""InfoNCE: each query finds its own key among all keys of the batch."""

import numpy as np

from lossspec.maths import log_softmax, log_sum_exp, pick, transposed
from lossspec.spec import Example, Form, Loss, Real, number


def define(query, key, temperature):
    """Return the cross entropy of the scores of each query with all keys, for its own key."""
    scores = query @ transposed(key) / temperature
    return -pick(log_softmax(scores), np.arange(query.shape[-2]))


def of_log_sum(query, key, temperature):
    """Return the logarithm of the sum over all keys, less the score of the own key."""
    scores = query @ transposed(key) / temperature
    return log_sum_exp(scores) - pick(scores, np.arange(query.shape[-2]))


spec = Loss(
    name="info_nce",
    module=None,
    summary="Cross entropy of the scores of a query with all keys of the batch, for its own key. A"
    " score is the scalar product of query and key, divided by the temperature τ.",
    formula=r"\ell_i = -\log \frac{\exp(q_i \cdot k_i / \tau)}{\sum_j \exp(q_i \cdot k_j / \tau)}",
    source="https://arxiv.org/abs/1807.03748",
    define=define,
    equivalents=(of_log_sum,),
    rows="coupled",
    forms=(Form(shapes=("(N, D), (N, D) -> (N)",), tensors={"query": Real(), "key": Real()}),),
    parameters={
        "temperature": number(
            *(0.1, 0.07, 0.5, 1.0), refused=(0.0, -1.0), doc="Divides the scores; above 0."
        ),
    },
    examples=(
        Example(
            arguments={"query": [[1.0, 0.0], [0.0, 1.0]], "key": [[1.0, 0.0], [0.5, 0.5]]},
            parameters={"temperature": 0.5},
            value=0.3133,
            source="worked by hand: log(1 + 1/e) for each row, of the scores (2, 1) and (0, 1)",
        ),
    ),
)
