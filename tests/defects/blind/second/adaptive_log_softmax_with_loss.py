"""Wrong and right implementations of AdaptiveLogSoftmaxWithLoss, written without sight of the suite."""
from collections import namedtuple
import torch
from torch import nn
from torch.nn import functional as F

_Out = namedtuple("_Out", ["output", "loss"])


class _Base(nn.Module):
    """Vectorized: the whole head once, each cluster on its rows."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__()
        kw = {"device": device, "dtype": dtype}
        cutoffs = self._cutoffs(cutoffs)
        if len(cutoffs) == 0:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        if (cutoffs != sorted(cutoffs) or min(cutoffs) <= 0 or max(cutoffs) > n_classes - 1
                or len(set(cutoffs)) != len(cutoffs) or any(int(c) != c for c in cutoffs)):
            raise ValueError("cutoffs should be a sequence of unique, positive integers sorted in an increasing order, "
                             "where each value is between 1 and n_classes-1")
        self.in_features, self.n_classes, self.div_value, self.head_bias = in_features, n_classes, div_value, head_bias
        self.cutoffs = self._append(cutoffs, n_classes)
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = nn.Linear(in_features, self.head_size, bias=head_bias, **kw)
        self.tail = nn.ModuleList()
        for i in range(self.n_clusters):
            h = self._hidden(i)
            self.tail.append(nn.Sequential(nn.Linear(in_features, h, bias=False, **kw),
                                           nn.Linear(h, self.cutoffs[i + 1] - self.cutoffs[i], bias=False, **kw)))

    def _cutoffs(self, cutoffs):
        return list(cutoffs)

    def _append(self, cutoffs, n):
        return cutoffs + [n]

    def _hidden(self, i):
        return int(self.in_features // (self.div_value ** (i + 1)))

    def reset_parameters(self):
        self.head.reset_parameters()
        for a, b in self.tail:
            a.reset_parameters()
            b.reset_parameters()

    def _check(self, input, target):
        if target.dim() == 1:
            if input.size(0) != target.size(0):
                raise RuntimeError("Input and target should have the same size in the batch dimension.")
            if input.dim() != 2:
                raise RuntimeError(f"1D target tensor expects 2D input tensors, but found inputs with size {input.size()}")
        elif target.dim() == 0:
            if input.dim() != 1:
                raise RuntimeError(f"0D target tensor expects 1D input tensors, but found inputs with size {input.size()}")
        else:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if target.numel() and (int(target.min()) < 0 or int(target.max()) >= self.n_classes):
            raise RuntimeError(f"Target values should be in [0, {self.n_classes - 1}]")

    def _rows(self, x, t):
        head = F.log_softmax(self.head(x), dim=1)
        short = t < self.shortlist_size
        pos = torch.where(short, t, torch.zeros_like(t))
        extra = x.new_zeros(t.size(0))
        for i in range(self.n_clusters):
            m = (t >= self.cutoffs[i]) & (t < self.cutoffs[i + 1])
            pos = torch.where(m, torch.full_like(pos, self.shortlist_size + i), pos)
            if bool(m.any()):
                lp = F.log_softmax(self.tail[i](x[m]), dim=1)
                extra = extra.to(lp.dtype).index_put((m.nonzero().squeeze(1),), lp.gather(1, (t[m] - self.cutoffs[i]).unsqueeze(1)).squeeze(1))
        return extra + head.gather(1, pos.unsqueeze(1)).squeeze(1)

    def forward(self, input, target):
        self._check(input, target)
        single = target.dim() == 0
        x, t = (input.unsqueeze(0), target.unsqueeze(0)) if single else (input, target)
        out = self._rows(x, t)
        return _Out(out.squeeze(0) if single else out, -out.mean())

    def log_prob(self, input):
        head = F.log_softmax(self.head(input), dim=1)
        parts = [head[:, :self.shortlist_size]]
        for i in range(self.n_clusters):
            parts.append(F.log_softmax(self.tail[i](input), dim=1) + head[:, self.shortlist_size + i:self.shortlist_size + i + 1])
        return torch.cat(parts, 1)

    def predict(self, input):
        return self.log_prob(input).argmax(1)


class WrongPredictGreedy(_Base):
    """predict walks down the tree greedily: inside the best cluster, though a frequent class may be more probable than its best member."""

    def predict(self, input):
        best = self.head(input).argmax(1)
        for i in range(self.n_clusters):
            m = best == self.shortlist_size + i
            if bool(m.any()):
                best = best.masked_scatter(m, self.tail[i](input[m]).argmax(1) + self.cutoffs[i])
        return best


def witness_WrongPredictGreedy():
    torch.manual_seed(0)
    m = WrongPredictGreedy(8, 20, [4, 10])
    x = torch.randn(200, 8)
    return not torch.equal(m.predict(x), m.log_prob(x).argmax(1))


class WrongCutoffsAppended(_Base):
    """n_classes is appended to the caller's list: a second module from the same list is refused."""

    def _cutoffs(self, cutoffs):
        return cutoffs if isinstance(cutoffs, list) else list(cutoffs)

    def _append(self, cutoffs, n):
        cutoffs.append(n)
        return cutoffs


def witness_WrongCutoffsAppended():
    c = [4, 10]
    WrongCutoffsAppended(8, 20, c)
    return c != [4, 10]


class WrongHiddenMultipleOf8(_Base):
    """Projection sizes are rounded up to a multiple of 8 for tensor cores: not floor(in_features / div_value**idx), checkpoints do not fit."""

    def _hidden(self, i):
        return -(-super()._hidden(i) // 8) * 8


def witness_WrongHiddenMultipleOf8():
    m, r = WrongHiddenMultipleOf8(16, 20, [4, 10]), nn.AdaptiveLogSoftmaxWithLoss(16, 20, [4, 10])
    return m.tail[0][0].weight.shape != r.tail[0][0].weight.shape


class WrongLastBatchSqueezed(_Base):
    """squeeze() without a dimension: a batch of one row has a 0-d output."""

    def forward(self, input, target):
        out, loss = super().forward(input, target)
        return _Out(out.squeeze(), loss)


def witness_WrongLastBatchSqueezed():
    m = WrongLastBatchSqueezed(8, 20, [4, 10])
    return m(torch.randn(1, 8), torch.tensor([3])).output.shape == ()


class WrongLogProbNoGrad(_Base):
    """log_prob is taken for an inference helper and runs under no_grad: distillation through it trains nothing."""

    @torch.no_grad()
    def log_prob(self, input):
        return super().log_prob(input)


def witness_WrongLogProbNoGrad():
    return not WrongLogProbNoGrad(8, 20, [4, 10]).log_prob(torch.randn(2, 8)).requires_grad


class WrongResetHeadOnly(_Base):
    """reset_parameters leaves the tail clusters as they were trained."""

    def reset_parameters(self):
        self.head.reset_parameters()


def witness_WrongResetHeadOnly():
    m = WrongResetHeadOnly(16, 20, [4, 10])
    w = m.tail[0][0].weight.detach().clone()
    m.reset_parameters()
    return torch.equal(w, m.tail[0][0].weight)


class RightRowsByMask(_Base):
    """Cluster terms put in place by index_put, no in-place buffers."""


class RightFullTable(_Base):
    """All log-probabilities first, then gather."""

    def forward(self, input, target):
        self._check(input, target)
        single = target.dim() == 0
        x = input.unsqueeze(0) if single else input
        out = self.log_prob(x).gather(1, target.reshape(-1, 1)).squeeze(1)
        return _Out(out.squeeze(0) if single else out, -out.mean())
