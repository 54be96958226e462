"""Wrong and right forms of torch.nn.AdaptiveLogSoftmaxWithLoss."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.adaptive import _ASMoutput

_Base = nn.AdaptiveLogSoftmaxWithLoss


# ----------------------------------------------------------------- helpers
def _rows(module, input, target):
    if target.dim() == 1:
        if input.size(0) != target.size(0):
            raise RuntimeError("Input and target should have the same size in the batch dimension.")
        if input.dim() != 2:
            raise RuntimeError(f"1D target tensor expects 2D input tensors, but found inputs with size {input.size()}")
    elif target.dim() == 0:
        if input.dim() != 1:
            raise RuntimeError(f"0D target tensor expects 1D input tensors, but found inputs with size {input.size()}")
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    else:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise RuntimeError(f"target must hold class indices, got {target.dtype}")
    target = target.long()
    if target.numel() and not bool(((target >= 0) & (target < module.n_classes)).all()):
        raise RuntimeError(f"Target values should be in [0, {module.n_classes - 1}], but values in range "
                           f"[{target.min().item()}, {target.max().item()}] were found. ")
    return input, target


def _wide(x):
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _nll_rows(logits, pick):
    """log-probability of one column per row, by rows shifted by their maximum."""
    z = _wide(logits)
    z = z - z.detach().amax(1, keepdim=True) if z.shape[0] else z
    return z.gather(1, pick.unsqueeze(1)).squeeze(1) - z.exp().sum(1).log()


def _answer(logp, batched, dtype):
    loss = -logp.mean()
    return _ASMoutput((logp if batched else logp.squeeze(0)).to(dtype), loss.to(dtype))


# ------------------------------------------------------------------- right
class RightClusterAdd(_Base):
    """Head log-probabilities first, then each present cluster's part added to its rows by index_add;
    log_prob joined from pieces."""

    def forward(self, input_, target_):
        input, target = _rows(self, input_, target_)
        edges = torch.tensor(self.cutoffs[:-1], device=target.device)
        cluster = torch.bucketize(target, edges, right=True)  # 0 is the shortlist
        entry = torch.where(cluster == 0, target, self.shortlist_size + cluster - 1)
        head = self.head(input)
        logp = _nll_rows(head, entry)
        for k in range(1, len(self.cutoffs)):
            rows = (cluster == k).nonzero().reshape(-1)
            if rows.numel() == 0:
                continue
            logits = self.tail[k - 1](input.index_select(0, rows))
            logp = logp.index_add(0, rows, _nll_rows(logits, target.index_select(0, rows) - self.cutoffs[k - 1]))
        return _answer(logp, target_.dim() > 0, head.dtype)

    def log_prob(self, input):
        head = self.head(input)
        lp = _wide(head)
        lp = lp - torch.logsumexp(lp, 1, keepdim=True)
        pieces = [lp[:, :self.shortlist_size]]
        for k, tail in enumerate(self.tail):
            t = _wide(tail(input))
            pieces.append(t - torch.logsumexp(t, 1, keepdim=True) + lp[:, self.shortlist_size + k].unsqueeze(1))
        return torch.cat(pieces, 1).to(head.dtype)

    def predict(self, input):
        return self.log_prob(input).argmax(1)


class RightSortedTokens(nn.Module):
    """A module of its own: tokens sorted by cluster, each cluster a contiguous slice, the results put
    back in order."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__()
        cutoffs = list(cutoffs)
        if len(cutoffs) == 0:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        if cutoffs != sorted(set(cutoffs)) or cutoffs[0] <= 0 or cutoffs[-1] > n_classes - 1 or any(int(c) != c for c in cutoffs):
            raise ValueError("cutoffs should be a sequence of unique, positive integers sorted in an increasing order, "
                             "where each value is between 1 and n_classes-1")
        kw = dict(device=device, dtype=dtype)
        self.in_features, self.n_classes, self.div_value, self.head_bias = in_features, n_classes, div_value, head_bias
        self.cutoffs = cutoffs + [n_classes]
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(cutoffs)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = nn.Linear(in_features, self.head_size, bias=head_bias, **kw)
        self.tail = nn.ModuleList()
        for k in range(self.n_clusters):
            hidden = int(in_features // (div_value ** (k + 1)))
            self.tail.append(nn.Sequential(nn.Linear(in_features, hidden, bias=False, **kw),
                                           nn.Linear(hidden, self.cutoffs[k + 1] - self.cutoffs[k], bias=False, **kw)))

    def reset_parameters(self):
        self.head.reset_parameters()
        for tail in self.tail:
            for layer in tail:
                layer.reset_parameters()

    def forward(self, input_, target_):
        input, target = _rows(self, input_, target_)
        order = torch.argsort(target, stable=True)
        x, y = input.index_select(0, order), target.index_select(0, order)
        bounds = torch.searchsorted(y, torch.tensor(self.cutoffs, device=y.device)).tolist()
        head = self.head(x)
        parts, begin = [], 0
        for k, end in enumerate(bounds):
            if end > begin:
                h, t = head[begin:end], y[begin:end]
                if k == 0:
                    parts.append(_nll_rows(h, t))
                else:
                    own = _nll_rows(self.tail[k - 1](x[begin:end]), t - self.cutoffs[k - 1])
                    parts.append(own + _nll_rows(h, torch.full_like(t, self.shortlist_size + k - 1)))
            begin = end
        logp = torch.cat(parts) if parts else _wide(head).sum(1)
        return _answer(logp.index_select(0, torch.argsort(order)), target_.dim() > 0, head.dtype)

    def log_prob(self, input):
        lp = F.log_softmax(self.head(input), 1)
        return torch.cat([lp[:, :self.shortlist_size]] + [
            F.log_softmax(tail(input), 1) + lp[:, self.shortlist_size + k:self.shortlist_size + k + 1]
            for k, tail in enumerate(self.tail)], 1)

    def predict(self, input):
        return self.log_prob(input).argmax(1)


# ------------------------------------------------------------------- wrong
def _pair(cls, *args, seed=0, **kw):
    torch.manual_seed(seed)
    a = cls(*args, **kw)
    torch.manual_seed(seed)
    return a, _Base(*args, **kw)


class WrongGreedyPredict(_Base):
    """predict takes the head's best entry and, if it is a cluster, the best class inside it, which is not
    always the class with the highest probability."""

    def predict(self, input):
        best = self.head(input).argmax(1)
        out = best
        for k, tail in enumerate(self.tail):
            rows = (best == self.shortlist_size + k).nonzero().reshape(-1)
            if rows.numel():
                out = out.index_copy(0, rows, tail(input.index_select(0, rows)).argmax(1) + self.cutoffs[k])
        return out


def witness_WrongGreedyPredict():
    m, r = _pair(WrongGreedyPredict, 8, 30, [5, 10], div_value=2.0)
    torch.manual_seed(1)
    x = torch.randn(60, 8)
    y = torch.randint(0, 30, (60,))
    return torch.equal(m(x, y).loss, r(x, y).loss) and not torch.equal(m.predict(x), r.predict(x)) and \
        torch.equal(r.predict(x), r.log_prob(x).argmax(1))


class WrongLogProbWithoutHeadBias(_Base):
    """log_prob multiplies by the head's weight but leaves its bias out, so with head_bias=True it
    disagrees with forward."""

    def log_prob(self, input):
        return self._get_full_log_prob(input, F.linear(input, self.head.weight))


def witness_WrongLogProbWithoutHeadBias():
    a, r = _pair(WrongLogProbWithoutHeadBias, 8, 12, [4, 8])
    b, s = _pair(WrongLogProbWithoutHeadBias, 8, 12, [4, 8], head_bias=True)
    x = torch.randn(3, 8)
    return torch.allclose(a.log_prob(x), r.log_prob(x)) and not torch.allclose(b.log_prob(x), s.log_prob(x))


class WrongCutoffsListExtended(_Base):
    """n_classes is appended to the caller's own cutoffs list, so the list changes and a second module
    built from it is refused."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        if isinstance(cutoffs, list):
            cutoffs.append(n_classes)
            self.cutoffs = cutoffs


def witness_WrongCutoffsListExtended():
    c = [4, 8]
    m, r = _pair(WrongCutoffsListExtended, 8, 12, (4, 8))
    x, y = torch.randn(3, 8), torch.tensor([1, 5, 11])
    ok = torch.equal(m(x, y).loss, r(x, y).loss)
    WrongCutoffsListExtended(8, 12, c)
    return ok and c == [4, 8, 12]


class WrongTailIgnoresDtype(_Base):
    """dtype is passed to the head only; the tail clusters are always made in the default dtype, and a
    float64 module fails on inputs that reach a cluster."""

    def __init__(self, in_features, n_classes, cutoffs, div_value=4.0, head_bias=False, device=None, dtype=None):
        super().__init__(in_features, n_classes, cutoffs, div_value, head_bias, device, dtype)
        if dtype is not None and dtype != torch.get_default_dtype():
            self.tail.to(torch.get_default_dtype())


def witness_WrongTailIgnoresDtype():
    m, r = _pair(WrongTailIgnoresDtype, 8, 12, [4, 8])
    x, y = torch.randn(3, 8), torch.tensor([1, 5, 11])
    ok = torch.equal(m(x, y).loss, r(x, y).loss)
    d = WrongTailIgnoresDtype(8, 12, [4, 8], dtype=torch.float64)
    return ok and d.head.weight.dtype == torch.float64 and d.tail[0][0].weight.dtype == torch.float32


class WrongTargetsClamped(_Base):
    """Targets out of range are clamped to the nearest class and no error is raised."""

    def forward(self, input_, target_):
        return super().forward(input_, target_.clamp(0, self.n_classes - 1))


def witness_WrongTargetsClamped():
    m, r = _pair(WrongTargetsClamped, 8, 12, [4, 8])
    x = torch.randn(2, 8)
    try:
        r(x, torch.tensor([-1, 12]))
        return False
    except RuntimeError:
        return bool(torch.isfinite(m(x, torch.tensor([-1, 12])).loss))


class WrongSingleRowSqueezed(_Base):
    """For a batch of a single row the field output has shape () and not (1,)."""

    def forward(self, input_, target_):
        out, loss = super().forward(input_, target_)
        return _ASMoutput(out.squeeze(), loss)


def witness_WrongSingleRowSqueezed():
    m, r = _pair(WrongSingleRowSqueezed, 8, 12, [4, 8])
    x, y = torch.randn(1, 8), torch.tensor([5])
    return m(x, y).output.shape == () and r(x, y).output.shape == (1,)


if __name__ == "__main__":
    for k, v in list(globals().items()):
        if k.startswith("witness_"):
            print(k, v())
