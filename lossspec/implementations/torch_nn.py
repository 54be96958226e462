"""The shipped adapters: `torch.nn` (the classes) and `torch.nn.functional` (the functions)."""

from __future__ import annotations

import torch

from lossspec.execution.implementation import Implementation

classes = Implementation.of("torch.nn", torch.nn, torch.__version__)
functions = Implementation.of("torch.nn.functional", torch.nn.functional, torch.__version__)
