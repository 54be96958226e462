"""The controls: right losses in other formulations, which no clause may accuse."""

import logging

import pytest
import torch

from lossspec.audit import audit, controls

CONTROLS = controls()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # Calls that must be refused are refused while traced, which torch.compile logs at length.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(before)


@pytest.mark.parametrize("control", [pytest.param(c, id=c.id) for c in CONTROLS.values()])
def test_a_right_loss_is_not_accused(control):
    (result,) = audit([control], "quick")
    assert [(k.clause, k.what, k.got, k.want) for k in result.kills] == []
    assert result.crashed == {}


def test_each_of_the_eight_losses_has_several_controls():
    counts = {}
    for control in CONTROLS.values():
        counts[control.loss] = counts.get(control.loss, 0) + 1
    assert {name: n for name, n in counts.items() if n < 6} == {}
