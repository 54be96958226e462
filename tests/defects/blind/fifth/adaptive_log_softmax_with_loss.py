from typing import NamedTuple

import torch
from torch import nn
import torch.nn.functional as F

Base = nn.AdaptiveLogSoftmaxWithLoss


class Output(NamedTuple):
    output: torch.Tensor
    loss: torch.Tensor


# ---------------------------------------------------------------- wrong


def _pair(cls, *args, **kwargs):
    torch.manual_seed(0)
    a = cls(*args, **kwargs)
    torch.manual_seed(0)
    return a, Base(*args, **kwargs)


class WrongPredictWithinCluster(Base):
    """predict() commits to the cluster with the best head score and takes the best class inside it; shows when a class of the shortlist or of another cluster beats the members of that cluster (it then differs from log_prob().argmax())."""

    def predict(self, input):
        best = self.head(input).argmax(1)
        out = best.clone()
        for i in range(self.n_clusters):
            rows = (best == self.shortlist_size + i).nonzero().reshape(-1)
            if rows.numel():
                out[rows] = self.tail[i](input[rows]).argmax(1) + self.cutoffs[i]
        return out


def witness_WrongPredictWithinCluster():
    a, b = _pair(WrongPredictWithinCluster, 8, 40, [4, 10])
    g = torch.Generator().manual_seed(1)
    x = torch.randn(200, 8, generator=g)
    return torch.equal(b.predict(x), b.log_prob(x).argmax(1)) and not torch.equal(a.predict(x), b.predict(x))


class WrongLogProbWithoutClusterTerm(Base):
    """log_prob() leaves out the log-probability of the cluster for the tail classes; shows in log_prob (rows do not sum to one) and predict, not in forward."""

    def _get_full_log_prob(self, input, head_output):
        parts = [F.log_softmax(head_output, dim=1)[:, : self.shortlist_size]]
        parts += [F.log_softmax(t(input), dim=1) for t in self.tail]
        return torch.cat(parts, 1)


def witness_WrongLogProbWithoutClusterTerm():
    a, _ = _pair(WrongLogProbWithoutClusterTerm, 8, 12, [4, 8])
    s = a.log_prob(torch.randn(3, 8)).exp().sum(1)
    return not torch.allclose(s, torch.ones(3), rtol=1e-3)


class WrongClusterSizeRounded(Base):
    """The inner size of a cluster is in_features / div_value**idx rounded to the nearest integer, not rounded down; shows in the shapes of the parameters when the quotient has a fraction of one half or more."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        kw = {"device": device, "dtype": dtype, "bias": False}
        for i, part in enumerate(self.tail):
            hsz = int(in_features / div_value ** (i + 1) + 0.5)
            if hsz != part[0].out_features:
                self.tail[i] = nn.Sequential(nn.Linear(in_features, hsz, **kw),
                                             nn.Linear(hsz, part[1].out_features, **kw))


def witness_WrongClusterSizeRounded():
    a, b = WrongClusterSizeRounded(7, 12, [4, 8]), Base(7, 12, [4, 8])
    return [p.shape for p in a.parameters()] != [p.shape for p in b.parameters()]


class WrongLossAveragedPerCluster(Base):
    """loss is the mean over clusters of the mean over their targets; shows when the used clusters hold different numbers of targets (output stays right)."""

    def forward(self, input_, target_):
        out = super().forward(input_, target_)
        if target_.dim() == 0 or target_.numel() == 0:
            return out
        bucket = torch.bucketize(target_, torch.tensor(self.cutoffs, device=target_.device), right=True)
        means = [-out.output[bucket == k].mean() for k in bucket.unique()]
        return Output(out.output, torch.stack(means).mean())


def witness_WrongLossAveragedPerCluster():
    a, b = _pair(WrongLossAveragedPerCluster, 8, 12, [4, 8])
    x, y = torch.randn(4, 8), torch.tensor([0, 1, 2, 11])
    return torch.allclose(a(x, y).output, b(x, y).output) and not torch.allclose(a(x, y).loss, b(x, y).loss, rtol=1e-3)


class WrongCutoffsAppended(Base):
    """Appends n_classes to the caller's list of cutoffs; shows when the list is looked at or used again (the second module with it is refused)."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        if isinstance(cutoffs, list):
            cutoffs.append(n_classes)
            self.cutoffs = cutoffs


def witness_WrongCutoffsAppended():
    c = [4, 8]
    WrongCutoffsAppended(8, 12, c)
    return c != [4, 8]


class WrongResetKeepsTail(Base):
    """reset_parameters() resets the head only; shows when the method is called again, for example for deferred initialisation or retraining."""

    def reset_parameters(self):
        self.head.reset_parameters()


def witness_WrongResetKeepsTail():
    m = WrongResetKeepsTail(8, 12, [4, 8])
    before = m.tail[0][0].weight.clone()
    m.reset_parameters()
    return torch.equal(before, m.tail[0][0].weight)


class WrongTargetsUnchecked(Base):
    """Targets outside 0 .. n_classes - 1 are clamped instead of refused; shows when a target is out of range (torch raises RuntimeError)."""

    def forward(self, input_, target_):
        return super().forward(input_, target_.clamp(0, self.n_classes - 1))


def witness_WrongTargetsUnchecked():
    a, b = _pair(WrongTargetsUnchecked, 8, 12, [4, 8])
    x, y = torch.randn(2, 8), torch.tensor([0, 12])
    try:
        b(x, y)
    except RuntimeError:
        return bool(torch.isfinite(a(x, y).loss))
    return False


class WrongCutoffBelongsToCluster(Base):
    """Assigns the label equal to a cutoff to the cluster before it (`<=` instead of `<`), using that cluster's last class; shows only for targets equal to the second or a later cutoff."""

    def forward(self, input_, target_):
        t = target_
        for c in self.cutoffs[1:-1]:
            t = torch.where(t == c, t - 1, t)
        return super().forward(input_, t)


def witness_WrongCutoffBelongsToCluster():
    a, b = _pair(WrongCutoffBelongsToCluster, 8, 12, [4, 8])
    x = torch.randn(2, 8)
    y, z = torch.tensor([0, 8]), torch.tensor([7, 9])
    return not torch.allclose(a(x, y).loss, b(x, y).loss, rtol=1e-4) and torch.allclose(a(x, z).loss, b(x, z).loss)


# ---------------------------------------------------------------- right


class _Own(nn.Module):
    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__()
        cutoffs = list(cutoffs)
        if not cutoffs:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        rising = all(a < b for a, b in zip(cutoffs, cutoffs[1:]))
        if not rising or any(int(c) != c or not 1 <= c <= n_classes - 1 for c in cutoffs):
            raise ValueError(
                "cutoffs should be a sequence of unique, positive integers sorted in an increasing order, where "
                "each value is between 1 and n_classes-1"
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = cutoffs + [n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(cutoffs)
        self.head_size = self.shortlist_size + self.n_clusters
        kw = {"device": device, "dtype": dtype}
        self.head = nn.Linear(in_features, self.head_size, bias=head_bias, **kw)
        self.tail = nn.ModuleList()
        for i, (low, high) in enumerate(zip(self.cutoffs, self.cutoffs[1:])):
            size = int(in_features // div_value ** (i + 1))
            self.tail.append(nn.Sequential(nn.Linear(in_features, size, bias=False, **kw),
                                           nn.Linear(size, high - low, bias=False, **kw)))

    def reset_parameters(self):
        self.head.reset_parameters()
        for a, b in self.tail:
            a.reset_parameters()
            b.reset_parameters()

    def _checked(self, input_, target_):
        if target_.dim() > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if target_.dim() == 1 and input_.size(0) != target_.size(0):
            raise RuntimeError("Input and target should have the same size in the batch dimension.")
        if input_.dim() != target_.dim() + 1:
            raise RuntimeError(
                f"{target_.dim()}D target tensor expects {target_.dim() + 1}D input tensors, "
                f"but found inputs with size {input_.size()}"
            )
        x = input_ if target_.dim() else input_.unsqueeze(0)
        t = target_.reshape(-1)
        if t.numel() and bool(((t < 0) | (t >= self.n_classes)).any()):
            raise RuntimeError(
                f"Target values should be in [0, {self.n_classes - 1}], "
                f"but values in range [{t.min().item()}, {t.max().item()}] were found. "
            )
        return x, t

    def log_prob(self, input):
        head = F.log_softmax(self.head(input), 1)
        parts = [head[:, : self.shortlist_size]]
        for i, part in enumerate(self.tail):
            parts.append(F.log_softmax(part(input), 1) + head[:, self.shortlist_size + i].unsqueeze(1))
        return torch.cat(parts, 1)

    def predict(self, input):
        return self.log_prob(input).argmax(1)


class RightFullDistribution(_Own):
    """Gathers the target's value from the full log-distribution of all classes."""

    def forward(self, input_, target_):
        x, t = self._checked(input_, target_)
        output = self.log_prob(x).gather(1, t.long().unsqueeze(1)).squeeze(1)
        return Output(output if target_.dim() else output.squeeze(0), -output.mean())


class RightMaskedClusters(_Own):
    """Evaluates the used clusters only, with masks and logsumexp in place of log_softmax and index_copy."""

    @staticmethod
    def _picked(scores, hit):
        z = scores - scores.detach().amax(1, keepdim=True)
        return z.masked_fill(~hit, 0).sum(1) - torch.logsumexp(z, 1)

    def forward(self, input_, target_):
        x, t = self._checked(input_, target_)
        scores = self.head(x)
        slot = t.clone()
        extra = torch.zeros(t.shape, dtype=scores.dtype, device=scores.device)
        for i, (low, high) in enumerate(zip(self.cutoffs, self.cutoffs[1:])):
            mask = (t >= low) & (t < high)
            if not bool(mask.any()):
                continue
            slot = torch.where(mask, torch.full_like(slot, self.shortlist_size + i), slot)
            z = self.tail[i](x[mask])
            hit = torch.arange(high - low, device=t.device) == (t[mask] - low).unsqueeze(1)
            local = self._picked(z, hit)
            extra = extra.masked_scatter(mask, local)
        hit = torch.arange(self.head_size, device=t.device) == slot.unsqueeze(1)
        output = self._picked(scores, hit) + extra
        return Output(output if target_.dim() else output.squeeze(0), -output.mean())
