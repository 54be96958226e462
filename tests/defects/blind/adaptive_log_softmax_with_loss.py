"""Wrong and right implementations of torch.nn.AdaptiveLogSoftmaxWithLoss, written without sight of the suite."""

from collections import namedtuple

import torch
from torch import nn
from torch.nn import functional as F

ASMoutput = namedtuple("ASMoutput", ["output", "loss"])


class _Adaptive(nn.Module):
    """A correct rewrite; the wrong ones override a piece of it."""

    def __init__(
        self,
        in_features,
        n_classes,
        cutoffs,
        div_value=4.0,
        head_bias=False,
        device=None,
        dtype=None,
    ):
        kw = {"device": device, "dtype": dtype}
        super().__init__()
        cutoffs = self._own_cutoffs(cutoffs)
        if len(cutoffs) == 0:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        if (
            cutoffs != sorted(set(cutoffs))
            or cutoffs[0] <= 0
            or cutoffs[-1] > n_classes - 1
            or any(int(c) != c for c in cutoffs)
        ):
            raise ValueError(
                "cutoffs should be a sequence of unique, positive integers sorted in an increasing order, "
                "where each value is between 1 and n_classes-1"
            )
        self.in_features, self.n_classes = in_features, n_classes
        self.cutoffs = self._with_end(cutoffs, n_classes)
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = nn.Linear(in_features, self.head_size, bias=head_bias, **kw)
        self.tail = nn.ModuleList()
        for i in range(self.n_clusters):
            h = self._width(i)
            self.tail.append(
                nn.Sequential(
                    nn.Linear(in_features, h, bias=False, **kw),
                    nn.Linear(h, self.cutoffs[i + 1] - self.cutoffs[i], bias=False, **kw),
                )
            )

    def _own_cutoffs(self, cutoffs):
        return list(cutoffs)

    def _with_end(self, cutoffs, n_classes):
        return cutoffs + [n_classes]

    def _width(self, i):
        return int(self.in_features // (self.div_value ** (i + 1)))

    def reset_parameters(self):
        self.head.reset_parameters()
        for a, b in self.tail:
            a.reset_parameters()
            b.reset_parameters()

    def _check(self, input, target):
        if target.dim() == 1:
            if input.shape[0] != target.shape[0]:
                raise RuntimeError(
                    "Input and target should have the same size in the batch dimension."
                )
            if input.dim() != 2:
                raise RuntimeError(
                    f"1D target tensor expects 2D input tensors, but found inputs with size {input.shape}"
                )
        elif target.dim() == 0:
            if input.dim() != 1:
                raise RuntimeError(
                    f"0D target tensor expects 1D input tensors, but found inputs with size {input.shape}"
                )
        else:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if target.numel() and (int(target.min()) < 0 or int(target.max()) >= self.n_classes):
            raise RuntimeError(
                f"Target values should be in [0, {self.n_classes - 1}], but values in range "
                f"[{target.min().item()}, {target.max().item()}] were found. "
            )

    def _rows(self, x, t):
        head = F.log_softmax(self.head(x), -1)
        slot = t.clone()
        extra = torch.zeros_like(head[:, 0])
        for i in range(self.n_clusters):
            rows = ((t >= self.cutoffs[i]) & (t < self.cutoffs[i + 1])).nonzero()[:, 0]
            if rows.numel() == 0:
                continue
            slot[rows] = self.shortlist_size + i
            lp = F.log_softmax(self.tail[i](x[rows]), -1)
            extra = extra.index_add(
                0, rows, lp.gather(1, (t[rows] - self.cutoffs[i])[:, None])[:, 0]
            )
        return extra + head.gather(1, slot[:, None])[:, 0]

    def forward(self, input_, target_):
        self._check(input_, target_)
        single = target_.dim() == 0
        x, t = (input_[None], target_[None]) if single else (input_, target_)
        out = self._rows(x, t)
        loss = -out.mean()
        return ASMoutput(out[0] if single else out, loss)

    def _head_of(self, x):
        return self.head(x)

    def log_prob(self, input):
        head = F.log_softmax(self._head_of(input), -1)
        parts = [head[:, : self.shortlist_size]]
        for i in range(self.n_clusters):
            parts.append(
                F.log_softmax(self.tail[i](input), -1) + head[:, self.shortlist_size + i, None]
            )
        return torch.cat(parts, 1)

    def predict(self, input):
        return self.log_prob(input).argmax(1)


def _pair(cls, *a, **k):
    torch.manual_seed(0)
    m, r = cls(*a, **k), nn.AdaptiveLogSoftmaxWithLoss(*a, **k)
    r.load_state_dict(m.state_dict())
    return m, r


class WrongEvaluatesAllClusters(_Adaptive):
    """Every cluster is computed for the whole batch and the target's column taken: same numbers, but clusters without
    a target are evaluated (documented not to be), their parameters get zero gradients instead of none, and with
    weight decay or momentum they move.
    """

    def _rows(self, x, t):
        return self.log_prob(x).gather(1, t[:, None])[:, 0]


def witness_WrongEvaluatesAllClusters():
    m, r = _pair(WrongEvaluatesAllClusters, 8, 12, [4, 8], div_value=2.0)
    x, t = torch.randn(3, 8), torch.tensor([0, 1, 2])
    m(x, t).loss.backward()
    r(x, t).loss.backward()
    return m.tail[0][0].weight.grad is not None and r.tail[0][0].weight.grad is None


class WrongBatchOfOneSqueezed(_Adaptive):
    """squeeze() at the end: a batch of one row gives an output of shape ()."""

    def forward(self, input_, target_):
        out, loss = super().forward(input_, target_)
        return ASMoutput(out.squeeze(), loss)


def witness_WrongBatchOfOneSqueezed():
    m, r = _pair(WrongBatchOfOneSqueezed, 8, 12, [4, 8])
    x, t = torch.randn(1, 8), torch.tensor([5])
    return m(x, t).output.shape != r(x, t).output.shape


class WrongPredictStaysInCluster(_Adaptive):
    """predict walks down the tree: where the head's best entry is a cluster, the best class of that cluster is
    given, though a shortlist class or another cluster's class may have the higher probability.
    """

    def predict(self, input):
        best = self.head(input).argmax(1)
        for i in range(self.n_clusters):
            rows = (best == self.shortlist_size + i).nonzero()[:, 0]
            if rows.numel():
                best = best.index_copy(
                    0, rows, -1 - self.cutoffs[i] - self.tail[i](input[rows]).argmax(1)
                )
        return torch.where(best < 0, -1 - best, best)


def witness_WrongPredictStaysInCluster():
    m, _ = _pair(WrongPredictStaysInCluster, 8, 40, [4, 20], div_value=2.0)
    x = torch.randn(200, 8)
    return not torch.equal(m.predict(x), m.log_prob(x).argmax(1))


class WrongCutoffsListExtended(_Adaptive):
    """n_classes is appended to the caller's list: building a second layer from the same configuration raises."""

    def _own_cutoffs(self, cutoffs):
        return cutoffs if isinstance(cutoffs, list) else list(cutoffs)

    def _with_end(self, cutoffs, n_classes):
        cutoffs.append(n_classes)
        return cutoffs


def witness_WrongCutoffsListExtended():
    c = [4, 8]
    WrongCutoffsListExtended(8, 12, c)
    return c != [4, 8]


class WrongWidthFloorsTwice(_Adaptive):
    """The width of a cluster is computed from the one before (floor of a floor): other sizes than documented for
    div_value that is no integer; a checkpoint does not load.
    """

    def _width(self, i):
        w = self.in_features
        for _ in range(i + 1):
            w = int(w // self.div_value)
        return w


def witness_WrongWidthFloorsTwice():
    a = (19, 20, [4, 8, 12])
    return (
        WrongWidthFloorsTwice(*a, div_value=2.5).tail[1][0].weight.shape
        != nn.AdaptiveLogSoftmaxWithLoss(*a, div_value=2.5).tail[1][0].weight.shape
    )


class WrongLogProbWithoutHeadBias(_Adaptive):
    """log_prob and predict multiply by the head's weight alone: with head_bias=True they do not agree with forward."""

    def _head_of(self, x):
        return x @ self.head.weight.t()


def witness_WrongLogProbWithoutHeadBias():
    m, r = _pair(WrongLogProbWithoutHeadBias, 8, 12, [4, 8], head_bias=True)
    x = torch.randn(3, 8)
    return not torch.allclose(m.log_prob(x), r.log_prob(x))


class WrongResetOfHeadOnly(_Adaptive):
    """reset_parameters leaves the tail's parameters as they are."""

    def reset_parameters(self):
        self.head.reset_parameters()


def witness_WrongResetOfHeadOnly():
    m = WrongResetOfHeadOnly(8, 12, [4, 8])
    w = m.tail[0][0].weight.detach().clone()
    m.reset_parameters()
    return torch.equal(w, m.tail[0][0].weight)


class WrongOutputDetached(_Adaptive):
    """The log probabilities are returned "for logging": only loss can be differentiated, so that per-token weights on
    output train nothing.
    """

    def forward(self, input_, target_):
        out, loss = super().forward(input_, target_)
        return ASMoutput(out.detach(), loss)


def witness_WrongOutputDetached():
    m, r = _pair(WrongOutputDetached, 8, 12, [4, 8])
    x, t = torch.randn(3, 8), torch.tensor([0, 5, 9])
    return r(x, t).output.requires_grad and not m(x, t).output.requires_grad


class WrongReadOnlyTargetsRewritten(nn.AdaptiveLogSoftmaxWithLoss):
    """The targets are turned into positions within their cluster in place, on the caller's tensor, when they are int64
    and contiguous (others are copied first).
    """

    def forward(self, input_, target_):
        out = super().forward(input_, target_)
        t = (
            target_
            if target_.dtype == torch.int64 and target_.is_contiguous()
            else target_.long().contiguous()
        )
        for low, high in reversed(list(zip(self.cutoffs[:-1], self.cutoffs[1:]))):
            t[(t >= low) & (t < high)] -= low
        return out


def witness_WrongReadOnlyTargetsRewritten():
    m, _ = _pair(WrongReadOnlyTargetsRewritten, 8, 12, [4, 8])
    t = torch.tensor([0, 5, 9])
    m(torch.randn(3, 8), t)
    return t.tolist() != [0, 5, 9]


# ---------------------------------------------------------------- right


class RightIndexAdd(_Adaptive):
    """Rows of each cluster collected, computed and added back (index_add)."""


class RightSortedSegments(_Adaptive):
    """Targets sorted once, each cluster a contiguous segment; log-probabilities as logit minus logsumexp."""

    def _rows(self, x, t):
        order = torch.argsort(t, stable=True)
        xs, ts = x[order], t[order]
        bounds = torch.searchsorted(
            ts, torch.tensor([0] + list(self.cutoffs), device=t.device, dtype=ts.dtype)
        ).tolist()
        head = F.log_softmax(self.head(xs), -1)
        pieces = []
        for i, (a, b) in enumerate(zip(bounds[:-1], bounds[1:])):
            if a == b:
                continue
            if i == 0:
                pieces.append(head[a:b].gather(1, ts[a:b, None])[:, 0])
                continue
            z = self.tail[i - 1](xs[a:b])
            z = z - z.detach().amax(-1, keepdim=True)
            own = z.gather(1, (ts[a:b] - self.cutoffs[i - 1])[:, None])[:, 0] - z.logsumexp(-1)
            pieces.append(own + head[a:b, self.shortlist_size + i - 1])
        out = torch.cat(pieces) if pieces else head.sum(-1)
        return out[torch.argsort(order)]

    def log_prob(self, input):
        head = F.log_softmax(self.head(input), -1)
        out = head.new_empty(input.shape[0], self.n_classes)
        out[:, : self.shortlist_size] = head[:, : self.shortlist_size]
        for i in range(self.n_clusters):
            out[:, self.cutoffs[i] : self.cutoffs[i + 1]] = (
                F.log_softmax(self.tail[i](input), -1)
                + head[:, self.shortlist_size + i : self.shortlist_size + i + 1]
            )
        return out
