"""The shipped adapters: `torch.nn` (the classes) and `torch.nn.functional` (the functions).

Torch declares every ability, so that a call which fails in any way is a deviation. Losses are left
out where torch itself documents that they lack an ability, or promises nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lossspec.execution.declaration import Ability, Declaration, all_but
from lossspec.execution.implementation import Implementation

#: derivatives.yaml, torch's list of derivatives, marks the kernels of these as `not_implemented`.
_ONCE = all_but("ctc_loss", "multi_margin_loss", "multilabel_margin_loss")
#: No page promises a loss that its tensors may have several dtypes, and these refuse it.
_ONE_DTYPE = all_but(
    "adaptive_log_softmax_with_loss",
    "binary_cross_entropy",
    "cross_entropy",
    "linear_cross_entropy",
    "multi_margin_loss",
    "nll_loss",
)
#: Nor does one promise a narrow dtype, and on processors the kernels of these have none.
_NARROW = all_but("multi_margin_loss", "multilabel_margin_loss")
#: "Automatic Mixed Precision", section "Prefer binary_cross_entropy_with_logits": it raises there.
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
    }
)

_classes = Implementation.of("torch.nn", torch.nn, torch.__version__)
_functions = Implementation.of("torch.nn.functional", torch.nn.functional, torch.__version__)
classes = replace(_classes, reference=True).declaring(DECLARATION)
functions = replace(_functions, reference=True).declaring(DECLARATION)
