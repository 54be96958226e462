"""Clauses on dtypes."""

from __future__ import annotations

import torch

from lossspec.clauses import Judgement, clause
from lossspec.tensors import dtype_of
from lossspec.trial import Deviation, Trial


@clause(empty=True)
def result_dtype(trial: Trial) -> Judgement:
    """The result has the dtype of the inputs."""
    value = trial.outcome.value
    if not isinstance(value, torch.Tensor):
        return None
    if dtype_of(value) != trial.case.dtype:
        raise Deviation(
            "the result's dtype",
            dtype_of(value),
            trial.case.dtype,
            check=f"value.dtype == torch.{trial.case.dtype}",
        )
    return True
