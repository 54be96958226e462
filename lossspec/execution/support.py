"""What an implementation supports, found by watching a call."""

from __future__ import annotations

from typing import Any

import torch

from lossspec.cases.case import Case
from lossspec.execution.call import arguments, invoke
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.timeout import STOPS

#: How numbers leave torch, and come back without a graph.
_LEAVING = {"numpy", "__array__", "tolist", "item", "__dlpack__", "data_ptr"}


def leaves_torch(under_test: LossUnderTest, case: Case, device: str = "cpu") -> bool:
    """Whether a call takes the numbers of its tensors out of torch, to compute elsewhere."""
    left: list[str] = []

    class Watched(torch.Tensor):
        """Notes what is asked of it and of whatever is made of it."""

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            left.append(getattr(func, "__name__", ""))
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]

    case = case.with_(requires_grad=())
    try:
        inputs = arguments(under_test, case, device)
        invoke(
            under_test,
            case,
            {
                n: x.as_subclass(Watched) if isinstance(x, torch.Tensor) else x
                for n, x in inputs.items()
            },
        )
    except STOPS:
        raise
    except BaseException:
        return True  # it can only be told that it is no composition of torch's operations
    return bool(_LEAVING & set(left))
