"""Private names of torch and pytest-xdist: used in one place, and present in this version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

import lossspec
from lossspec.execution import torch_private
from lossspec.pytest_plugin.xdist import WholeCampaigns

PACKAGE = Path(lossspec.__file__).parent
SHIM = PACKAGE / "execution" / "torch_private.py"
#: A name of torch, or an attribute of a torch object, that begins with an underscore.
PRIVATE = re.compile(
    r"\btorch(?:\.\w+)*\._[a-zA-Z]|\bfrom torch[\w.]* import (?:.*\b)?_[a-zA-Z]|\b_C\."
    r"|\bkineto_results\b|\bcuda\._[a-z]"
)


@pytest.mark.parametrize(
    "line",
    [
        "torch._C._set_grad_enabled(True)",
        "from torch.utils._pytree import tree_leaves",
        "from torch import _dynamo",
        "seen.profiler.kineto_results.events()",
        "self.cuda._sleep(100)",
    ],
)
def test_a_private_name_is_recognised(line):
    assert PRIVATE.search(line)


@pytest.mark.parametrize("line", ["torch.__version__", "torch.nn.Module", "from torch import nn"])
def test_a_public_name_is_not_recognised_as_private(line):
    assert not PRIVATE.search(line)


def test_only_the_shim_uses_private_names_of_torch():
    found = {
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if path != SHIM
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if PRIVATE.search(line)
    }
    assert found == set()
    assert PRIVATE.search(SHIM.read_text("utf-8"))


def test_two_storages_of_the_same_memory_are_distinguished():
    tensor = torch.ones(3)
    again = torch.from_numpy(tensor.numpy())
    assert again.data_ptr() == tensor.data_ptr()
    of = torch_private.storage_identity
    assert of(tensor.data.untyped_storage()) == of(tensor.untyped_storage())
    assert of(again.untyped_storage()) != of(tensor.untyped_storage())


def test_the_arguments_of_an_operation_are_listed():
    assert "pin_memory" in torch_private.argument_names(torch.ops.aten.empty_like.default)
    assert "pin_memory" not in torch_private.argument_names(torch.ops.aten.mul.Tensor)
    assert "non_blocking" in torch_private.argument_names(torch.ops.aten._to_copy.default)


def test_grad_mode_is_set():
    with torch.no_grad():
        torch_private.set_grad_enabled(True)
        assert torch.is_grad_enabled()
    with torch.enable_grad():
        torch_private.set_grad_enabled(False)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("warn", [False, True])
def test_the_deterministic_flag_is_set(warn):
    try:
        torch_private.set_deterministic(True, warn_only=warn)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn
    finally:
        torch_private.set_deterministic(False, warn_only=False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_tensor_subclasses_can_be_disabled():
    class Odd(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return "asked"

    odd = torch.ones(2).as_subclass(Odd)
    assert torch.add(odd, 1) == "asked"
    with torch_private.without_subclasses():
        assert torch.equal(torch.add(odd, 1), torch.full((2,), 2.0))


def test_a_fake_tensor_has_a_shape_and_no_numbers():
    with torch_private.fake_tensor_mode() as mode:
        fake = mode.from_tensor(torch.ones(2, 3))
        got = fake + 1
    assert got.shape == (2, 3)
    assert type(got).__name__ == "FakeTensor"


def test_allocations_and_deallocations_are_listed():
    with torch.profiler.profile(profile_memory=True, acc_events=True) as seen:
        made = torch.zeros(1000)
        del made
    found = [one.bytes for one in torch_private.allocations(seen) if one.device == "cpu"]
    assert 4000 in found
    assert -4000 in found


def test_a_device_is_occupied_for_a_number_of_cycles():
    asked = []

    class Standin:
        _sleep = staticmethod(asked.append)

    torch_private.occupy(Standin, 7)
    assert asked == [7]
    assert callable(torch.cuda._sleep)


def test_tensors_are_found_in_nested_arguments():
    one, two = torch.ones(1), torch.ones(2)
    leaves = torch_private.tree_leaves(((one,), {"key": [two, 3]}))
    assert [id(leaf) for leaf in leaves[:2]] == [id(one), id(two)]
    assert leaves[2] == 3


def test_operations_below_autograd_are_observed():
    seen = []

    class Watch(torch_private.dispatch_mode()):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.ones(2).exp()
    assert "exp" in seen


def test_the_xdist_scheduler_has_the_members_that_whole_campaigns_uses():
    for name in ("_split_scope", "remove_node", "_reschedule"):
        assert callable(getattr(LoadScopeScheduling, name))
        assert name in vars(WholeCampaigns)

    class Config:
        option = None

        def getvalue(self, name):
            return ["popen"]

    class Log:
        def __getattr__(self, name):
            return lambda *words: None

    scheduler = LoadScopeScheduling(Config(), Log())
    for name in ("assigned_work", "registered_collections", "workqueue"):
        assert getattr(scheduler, name) == {}
