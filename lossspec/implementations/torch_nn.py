"""The losses of torch: the classes in `torch.nn` and the functions in `torch.nn.functional`.

torch declares every ability, so that a call which fails is a deviation. A loss is excepted if torch
documents that it lacks the ability, or promises nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lossspec.execution.declaration import Ability, Declaration, all_but
from lossspec.execution.implementation import Implementation

#: torch's list of derivatives, derivatives.yaml, marks these kernels as `not_implemented`.
_ONCE = all_but("ctc_loss", "multi_margin_loss", "multilabel_margin_loss")
#: torch does not document mixed dtypes for any loss, and these losses refuse them.
_ONE_DTYPE = all_but(
    "adaptive_log_softmax_with_loss",
    "binary_cross_entropy",
    "cross_entropy",
    "linear_cross_entropy",
    "multi_margin_loss",
    "nll_loss",
)
#: torch does not document narrow dtypes for any loss, and these losses refuse them on CPUs.
_NARROW = all_but("multi_margin_loss", "multilabel_margin_loss")
#: torch documents that it raises: "Automatic Mixed Precision", section "Prefer
#: binary_cross_entropy_with_logits over binary_cross_entropy".
_SAFE = all_but("binary_cross_entropy")

DECLARATION = Declaration(
    supports={
        **dict.fromkeys(Ability, True),
        Ability.SECOND_DERIVATIVES: _ONCE,
        Ability.FORWARD_MODE: _ONCE,
        Ability.MIXED_DTYPES: _ONE_DTYPE,
        Ability.FLOAT16: _NARROW,
        Ability.BFLOAT16: _NARROW,
        Ability.AUTOCAST: _SAFE,
        Ability.SCRIPT: False,  # torch documents it for no loss
    }
)

_classes = Implementation.of("torch.nn", torch.nn, torch.__version__)
_functions = Implementation.of("torch.nn.functional", torch.nn.functional, torch.__version__)
classes = replace(_classes, reference=True).declaring(DECLARATION)
functions = replace(_functions, reference=True).declaring(DECLARATION)
