"""Direct preference optimisation: a policy should prefer the chosen answer to the rejected one."""

from lossspec.maths import minus_log_sigmoid
from lossspec.spec import Example, Form, LogProbability, Loss, number


def define(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    """Return -log σ(β (log-ratio of the chosen answer - log-ratio of the rejected answer))."""
    chosen = policy_chosen - reference_chosen
    rejected = policy_rejected - reference_rejected
    return minus_log_sigmoid(beta * (chosen - rejected))[0]


def of_models(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    """Return the same from the preference of each model."""
    policy, reference = policy_chosen - policy_rejected, reference_chosen - reference_rejected
    return minus_log_sigmoid(beta * (policy - reference))[0]


FIXED = LogProbability(differentiable=False, learned=False)

spec = Loss(
    name="dpo_loss",
    module=None,
    summary="Minus the log-probability that the chosen answer w is preferred to the rejected answer"
    " l, by the log-probabilities that the policy π and the reference ρ give to both.",
    formula=r"\ell = -\log \sigma\left(\beta \left(\log \frac{\pi(w)}{\rho(w)}"
    r" - \log \frac{\pi(l)}{\rho(l)}\right)\right)",
    source="https://arxiv.org/abs/2305.18290",
    define=define,
    equivalents=(of_models,),
    forms=(
        Form(
            shapes=("(N), (N), (N), (N) -> (N)",),
            tensors={
                "policy_chosen": LogProbability(),
                "policy_rejected": LogProbability(),
                "reference_chosen": FIXED,
                "reference_rejected": FIXED,
            },
        ),
    ),
    parameters={
        "beta": number(
            0.1, 0.5, 1.0, refused=(-0.1,), doc="How far the policy stays with the reference."
        ),
    },
    examples=(
        Example(
            arguments={
                "policy_chosen": [-1.0],
                "policy_rejected": [-4.0],
                "reference_chosen": [-2.0],
                "reference_rejected": [-3.0],
            },
            parameters={"beta": 0.5},
            value=0.3133,
            source="worked by hand: log(1 + 1/e)",
        ),
    ),
)
