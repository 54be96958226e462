"""The losses of the gallery in torch, as a library writes them.

`lossspec run gallery` judges them.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, softplus


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """Return the losses, their mean or their sum."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be none, mean or sum, got {reduction!r}")
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def require_same_shape(*tensors: Tensor) -> None:
    """Raise an error if the shapes differ."""
    if len({tensor.shape for tensor in tensors}) > 1:
        raise ValueError(f"the shapes differ: {[list(tensor.shape) for tensor in tensors]}")


def sigmoid_focal_loss(
    input: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "mean"
) -> Tensor:
    """Return the focal loss of logits and of targets that are 0 or 1."""
    require_same_shape(input, target)
    if not 0 <= alpha <= 1 or gamma < 0:
        raise ValueError(f"alpha must be in [0, 1] and gamma 0 or more, got {alpha} and {gamma}")
    wrong = torch.where(target == 1, -input, input)  # 1 - p is σ(wrong), without cancellation
    balance = alpha * target + (1 - alpha) * (1 - target)
    return reduced(balance * torch.sigmoid(wrong) ** gamma * softplus(wrong), reduction)


def dice_loss(input: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Return the soft Dice loss of probabilities and a mask, over the whole batch."""
    require_same_shape(input, target)
    if input.ndim != 2:
        raise ValueError(f"the tensors must be of shape (N, D), got {list(input.shape)}")
    if smooth <= 0:
        raise ValueError(f"smooth must be above 0, got {smooth}")
    overlap, size = (input * target).sum(), input.sum() + target.sum()
    return 1 - (2 * overlap + smooth) / (size + smooth)


def info_nce(
    query: Tensor, key: Tensor, temperature: float = 0.1, reduction: str = "mean"
) -> Tensor:
    """Return the cross entropy of each query with all keys of the batch, for its own key."""
    require_same_shape(query, key)
    if query.ndim != 2:
        raise ValueError(f"the tensors must be of shape (N, D), got {list(query.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    own = torch.arange(len(query), device=query.device)
    # The mean of torch's cross_entropy overflows in float16 where the sum of the losses does.
    losses = cross_entropy(query @ key.T / temperature, own, reduction="none")
    return reduced(losses, reduction)


def generalized_box_iou_loss(
    input: Tensor, target: Tensor, eps: float = 1e-7, reduction: str = "mean"
) -> Tensor:
    """Return the GIoU loss of boxes (x1, y1, x2, y2)."""
    require_same_shape(input, target)
    if input.ndim != 2 or input.shape[-1] != 4:
        raise ValueError(f"the boxes must be of shape (N, 4), got {list(input.shape)}")
    if eps <= 0:
        raise ValueError(f"eps must be above 0, got {eps}")
    wide = torch.promote_types(input.dtype, torch.float32)  # 1 / eps overflows in float16
    losses = _giou_losses(input.to(wide), target.to(wide), eps)
    return reduced(losses.to(input.dtype), reduction)


def _giou_losses(input: Tensor, target: Tensor, eps: float) -> Tensor:
    near, near_target = input[:, :2], target[:, :2]
    far, far_target = input[:, 2:], target[:, 2:]
    overlap = _area((torch.minimum(far, far_target) - torch.maximum(near, near_target)).clamp(0))
    around = _area(torch.maximum(far, far_target) - torch.minimum(near, near_target))
    union = _area(far - near) + _area(far_target - near_target) - overlap
    return 1 - overlap / (union + eps) + (around - union) / (around + eps)


def _area(sides: Tensor) -> Tensor:
    return sides[:, 0] * sides[:, 1]


def pinball_loss(
    input: Tensor, target: Tensor, quantile: float = 0.5, reduction: str = "mean"
) -> Tensor:
    """Return the loss whose minimum is a quantile of the targets."""
    require_same_shape(input, target)
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], got {quantile}")
    error = target - input
    return reduced(torch.maximum(quantile * error, (quantile - 1) * error), reduction)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
    reduction: str = "mean",
) -> Tensor:
    """Return the loss of log-probabilities of the chosen and the rejected answers."""
    require_same_shape(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    if policy_chosen.ndim != 1:
        raise ValueError(f"the tensors must be of shape (N), got {list(policy_chosen.shape)}")
    if beta < 0:
        raise ValueError(f"beta must be 0 or more, got {beta}")
    policy, reference = policy_chosen - policy_rejected, reference_chosen - reference_rejected
    return reduced(-logsigmoid(beta * (policy - reference)), reduction)
