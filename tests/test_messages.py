"""Messages of torch and Python that verdicts depend on: lossspec recognises their words."""

import warnings

import pytest
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lossspec.execution import messages
from lossspec.execution.global_state import told_of_nondeterminism


def error_of(call):
    """Return the error that a call raises."""
    with pytest.raises(Exception) as raised:  # noqa: PT011  # each message has a separate test
        call()
    return raised.value


def test_a_failed_cpu_allocation_is_out_of_memory():
    assert messages.out_of_memory(error_of(lambda: torch.empty(2**58)))


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_memory_errors_are_recognised_by_their_class(kind):
    assert messages.out_of_memory(kind("no words of it"))


def test_an_illegal_access_of_memory_is_not_out_of_memory():
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert not messages.out_of_memory(error)


def plain(input, target):
    return input


@pytest.mark.parametrize(
    "call",
    [
        lambda: plain(1, 2, weight=3),
        lambda: functional.mse_loss(torch.ones(2), torch.ones(2), beta=1, weights=2),
        lambda: torch.nn.MSELoss(beta=1),
    ],
    ids=["python", "torch", "class"],
)
def test_unknown_keywords_are_read_from_python_errors(call):
    error = error_of(call)
    known = messages.unknown_keywords(error, ["weight", "beta", "reduction"])
    assert len(known) == 1
    assert next(iter(known)) in str(error)


def test_a_keyword_in_another_error_is_not_unknown():
    error = TypeError("weight must be a tensor")
    assert messages.unknown_keywords(error, ["weight"]) == set()


@pytest.mark.parametrize("kind", [RuntimeError, TypeError])
def test_an_error_that_names_autocast_is_a_refusal_of_autocast(kind):
    assert messages.refuses_autocast(kind("this loss is unsafe to autocast"))


def test_another_error_is_not_a_refusal_of_autocast():
    assert not messages.refuses_autocast(RuntimeError("expected scalar type Float"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_refusal_of_torch_names_autocast():
    x = torch.rand(3, device="cuda")
    with torch.autocast("cuda"):
        error = error_of(lambda: functional.binary_cross_entropy(x, x))
    assert messages.refuses_autocast(error)


@pytest.mark.parametrize(
    ("call", "want"),
    [
        (lambda x: functional.mse_loss(x, x), 1),
        (lambda x: 2 * functional.huber_loss(x, x) + functional.mse_loss(x, x), 2),
        (lambda x: (x * x).sum(), 0),
        (lambda x: x.detach(), 0),
    ],
    ids=["one", "two", "none", "no-graph"],
)
def test_torch_losses_in_an_autograd_graph_are_found(call, want):
    assert len(messages.loss_kernels(call(torch.ones(3, requires_grad=True)))) == want


@pytest.mark.parametrize(
    "call",
    [
        lambda: torch.ones((), dtype=torch.complex64).to(torch.float32),
        lambda: torch.zeros(3, dtype=torch.float64).copy_(torch.ones(3, dtype=torch.complex128)),
        lambda: torch.ones(3)[::2].copy_(torch.full((2,), 1j)),
    ],
    ids=["to", "copy", "strided"],
)
def test_a_dropped_imaginary_part_is_recognised_by_its_warning(call):
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.set_warn_always(False)
    assert messages.drops_imaginary_part([str(warning.message) for warning in caught])


def test_another_warning_is_not_about_an_imaginary_part():
    assert not messages.drops_imaginary_part(["size_average and reduce args will be deprecated"])
    assert not messages.drops_imaginary_part([])


class Squared(torch.autograd.Function):
    """A square whose gradient can be differentiated only once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 2 * x * cotangent


@pytest.mark.parametrize(
    ("call", "want"), [(Squared.apply, True), (torch.square, False)], ids=["once", "often"]
)
def test_a_gradient_that_cannot_be_differentiated_is_marked(call, want):
    x = torch.ones(3, requires_grad=True)
    cotangent = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(call(x), x, cotangent, create_graph=True)
    nodes = [gradient.grad_fn] if gradient.grad_fn is not None else []
    seen = []
    while nodes:
        node = nodes.pop()
        seen.append(node)
        nodes += [behind for behind, _ in node.next_functions if behind is not None]
    assert any(messages.differentiable_once(node) for node in seen) == want


def test_torch_warns_of_an_operation_without_a_deterministic_implementation():
    with warnings.catch_warnings(record=True) as caught, told_of_nondeterminism():
        warnings.simplefilter("always")
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        torch.zeros(2).add(1)
    assert [messages.nondeterministic(str(each.message)) for each in caught] == [True]
    assert not torch.are_deterministic_algorithms_enabled()
