"""The shipped adapters: `torch.nn` (the classes) and `torch.nn.functional` (the functions)."""

from __future__ import annotations

from dataclasses import replace

import torch

from lossspec.execution.implementation import Implementation

_classes = Implementation.of("torch.nn", torch.nn, torch.__version__)
_functions = Implementation.of("torch.nn.functional", torch.nn.functional, torch.__version__)
classes = replace(_classes, reference=True)
functions = replace(_functions, reference=True)
