"""The controls: right losses in other formulations, which no clause may accuse."""

import logging

import pytest
import torch

from lossspec.audit import audit, controls
from lossspec.spec import catalogue

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


def test_almost_every_loss_has_several_controls():
    counts = dict.fromkeys(catalogue(), 0)
    for control in CONTROLS.values():
        counts[control.loss] += 1
    # Those two own their weights: whoever writes them again writes torch's.
    rewritten = counts.keys() - {"adaptive_log_softmax_with_loss", "linear_cross_entropy"}
    assert {name: counts[name] for name in rewritten if counts[name] < 4} == {}
