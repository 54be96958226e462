"""Textbook compositions of losses over sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from lossspec.baselines.reduction import reduced, wide

__all__ = ["ctc_loss"]

#: The logarithm of a probability of 0; it is finite, so that the gradient is not nan.
NEVER = -1e30


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int] | int,
    target_lengths: Tensor | Sequence[int] | int,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Return -log Σ p over the paths that give the target; the mean divides by its length, too."""
    single = log_probs.ndim == 2
    log_p = wide(log_probs.unsqueeze(1) if single else log_probs)
    frames, lengths = (
        torch.as_tensor(given, device=log_p.device).reshape(log_p.shape[1])
        for given in (input_lengths, target_lengths)
    )
    losses = _forward(log_p, _rows(targets.long(), lengths, single), frames, lengths.long(), blank)
    losses = torch.where(losses > -NEVER / 2, 0.0 if zero_infinity else torch.inf, losses)
    if reduction == "mean":
        losses = losses / lengths.clamp(min=1)
    return reduced(
        losses.squeeze(0) if single and reduction == "none" else losses, reduction, log_probs.dtype
    )


def _rows(targets: Tensor, lengths: Tensor, single: bool) -> Tensor:
    """Return the targets with one row for each sample, padded if they are concatenated."""
    if targets.ndim == 2:
        return targets
    if single:
        return targets.unsqueeze(0)
    return pad_sequence(list(torch.split(targets, lengths.tolist())), batch_first=True)


def _forward(log_p: Tensor, rows: Tensor, frames: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """Return minus the log probability of each row of labels, by the forward algorithm."""
    states = rows.new_full((rows.shape[0], 2 * rows.shape[1] + 1), blank)  # _ a _ b _
    states[:, 1::2] = rows.clamp(0, log_p.shape[-1] - 1)  # padding may hold any number
    skips = pad(states[:, 2:] != states[:, :-2], (2, 0))[:, : states.shape[1]]
    paths = pad(log_p.new_zeros(len(states), 1), (0, states.shape[1] - 1), value=NEVER)
    paths = paths + log_p[:0].sum()  # connects the result to the input even without any frame
    for t, frame in enumerate(log_p):
        one = pad(paths, (1, 0), value=NEVER)[:, :-1]
        two = pad(paths, (2, 0), value=NEVER)[:, : paths.shape[1]].where(skips, NEVER)
        moved = torch.stack([paths, one, two]).logsumexp(0) + frame.gather(1, states)
        paths = torch.where((t < frames).unsqueeze(1), moved.clamp(min=NEVER), paths)
    end = 2 * lengths.unsqueeze(1)
    last = paths.gather(1, end)
    before = paths.gather(1, (end - 1).clamp(min=0)).where(end > 0, NEVER)
    return -torch.cat([last, before], 1).logsumexp(1)
