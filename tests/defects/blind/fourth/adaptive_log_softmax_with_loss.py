import itertools
import torch
import torch.nn as nn
import torch.nn.functional as F

_Base = nn.AdaptiveLogSoftmaxWithLoss


def _result(output, loss):
    from torch.nn.modules.adaptive import _ASMoutput
    return _ASMoutput(output, loss)


def _check(input, target):
    if target.dim() == 1:
        if input.size(0) != target.size(0):
            raise RuntimeError("Input and target should have the same size in the batch dimension.")
        if input.dim() != 2:
            raise RuntimeError(
                f"1D target tensor expects 2D input tensors, but found inputs with size {input.size()}")
    elif target.dim() == 0:
        if input.dim() != 1:
            raise RuntimeError(
                f"0D target tensor expects 1D input tensors, but found inputs with size {input.size()}")
    else:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")


# ------------------------------------------------------------------ wrong
class WrongSqueezedOutput(_Base):
    """The last step squeezes every axis of size one, so a batch of one row gives a 0-d output instead of shape (1,)."""

    def forward(self, input_, target_):
        out = super().forward(input_, target_)
        logp = torch.stack([out.output], -1)
        return _result(logp.squeeze(), out.loss)


def witness_WrongSqueezedOutput():
    m = WrongSqueezedOutput(4, 6, [2])
    return m(torch.randn(1, 4), torch.tensor([3])).output.shape != (1,)


class WrongGreedyPredict(_Base):
    """predict() takes the best class within the best head entry, which is not always the class of highest probability."""

    def predict(self, input):
        head = self.head(input)
        output = head.argmax(dim=1)
        for i in range(self.n_clusters):
            rows = (output == self.shortlist_size + i).nonzero().squeeze(1)
            if rows.numel():
                inner = self.tail[i](input.index_select(0, rows)).argmax(dim=1)
                output = output.index_copy(0, rows, inner + self.cutoffs[i])
        return output


def witness_WrongGreedyPredict():
    torch.manual_seed(0)
    m = WrongGreedyPredict(8, 40, [3, 10], div_value=2.0)
    x = torch.randn(500, 8)
    return not torch.equal(m.predict(x), m.log_prob(x).argmax(1))


class WrongIntegerDiv(_Base):
    """The projection sizes use div_value rounded down to an integer, wrong for values such as 1.5 or 2.5."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, max(int(div_value), 1) if div_value >= 1 else div_value,
                         head_bias, device, dtype)
        self.div_value = div_value


def witness_WrongIntegerDiv():
    a, b = WrongIntegerDiv(20, 10, [3, 6], 2.5), _Base(20, 10, [3, 6], 2.5)
    return [p.shape for p in a.parameters()] != [p.shape for p in b.parameters()]


class WrongCutoffsAppended(_Base):
    """n_classes is appended to the caller's own list of cutoffs, so building a second module from it fails."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        if isinstance(cutoffs, list):
            cutoffs.append(n_classes)
            self.cutoffs = cutoffs


def witness_WrongCutoffsAppended():
    c = [2, 4]
    WrongCutoffsAppended(4, 6, c)
    return c != [2, 4]


class WrongNoRangeCheck(_Base):
    """A target outside of [0, n_classes) gets a log probability of some class instead of RuntimeError."""

    def forward(self, input_, target_):
        _check(input_, target_)
        batched = target_.dim() > 0
        x = input_ if batched else input_.unsqueeze(0)
        t = target_ if batched else target_.unsqueeze(0)
        head = F.log_softmax(self.head(x), dim=1)
        column = t.clamp(min=0, max=self.shortlist_size - 1)
        tail = torch.zeros_like(head[:, 0])
        for i, (low, high) in enumerate(itertools.pairwise(self.cutoffs)):
            rows = ((t >= low) & (t < high)).nonzero().squeeze(1)
            if rows.numel() == 0:
                continue
            logp = F.log_softmax(self.tail[i](x.index_select(0, rows)), dim=1)
            inner = logp.gather(1, (t.index_select(0, rows) - low).unsqueeze(1)).squeeze(1)
            tail = tail.index_copy(0, rows, inner)
            column = column.index_fill(0, rows, self.shortlist_size + i)
        output = tail + head.gather(1, column.unsqueeze(1)).squeeze(1)
        loss = (-output).mean()
        return _result(output if batched else output.squeeze(0), loss)


def witness_WrongNoRangeCheck():
    torch.manual_seed(0)
    m, x, t = WrongNoRangeCheck(4, 6, [2, 4]), torch.randn(3, 4), torch.tensor([0, 5, 6])
    try:
        _Base.forward(m, x, t)
        return False
    except RuntimeError:
        return bool(m(x, t).loss.isfinite())


# ------------------------------------------------------------------ right
class RightSortedClusters(_Base):
    """Written by sorting the rows by cluster (bucketize, stable argsort, split), one matrix product per cluster present, and the inverse permutation; the table of log_prob is a cat."""

    def forward(self, input_, target_):
        _check(input_, target_)
        batched = target_.dim() > 0
        x = input_ if batched else input_.unsqueeze(0)
        t = target_ if batched else target_.unsqueeze(0)
        if t.numel() and not bool(((t >= 0) & (t < self.n_classes)).all()):
            raise RuntimeError(
                f"Target values should be in [0, {self.n_classes - 1}], "
                f"but values in range [{t.min().item()}, {t.max().item()}] were found. ")
        bounds = torch.tensor(self.cutoffs[:-1], device=t.device)
        cluster = torch.bucketize(t, bounds, right=True)
        column = torch.where(cluster == 0, t, self.shortlist_size + cluster - 1)
        head = F.log_softmax(self.head(x), dim=1)
        first = head.gather(1, column.unsqueeze(1)).squeeze(1)
        order = torch.argsort(cluster, stable=True)
        counts = torch.bincount(cluster, minlength=self.n_clusters + 1).tolist()
        pieces = []
        for k, rows in enumerate(order.split(counts)):
            if k == 0 or rows.numel() == 0:
                pieces.append(head.new_zeros(rows.numel()))
                continue
            z = self.tail[k - 1](x.index_select(0, rows))
            logp = F.log_softmax(z, dim=1)
            pieces.append(logp.gather(1, (t.index_select(0, rows) - self.cutoffs[k - 1]).unsqueeze(1)).squeeze(1))
        output = first + torch.cat(pieces).index_select(0, torch.argsort(order))
        output = output.to(input_.dtype) if not torch.is_autocast_enabled(x.device.type) else output
        loss = (-output).mean()
        return _result(output if batched else output.squeeze(0), loss)

    def log_prob(self, input):
        head = F.log_softmax(self.head(input), dim=1)
        parts = [head[:, :self.shortlist_size]]
        for i in range(self.n_clusters):
            parts.append(F.log_softmax(self.tail[i](input), dim=1)
                         + head[:, self.shortlist_size + i:self.shortlist_size + i + 1])
        return torch.cat(parts, 1)

    def predict(self, input):
        return self.log_prob(input).argmax(dim=1)
