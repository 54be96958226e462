import torch
import torch.nn as nn
import torch.nn.functional as F
from typing import NamedTuple

_Base = nn.AdaptiveLogSoftmaxWithLoss


class _Output(NamedTuple):
    output: torch.Tensor
    loss: torch.Tensor


def _pair(cls, *args, **kwargs):
    """cls and torch's own class with the same parameters."""
    torch.manual_seed(0)
    want = _Base(*args, **kwargs)
    got = cls(*args, **kwargs)
    got.load_state_dict(want.state_dict())
    return got, want


def _data(n=8, features=8, classes=20):
    x = (torch.arange(float(n * features)).reshape(n, features) * 0.37).sin()
    return x, torch.arange(n) * 5 % classes


class WrongClusterColumnsReversed(_Base):
    """forward reads the clusters' columns of the head in reverse order: wrong from two clusters on, and at odds with log_prob."""

    def forward(self, input_, target_):
        c, k = self.shortlist_size, self.n_clusters
        order = list(range(c)) + [c + k - 1 - i for i in range(k)]
        real = self.head

        class _Reordered(nn.Module):
            def forward(self, x):
                return real(x)[:, order]

        self._modules["head"] = _Reordered()
        try:
            return super().forward(input_, target_)
        finally:
            self._modules["head"] = real


def witness_WrongClusterColumnsReversed():
    x, t = _data()
    a, b = _pair(WrongClusterColumnsReversed, 8, 20, [4, 10])
    c, d = _pair(WrongClusterColumnsReversed, 8, 20, [4])
    return torch.allclose(c(x, t).loss, d(x, t).loss) and not torch.allclose(a(x, t).loss, b(x, t).loss, rtol=1e-3)


class WrongClusterSizeExponent(_Base):
    """The first cluster's projection is in_features // div_value**0 wide: exponents start at 0, not at the documented 1."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        kw = {"device": device, "dtype": dtype}
        self.tail = nn.ModuleList()
        for i in range(self.n_clusters):
            hsz = int(in_features // (div_value**i))
            osz = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                nn.Sequential(nn.Linear(in_features, hsz, bias=False, **kw), nn.Linear(hsz, osz, bias=False, **kw))
            )


def witness_WrongClusterSizeExponent():
    a, b = (c(8, 20, [4], div_value=2.0) for c in (WrongClusterSizeExponent, _Base))
    return a.tail[0][0].out_features == 8 and b.tail[0][0].out_features == 4


class WrongTailDtype(_Base):
    """dtype reaches the head only; the tail is left in the default dtype, so that dtype=torch.float64 fails in a cluster."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        if dtype is not None:
            self.tail.to(torch.get_default_dtype())


def witness_WrongTailDtype():
    a, b = (c(8, 20, [4], dtype=torch.float64) for c in (WrongTailDtype, _Base))
    return a.tail[0][0].weight.dtype == torch.float32 and b.tail[0][0].weight.dtype == torch.float64


class WrongPredictIsGreedy(_Base):
    """predict goes down the best head entry: a cluster whose mass beats every shortlist word wins even where its best word does not."""

    def predict(self, input):
        head = self.head(input)
        best = head.argmax(1)
        out = best.clone()
        for i in range(self.n_clusters):
            rows = (best == self.shortlist_size + i).nonzero().squeeze(1)
            if rows.numel():
                out[rows] = self.tail[i](input[rows]).argmax(1) + self.cutoffs[i]
        return out


def witness_WrongPredictIsGreedy():
    a, b = _pair(WrongPredictIsGreedy, 4, 20, [2], div_value=2.0)
    with torch.no_grad():
        for m in (a, b):
            m.head.weight.zero_()
            m.head.weight[0, 0], m.head.weight[2, 0] = 1.0, 1.5
            for p in m.tail.parameters():
                p.zero_()
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    return b.predict(x).item() == 0 == b.log_prob(x).argmax(1).item() and a.predict(x).item() != 0


class WrongNegativeTargetClamped(_Base):
    """A negative target (-1, -100) is treated as class 0 rather than raising RuntimeError."""

    def forward(self, input_, target_):
        return super().forward(input_, target_.clamp(min=0))


def witness_WrongNegativeTargetClamped():
    x, t = _data()
    t = t.clone()
    t[2] = -1
    a, b = _pair(WrongNegativeTargetClamped, 8, 20, [4, 10])
    try:
        b(x, t)
        return False
    except RuntimeError:
        return bool(a(x, t).loss.isfinite())


class WrongUnbatchedOutputShape(_Base):
    """For an unbatched input (in_features,) and target () the output keeps the added batch dimension: shape (1,), not ()."""

    def forward(self, input_, target_):
        out = super().forward(input_, target_)
        return _Output(out.output.reshape(1), out.loss) if target_.dim() == 0 else out


def witness_WrongUnbatchedOutputShape():
    x, t = _data()
    a, b = _pair(WrongUnbatchedOutputShape, 8, 20, [4, 10])
    return a(x[0], t[0]).output.shape == (1,) and b(x[0], t[0]).output.shape == ()


class WrongCallersCutoffsGrow(_Base):
    """The constructor appends n_classes to the caller's own list of cutoffs: a second module from the same list fails or differs."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        if isinstance(cutoffs, list):
            cutoffs.append(n_classes)
            self.cutoffs = cutoffs


def witness_WrongCallersCutoffsGrow():
    mine, theirs = [4, 10], [4, 10]
    WrongCallersCutoffsGrow(8, 20, mine)
    _Base(8, 20, theirs)
    return mine == [4, 10, 20] and theirs == [4, 10]


class WrongEvaluatesAbsentClusters(_Base):
    """All clusters are evaluated for every minibatch: a cluster without a target gets a zero gradient rather than none (weight decay and momentum then move it), and the cost is the full one."""

    def forward(self, input_, target_):
        out = super().forward(input_, target_)
        x = input_ if target_.dim() else input_.unsqueeze(0)
        extra = sum((tail(x) * 0.0).sum() for tail in self.tail)
        return _Output(out.output + extra.to(out.output.dtype), out.loss - extra.to(out.loss.dtype))


def witness_WrongEvaluatesAbsentClusters():
    x, _ = _data()
    t = torch.arange(8) % 4
    a, b = _pair(WrongEvaluatesAbsentClusters, 8, 20, [4, 10])
    a(x, t).loss.backward()
    b(x, t).loss.backward()
    return a.tail[0][0].weight.grad is not None and b.tail[0][0].weight.grad is None


def _cutoffs(cutoffs, n_classes):
    cutoffs = list(cutoffs)
    if not cutoffs:
        raise ValueError("cutoffs should be a sequence of length larger than 0")
    edges = [0, *cutoffs, n_classes]
    if any(int(c) != c for c in cutoffs) or any(b <= a for a, b in zip(edges, edges[1:])):
        raise ValueError(
            "cutoffs should be a sequence of unique, positive integers sorted in an increasing order, "
            "where each value is between 1 and n_classes-1"
        )
    return [*cutoffs, n_classes]


class _Own(nn.Module):
    """Construction, checks and reset shared by the two right formulations (same parameter names and order as torch)."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__()
        self.in_features, self.n_classes = in_features, n_classes
        self.cutoffs = _cutoffs(cutoffs, n_classes)
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size, self.n_clusters = self.cutoffs[0], len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        kw = {"device": device, "dtype": dtype}
        self.head = nn.Linear(in_features, self.head_size, bias=head_bias, **kw)
        self.tail = nn.ModuleList()
        for i in range(self.n_clusters):
            hsz = int(in_features // div_value ** (i + 1))
            osz = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                nn.Sequential(nn.Linear(in_features, hsz, bias=False, **kw), nn.Linear(hsz, osz, bias=False, **kw))
            )

    def reset_parameters(self):
        for layer in (self.head, *(m for pair in self.tail for m in pair)):
            layer.reset_parameters()

    def _rows(self, input_, target_):
        if target_.dim() > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if target_.dim() == 1 and input_.dim() > 0 and input_.size(0) != target_.size(0):
            raise RuntimeError("Input and target should have the same size in the batch dimension.")
        if input_.dim() != target_.dim() + 1:
            raise RuntimeError(f"{target_.dim()}D target tensor expects {target_.dim() + 1}D input tensors")
        x, t = (input_, target_) if target_.dim() else (input_.unsqueeze(0), target_.unsqueeze(0))
        if t.numel() and bool(((t < 0) | (t >= self.n_classes)).any()):
            raise RuntimeError(f"Target values should be in [0, {self.n_classes - 1}]")
        return x, t

    def _log_softmax(self, z):
        """In at least float32, back in the dtype of z (float32 under autocast, as torch's log_softmax)."""
        return torch.log_softmax(z, 1)

    def log_prob(self, input):
        head = self._log_softmax(self.head(input))
        blocks = [head[:, : self.shortlist_size]]
        for i, tail in enumerate(self.tail):
            blocks.append(self._log_softmax(tail(input)) + head[:, self.shortlist_size + i, None])
        return torch.cat(blocks, 1).to(input.dtype)

    def predict(self, input):
        return self.log_prob(input).argmax(1)


class RightSortedByCluster(_Own):
    """Clusters by bucketize, rows visited in stable cluster order and put back by the inverse permutation; logsumexp minus logit in place of log_softmax."""

    def forward(self, input_, target_):
        x, t = self._rows(input_, target_)
        edges = torch.tensor(self.cutoffs, device=t.device)
        cluster = torch.bucketize(t, edges, right=True)
        entry = torch.where(cluster == 0, t, self.shortlist_size + cluster - 1)
        head = self.head(x)
        scores = self._picked(head, entry)
        order = torch.argsort(cluster, stable=True)
        counts = torch.bincount(cluster, minlength=self.n_clusters + 1).tolist()
        parts = []
        for i, rows in enumerate(order.split(counts) if order.numel() else []):
            if i == 0 or rows.numel() == 0:
                parts.append(scores.new_zeros(rows.numel()))
            else:
                local = t.index_select(0, rows) - self.cutoffs[i - 1]
                parts.append(self._picked(self.tail[i - 1](x.index_select(0, rows)), local).to(scores.dtype))
        if parts:
            inverse = torch.argsort(order)
            scores = scores + torch.cat(parts).index_select(0, inverse)
        out = scores.to(x.dtype)
        loss = -out.mean()
        return _Output(out if target_.dim() else out.squeeze(0), loss)

    @staticmethod
    def _picked(z, index):
        work = torch.promote_types(z.dtype, torch.float32)
        z = z.to(work)
        z = z - z.detach().amax(1, keepdim=True) if z.numel() else z
        return z.gather(1, index.unsqueeze(1)).squeeze(1) - z.exp().sum(1).log()


class RightMaskedScatter(_Own):
    """Negative log likelihoods by cross_entropy for the head and for each cluster present, added with index_add on float64 sums."""

    def forward(self, input_, target_):
        x, t = self._rows(input_, target_)
        entry, nll = t.clone(), None
        pending = []
        for i in range(self.n_clusters):
            rows = torch.where((t >= self.cutoffs[i]) & (t < self.cutoffs[i + 1]))[0]
            if rows.shape[0] == 0:
                continue
            entry[rows] = self.shortlist_size + i
            local = F.cross_entropy(self.tail[i](x[rows]).double(), t[rows] - self.cutoffs[i], reduction="none")
            pending.append((rows, local))
        nll = F.cross_entropy(self.head(x).double(), entry, reduction="none")
        for rows, local in pending:
            nll = nll.index_add(0, rows, local)
        out = nll.neg().to(x.dtype)
        return _Output(out if target_.dim() else out.reshape(()), nll.mean().to(x.dtype))
