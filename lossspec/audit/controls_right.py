"""Controls: the right losses that the mutants are made from, in composite torch."""

from __future__ import annotations

from lossspec.audit import control, right

COMPOSITE = "plain torch operations, half precisions in float32"


@control("l1_loss", COMPOSITE)
class CompositeL1(right.L1):
    """Right."""


@control("mse_loss", COMPOSITE)
class CompositeMse(right.MSE):
    """Right."""


@control("smooth_l1_loss", COMPOSITE)
class CompositeSmoothL1(right.SmoothL1):
    """Right."""


@control("huber_loss", COMPOSITE)
class CompositeHuber(right.Huber):
    """Right."""


@control("kl_div", COMPOSITE)
class CompositeKlDiv(right.KLDiv):
    """Right."""


@control("binary_cross_entropy_with_logits", COMPOSITE)
class CompositeBce(right.BCEWithLogits):
    """Right."""


@control("nll_loss", COMPOSITE)
class CompositeNll(right.NLL):
    """Right."""


@control("cross_entropy", COMPOSITE)
class CompositeCrossEntropy(right.CrossEntropy):
    """Right."""
