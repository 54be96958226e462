from collections import namedtuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import AdaptiveLogSoftmaxWithLoss as _Torch

_ASM = namedtuple("_ASMoutput", ["output", "loss"])


def _check_cutoffs(cutoffs, n_classes):
    cutoffs = list(cutoffs)
    if len(cutoffs) == 0:
        raise ValueError("cutoffs should be a sequence of length larger than 0")
    if (cutoffs != sorted(cutoffs) or min(cutoffs) <= 0 or max(cutoffs) > n_classes - 1
            or len(set(cutoffs)) != len(cutoffs) or any(int(c) != c for c in cutoffs)):
        raise ValueError("cutoffs should be a sequence of unique, positive integers sorted in an "
                         "increasing order, where each value is between 1 and n_classes-1")
    return cutoffs


class _Base(nn.Module):
    """Parameters, checks and refusals; the computation is left to the subclasses."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False,
                 device=None, dtype=None):
        super().__init__()
        cutoffs = _check_cutoffs(cutoffs, n_classes)
        kw = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = cutoffs + [n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = nn.Linear(in_features, self.head_size, bias=head_bias, **kw)
        self.tail = nn.ModuleList()
        for i in range(self.n_clusters):
            hidden = int(in_features // (div_value ** (i + 1)))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(nn.Sequential(nn.Linear(in_features, hidden, bias=False, **kw),
                                           nn.Linear(hidden, size, bias=False, **kw)))

    def reset_parameters(self):
        self.head.reset_parameters()
        for a, b in self.tail:
            a.reset_parameters()
            b.reset_parameters()

    def _shape(self, input_, target_):
        if target_.dim() == 1:
            if input_.size(0) != target_.size(0):
                raise RuntimeError("Input and target should have the same size in the batch "
                                   "dimension.")
            if input_.dim() != 2:
                raise RuntimeError("1D target tensor expects 2D input tensors, "
                                   f"but found inputs with size {input_.size()}")
            return input_, target_, True
        if target_.dim() == 0:
            if input_.dim() != 1:
                raise RuntimeError("0D target tensor expects 1D input tensors, "
                                   f"but found inputs with size {input_.size()}")
            return input_.unsqueeze(0), target_.unsqueeze(0), False
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")

    def _range(self, target):
        if target.dtype != torch.int64:
            raise RuntimeError(f"expected target of dtype int64, got {target.dtype}")
        if target.numel() and bool(((target < 0) | (target >= self.n_classes)).any()):
            raise RuntimeError(f"Target values should be in [0, {self.n_classes - 1}], but values "
                               f"in range [{int(target.min())}, {int(target.max())}] were found. ")

    def log_prob(self, input):
        head = F.log_softmax(self.head(input), 1)
        k = self.shortlist_size
        parts = [head[:, :k]]
        for i, cluster in enumerate(self.tail):
            parts.append(F.log_softmax(cluster(input), 1) + head[:, k + i:k + i + 1])
        return torch.cat(parts, 1)

    def predict(self, input):
        return self.log_prob(input).argmax(1)


# ------------------------------------------------------------------ right ones


class RightFullDistribution(_Base):
    """Builds the log-probabilities of all classes and picks those of the targets."""

    def forward(self, input_, target_):
        x, t, batched = self._shape(input_, target_)
        self._range(t)
        out = self.log_prob(x).gather(1, t.unsqueeze(1)).squeeze(1)
        loss = -out.mean()
        return _ASM(out if batched else out.squeeze(0), loss)


class RightSorted(_Base):
    """Sorts the batch by target, so that each cluster is one contiguous slice, and undoes the sorting."""

    def forward(self, input_, target_):
        x, t, batched = self._shape(input_, target_)
        self._range(t)
        ts, order = torch.sort(t, stable=True)
        xs = x.index_select(0, order)
        bounds = torch.tensor(self.cutoffs, device=t.device)
        ends = torch.searchsorted(ts, bounds).tolist()
        head = self.head(xs)
        head = head - head.logsumexp(1, keepdim=True)
        k = self.shortlist_size
        lo = ends[0]
        pieces = [head[:lo].gather(1, ts[:lo, None]).squeeze(1)]
        for i in range(self.n_clusters):
            hi = ends[i + 1]
            if hi > lo:
                z = self.tail[i][1](self.tail[i][0](xs[lo:hi]))
                rel = ts[lo:hi, None] - self.cutoffs[i]
                local = z.gather(1, rel).squeeze(1) - z.logsumexp(1)
                pieces.append(head[lo:hi, k + i] + local)
            lo = hi
        out_sorted = torch.cat(pieces)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel(), device=order.device)
        out = out_sorted[inverse]
        loss = out.neg().mean()
        return _ASM(out if batched else out.reshape(()), loss)


class RightCrossEntropies(_Base):
    """One cross entropy for the head and one for each cluster, added up with index_add; predict expands only where a cluster can win."""

    def forward(self, input_, target_):
        x, t, batched = self._shape(input_, target_)
        self._range(t)
        edges = torch.tensor(self.cutoffs[:-1], device=t.device)
        cluster = torch.bucketize(t, edges, right=True)          # 0 = shortlist
        head_target = torch.where(cluster == 0, t, self.shortlist_size + cluster - 1)
        nll = F.cross_entropy(self.head(x), head_target, reduction="none")
        for c in range(1, self.n_clusters + 1):
            rows = (cluster == c).nonzero(as_tuple=True)[0]
            if rows.numel():
                part = F.cross_entropy(self.tail[c - 1](x[rows]), t[rows] - self.cutoffs[c - 1],
                                       reduction="none")
                nll = nll.index_add(0, rows, part)
        loss = nll.mean()
        out = -nll
        return _ASM(out if batched else out[0], loss)

    def predict(self, input):
        head = self.head(input)
        best = head.argmax(1)
        todo = (best >= self.shortlist_size).nonzero(as_tuple=True)[0]
        if todo.numel():
            best = best.index_copy(0, todo, self.log_prob(input[todo]).argmax(1))
        return best


class RightFunctional(nn.Module):
    """Written without the shared base: explicit matrix products, boolean masks, float32 log-sum-exp for the half types."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False,
                 device=None, dtype=None):
        nn.Module.__init__(self)
        cuts = _check_cutoffs(cutoffs, n_classes)
        self.in_features, self.n_classes = in_features, n_classes
        self.cutoffs = [*cuts, n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size, self.n_clusters = cuts[0], len(cuts)
        self.head_size = cuts[0] + len(cuts)
        opts = dict(device=device, dtype=dtype)
        self.head = nn.Linear(in_features, self.head_size, bias=head_bias, **opts)
        sizes = [b - a for a, b in zip(self.cutoffs, self.cutoffs[1:])]
        self.tail = nn.ModuleList(
            nn.Sequential(nn.Linear(in_features, int(in_features // div_value ** (j + 1)),
                                    bias=False, **opts),
                          nn.Linear(int(in_features // div_value ** (j + 1)), n, bias=False,
                                    **opts))
            for j, n in enumerate(sizes))

    def reset_parameters(self):
        for m in self.modules():
            if isinstance(m, nn.Linear):
                m.reset_parameters()

    @staticmethod
    def _norm(z):
        wide = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
        m = wide.detach().amax(-1, keepdim=True)
        return wide - m - (wide - m).exp().sum(-1, keepdim=True).log()

    def _head(self, x):
        z = x @ self.head.weight.t()
        return self._norm(z if self.head.bias is None else z + self.head.bias)

    def _cluster(self, i, x):
        down, up = self.tail[i]
        return self._norm((x @ down.weight.t()) @ up.weight.t())

    def log_prob(self, input):
        h = self._head(input)
        out = [h[:, :self.shortlist_size]]
        for i in range(self.n_clusters):
            out.append(self._cluster(i, input) + h[:, self.shortlist_size + i, None])
        return torch.cat(out, 1).to(input.dtype)

    def predict(self, input):
        return self.log_prob(input).argmax(dim=1)

    def forward(self, input_, target_):
        single = target_.dim() == 0
        if target_.dim() > 1:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if not single and input_.size(0) != target_.size(0):
            raise RuntimeError("Input and target should have the same size in the batch dimension.")
        if input_.dim() != target_.dim() + 1:
            raise RuntimeError(f"{target_.dim()}D target tensor expects {target_.dim() + 1}D input "
                               f"tensors, but found inputs with size {input_.size()}")
        x, t = (input_[None], target_[None]) if single else (input_, target_)
        if t.dtype != torch.int64:
            raise RuntimeError("target must be int64")
        h = self._head(x)
        done = t.new_zeros(t.shape, dtype=torch.bool)
        total = h.new_zeros(t.shape)
        low = 0
        for i, high in enumerate(self.cutoffs):
            mask = t.ge(low) & t.lt(high)
            done |= mask
            if mask.any():
                if i == 0:
                    vals = h[mask].gather(1, t[mask][:, None])[:, 0]
                else:
                    vals = self._cluster(i - 1, x[mask]).gather(1, t[mask][:, None] - low)[:, 0]
                    vals = vals + h[mask][:, self.shortlist_size + i - 1]
                total = total.masked_scatter(mask, vals)
            low = high
        if not bool(done.all()):
            raise RuntimeError(f"Target values should be in [0, {self.n_classes - 1}], but values "
                               f"in range [{int(t.min())}, {int(t.max())}] were found. ")
        loss = -total.sum() / total.numel() if total.numel() else -total.mean()
        out = total.to(x.dtype)
        return _ASM(out[0] if single else out, loss.to(x.dtype))


# ------------------------------------------------------------------ wrong ones


def _pair(cls, *args, seed=0, **kw):
    torch.manual_seed(seed)
    ref = _Torch(*args, **kw)
    bad = cls(*args, **kw)
    bad.load_state_dict(ref.state_dict())
    return ref, bad


class WrongShortlistInclusive(_Base):
    """A target equal to the first cutoff is taken for a head word (<= instead of <), so it gets the probability of its whole cluster."""

    def forward(self, input_, target_):
        x, t, batched = self._shape(input_, target_)
        self._range(t)
        head = F.log_softmax(self.head(x), 1)
        out = torch.zeros_like(head[:, 0])
        cols = t.clone()
        for i in range(self.n_clusters):
            mask = (t >= self.cutoffs[i]) & (t < self.cutoffs[i + 1]) & (t > self.shortlist_size)
            rows = mask.nonzero().squeeze(1)
            if rows.numel():
                local = F.log_softmax(self.tail[i](x[rows]), 1)
                local = local.gather(1, (t[rows] - self.cutoffs[i]).unsqueeze(1)).squeeze(1)
                out = out.index_add(0, rows, local)
                cols[rows] = self.shortlist_size + i
        out = out + head.gather(1, cols.unsqueeze(1)).squeeze(1)
        return _ASM(out if batched else out.squeeze(0), (-out).mean())


def witness_WrongShortlistInclusive():
    ref, bad = _pair(WrongShortlistInclusive, 8, 12, [4, 8], div_value=2.0)
    x, t = torch.randn(5, 8), torch.tensor([0, 3, 4, 5, 8])
    same = torch.isclose(bad(x, t).output, ref(x, t).output)
    return same.tolist() == [True, True, False, True, True]


class WrongClusterColumnsReversed(_Base):
    """The cluster columns of the head are used in reverse order, in forward, log_prob and predict alike; agrees with itself but not with torch's parameters when there are two or more clusters."""

    def log_prob(self, input):
        head = F.log_softmax(self.head(input), 1)
        parts = [head[:, :self.shortlist_size]]
        for i, cluster in enumerate(self.tail):
            col = self.head_size - 1 - i
            parts.append(F.log_softmax(cluster(input), 1) + head[:, col:col + 1])
        return torch.cat(parts, 1)

    def forward(self, input_, target_):
        x, t, batched = self._shape(input_, target_)
        self._range(t)
        out = self.log_prob(x).gather(1, t.unsqueeze(1)).squeeze(1)
        return _ASM(out if batched else out.squeeze(0), -out.mean())


def witness_WrongClusterColumnsReversed():
    ref, bad = _pair(WrongClusterColumnsReversed, 8, 12, [4, 8], div_value=2.0)
    x, t = torch.randn(3, 8), torch.tensor([0, 5, 9])
    return torch.isclose(bad(x, t).output, ref(x, t).output).tolist() == [True, False, False]


class WrongProjectionSize(_Torch):
    """The cluster index in the projection size starts at 0 instead of 1 (in_features // div_value**i), so all projections are too wide and checkpoints do not fit."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False,
                 device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        kw = {"device": device, "dtype": dtype}
        self.tail = nn.ModuleList()
        for i in range(self.n_clusters):
            hidden = int(in_features // (div_value ** i))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(nn.Sequential(nn.Linear(in_features, hidden, bias=False, **kw),
                                           nn.Linear(hidden, size, bias=False, **kw)))


def witness_WrongProjectionSize():
    bad, ref = WrongProjectionSize(16, 12, [4, 8]), _Torch(16, 12, [4, 8])
    return [m[0].out_features for m in bad.tail] == [16, 4] and [
        m[0].out_features for m in ref.tail] == [4, 1]


class WrongResetSkipsTail(_Torch):
    """reset_parameters resets the head and the projections but not the output layers of the clusters."""

    def reset_parameters(self):
        self.head.reset_parameters()
        for i2h, _ in self.tail:
            i2h.reset_parameters()


def witness_WrongResetSkipsTail():
    def changed(cls):
        torch.manual_seed(0)
        m = cls(8, 12, [4, 8], div_value=2.0)
        before = {k: v.clone() for k, v in m.state_dict().items()}
        m.reset_parameters()
        return [k for k, v in m.state_dict().items() if torch.equal(v, before[k])]
    return changed(_Torch) == [] and changed(WrongResetSkipsTail) == ["tail.0.1.weight",
                                                                      "tail.1.1.weight"]


class WrongGreedyPredict(_Torch):
    """predict goes down greedily: if a cluster wins in the head, the best word of that cluster is returned even when a head word or a word of another cluster is more probable."""

    def predict(self, input):
        head = self.head(input)
        best = head.argmax(1)
        out = best.clone()
        for i in range(self.n_clusters):
            rows = (best == self.shortlist_size + i).nonzero().squeeze(1)
            if rows.numel():
                out[rows] = self.tail[i](input[rows]).argmax(1) + self.cutoffs[i]
        return out


def witness_WrongGreedyPredict():
    ref, bad = _pair(WrongGreedyPredict, 8, 40, [4, 20], div_value=2.0)
    x = torch.randn(200, 8)
    want = ref.log_prob(x).argmax(1)
    return torch.equal(ref.predict(x), want) and not torch.equal(bad.predict(x), want)


class WrongSingleKeepsBatch(_Torch):
    """For an unbatched input of size (in_features) and a 0-D target, output has size (1) instead of ()."""

    def forward(self, input_, target_):
        r = super().forward(input_, target_)
        return _ASM(r.output.reshape(-1), r.loss)


def witness_WrongSingleKeepsBatch():
    ref, bad = _pair(WrongSingleKeepsBatch, 8, 12, [4, 8], div_value=2.0)
    x, t = torch.randn(8), torch.tensor(5)
    return ref(x, t).output.shape == () and bad(x, t).output.shape == (1,)


class WrongCallersCutoffsExtended(_Torch):
    """n_classes is appended to the caller's own list of cutoffs, so building a second module from the same list fails."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False,
                 device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        if isinstance(cutoffs, list):
            cutoffs.append(n_classes)
            self.cutoffs = cutoffs


def witness_WrongCallersCutoffsExtended():
    c = [4, 8]
    WrongCallersCutoffsExtended(8, 12, c, div_value=2.0)
    try:
        WrongCallersCutoffsExtended(8, 12, c, div_value=2.0)
    except ValueError:
        return c == [4, 8, 12]
    return False


class WrongHeadSeesDetachedInput(_Base):
    """The rows of a tail cluster reach the head through a detached copy of the input, so the gradient of the input lacks the head's part for targets outside the shortlist; values and gradients of the parameters are right."""

    def forward(self, input_, target_):
        x, t, batched = self._shape(input_, target_)
        self._range(t)
        in_tail = (t >= self.shortlist_size).unsqueeze(1)
        head = F.log_softmax(self.head(torch.where(in_tail, x.detach(), x)), 1)
        out = torch.zeros_like(head[:, 0])
        cols = t.clone()
        for i in range(self.n_clusters):
            rows = ((t >= self.cutoffs[i]) & (t < self.cutoffs[i + 1])).nonzero().squeeze(1)
            if rows.numel():
                local = F.log_softmax(self.tail[i](x[rows]), 1)
                local = local.gather(1, (t[rows] - self.cutoffs[i]).unsqueeze(1)).squeeze(1)
                out = out.index_add(0, rows, local)
                cols[rows] = self.shortlist_size + i
        out = out + head.gather(1, cols.unsqueeze(1)).squeeze(1)
        return _ASM(out if batched else out.squeeze(0), (-out).mean())


def witness_WrongHeadSeesDetachedInput():
    ref, bad = _pair(WrongHeadSeesDetachedInput, 8, 12, [4, 8], div_value=2.0)
    x, t = torch.randn(3, 8, requires_grad=True), torch.tensor([0, 5, 9])
    a, = torch.autograd.grad(bad(x, t).loss, x)
    b, = torch.autograd.grad(ref(x, t).loss, x)
    return (torch.allclose(bad(x, t).loss, ref(x, t).loss) and torch.allclose(a[0], b[0])
            and not torch.allclose(a[1:], b[1:]))
