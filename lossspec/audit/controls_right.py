"""Controls: the right losses that the mutants are made from, in composite torch."""

from __future__ import annotations

from lossspec.audit import control
from lossspec.audit.right import (
    L1,
    MSE,
    NLL,
    BCEWithLogits,
    CrossEntropy,
    Huber,
    KLDiv,
    SmoothL1,
)


@control(L1, MSE, SmoothL1, Huber, KLDiv, BCEWithLogits, NLL, CrossEntropy)
class Composite:
    """Plain torch operations, half precisions in float32."""
