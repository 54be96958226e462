"""Rows of a batch that are coupled: what the clauses ask of such a loss, and what they do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import lossspec
from lossspec.clauses import clauses
from lossspec.errors import SpecError
from lossspec.maths import joined, log_softmax, log_sum_exp, pick, total, where
from lossspec.spec import Binary, ClassIndex, Form, Logit, Loss, Probability, Real, number
from lossspec.spec_pages.pages import text

#: The clauses that compare the rows of a batch with those of a smaller, larger or flat batch.
OF_INDEPENDENT_ROWS = {
    "batch-permutation",
    "batch-split",
    "block-of-rows",
    "no-batch-is-batch-of-one",
    "further-axes-are-samples",
    "large-batch",
    "mean-of-many",
    "memory-in-proportion",
    "nan-spreads",
    "sum-of-many",
    "uneven-rows",
}
RELATIONS = ["whole-batch-permutation", "whole-batch-repetition"]
JUDGED = ["value", "gradient", "sum-of-none", "mean-divisor", "nothing-left", RELATIONS[0]]


def loss_of(name, define, shapes, tensors, **more):
    form = {key: more.pop(key) for key in ("sizes", "settle") if key in more}
    return Loss(
        name=name,
        module=None,
        summary="A loss of a whole batch.",
        formula="x",
        source="by hand",
        define=define,
        forms=(Form(shapes=shapes, tensors=tensors, **form),),
        **more,
    )


def verdicts(loss, target, *names):
    cells = lossspec.check(loss, target, profile="quick", clauses=list(names))
    return {cell.clause: str(cell.verdict) for cell in cells}


# === InfoNCE with in-batch negatives ======================================================


def scores(query, key):
    return total(query[..., :, None, :] * key[..., None, :, :])


def in_batch(query, key, temperature):
    rows = np.arange(query.shape[-2])
    return -pick(log_softmax(scores(query, key) / temperature), rows)


def of_log_sum(query, key, temperature):
    every = scores(query, key) / temperature
    return log_sum_exp(every) - pick(every, np.arange(query.shape[-2]))


INFO_NCE = loss_of(
    "info_nce",
    in_batch,
    ("(B, D), (B, D) -> (B)",),
    {"query": Real(), "key": Real()},
    equivalents=(of_log_sum,),
    batch="B",
    rows="coupled",
    parameters={"temperature": number(0.5, 1.0, 0.125, doc="Divides the scores.")},
)


def info_nce(query, key, temperature=0.5, reduction="mean"):
    logits = query @ key.T / temperature
    return functional.cross_entropy(logits, torch.arange(len(query)), reduction=reduction)


def by_log_sum_exp(query, key, temperature=0.5, reduction="mean"):
    logits = query @ key.T / temperature
    losses = torch.logsumexp(logits, 1) - logits.diagonal()
    return losses if reduction == "none" else getattr(losses, reduction)()


def without_temperature(query, key, temperature=0.5, reduction="mean"):
    return info_nce(query, key, 1.0, reduction)


def rolled(query, key, temperature=0.5, reduction="mean"):
    """Take the next key as the only negative."""
    pairs = torch.stack([(query * key).sum(-1), (query * key.roll(1, 0)).sum(-1)], -1)
    target = torch.zeros(len(query), dtype=torch.long)
    return functional.cross_entropy(pairs / temperature, target, reduction=reduction)


def of_keys(query, key, temperature=0.5, reduction="mean"):
    """Take the softmax over the queries instead of the keys."""
    return info_nce(key, query, temperature, reduction)


@pytest.mark.parametrize("right", [info_nce, by_log_sum_exp])
def test_right_in_batch_negatives_conform(right):
    found = verdicts(INFO_NCE, right, *JUDGED, "other-calls", "second-call")
    assert set(found.values()) == {"conforms"}


def without_own_row(query, key, temperature):
    """The negatives are the other rows of the queries; the row itself is left out."""
    rows = query.shape[-2]
    own_row = np.eye(rows, dtype=bool)[None, None]  # the members, the copies of the batch
    alike = where(own_row, -np.inf, scores(query, query) / temperature)
    own = total(query * key) / temperature
    return log_sum_exp(joined(own[..., None], alike)) - own


WITHOUT_OWN_ROW = replace(INFO_NCE, name="of_other_rows", define=without_own_row, equivalents=())


def other_rows(query, key, temperature=0.5, reduction="mean", masked=True):
    own = (query * key).sum(-1, keepdim=True)
    alike = query @ query.T
    if masked:
        alike = alike.masked_fill(torch.eye(len(query), dtype=torch.bool), -float("inf"))
    logits = torch.cat([own, alike], 1) / temperature
    target = torch.zeros(len(query), dtype=torch.long)
    return functional.cross_entropy(logits, target, reduction=reduction)


def with_own_row(query, key, temperature=0.5, reduction="mean"):
    return other_rows(query, key, temperature, reduction, masked=False)


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        (INFO_NCE, without_temperature),
        (INFO_NCE, rolled),
        (INFO_NCE, of_keys),
        (WITHOUT_OWN_ROW, with_own_row),
    ],
    ids=["no temperature", "rolled negatives", "softmax of queries", "own row not excluded"],
)
def test_wrong_in_batch_negatives_are_found(loss, wrong):
    assert verdicts(loss, wrong, "value") == {"value": "deviates"}


def test_a_batch_without_the_own_row_conforms():
    found = verdicts(WITHOUT_OWN_ROW, other_rows, "value", "gradient", RELATIONS[0])
    assert set(found.values()) == {"conforms"}


def test_permutation_finds_negatives_that_depend_on_the_order():
    assert verdicts(INFO_NCE, rolled, RELATIONS[0]) == {RELATIONS[0]: "deviates"}


class WrongBackward(torch.autograd.Function):
    """The sum of the losses; its gradient by the queries is that of another row for the last."""

    @staticmethod
    def forward(ctx, query, key, temperature):
        with torch.enable_grad():
            given = [x.detach().requires_grad_() for x in (query, key)]
            loss = info_nce(*given, temperature, "sum")
        ctx.slopes = torch.autograd.grad(loss, given) if loss.requires_grad else (None, None)
        return loss.detach()

    @staticmethod
    def backward(ctx, upstream):
        by_query, by_key = ctx.slopes
        by_query = torch.cat([by_query[:-1], by_query[:1]]) if len(by_query) > 1 else by_query
        return upstream * by_query, upstream * by_key, None


def wrong_backward(query, key, temperature=0.5):
    return WrongBackward.apply(query, key, temperature)


def test_permutation_finds_gradients_that_depend_on_the_order():
    loss = replace(INFO_NCE, reductions=("sum",))
    (cell,) = lossspec.check(loss, wrong_backward, profile="quick", clauses=[RELATIONS[0]])
    assert cell.verdict == "deviates"
    assert "the gradient of query with the rows of every tensor reversed" in cell.reason


def test_relations_of_independent_rows_are_not_asked_of_coupled_rows():
    asked = {name for name, clause in clauses().items() if clause.applies(INFO_NCE, "function")}
    assert not asked & OF_INDEPENDENT_ROWS
    assert RELATIONS[0] in asked
    assert RELATIONS[1] not in asked
    alone = replace(INFO_NCE, rows="independent")
    asked = {name for name, clause in clauses().items() if clause.applies(alone, "function")}
    assert asked >= {"batch-permutation", "batch-split", "large-batch"}
    assert not asked & set(RELATIONS)


# === numbers of rows, as targets ==========================================================


def at_target(query, key, target):
    return -pick(log_softmax(scores(query, key)), target)


def test_numbers_of_rows_are_renumbered_with_the_rows():
    loss = loss_of(
        "at_target",
        at_target,
        ("(B, D), (B, D), (B) -> (B)",),
        {"query": Real(), "key": Real(), "target": ClassIndex(classes="B")},
        batch="B",
        rows="coupled",
    )

    def right(query, key, target, reduction="mean"):
        scores = query @ key.T
        if scores.dtype == torch.float16:  # torch adds up a mean in float16, which overflows
            scores = scores.float()
        value = functional.cross_entropy(scores, target.long(), reduction=reduction)
        return value.to(query.dtype)

    found = verdicts(loss, right, "value", "gradient", RELATIONS[0])
    assert set(found.values()) == {"conforms"}


# === one loss for the whole batch =========================================================


def dice(input, target, smooth):
    overlap, size = total(total(input * target)), total(total(input)) + total(total(target))
    return 1 - (2 * overlap + smooth) / (size + smooth)


DICE = loss_of(
    "dice",
    dice,
    ("(N, D), (N, D) -> ()",),
    {"input": Probability(), "target": Binary()},
    reductions=("mean",),
    parameters={"smooth": number(1.0, 0.5, doc="Added above and below the fraction.")},
)


def of_batch(input, target, smooth=1.0):
    overlap, size = (input * target).sum(), input.sum() + target.sum()
    return 1 - (2 * overlap + smooth) / (size + smooth)


def of_rows(input, target, smooth=1.0):
    overlap, size = (input * target).sum(-1), (input + target).sum(-1)
    return (1 - (2 * overlap + smooth) / (size + smooth)).mean()


def without_last_row(input, target, smooth=1.0):
    if len(input) > 1:
        input = torch.cat([input[:-1], input[-1:].detach()])
        target = torch.cat([target[:-1], 0 * target[-1:]])
    return of_batch(input, target, smooth)


def test_one_loss_for_the_batch_conforms_in_any_order():
    found = verdicts(DICE, of_batch, "value", "gradient", RELATIONS[0])
    assert set(found.values()) == {"conforms"}


def test_wrong_losses_of_the_batch_are_found():
    assert verdicts(DICE, of_rows, "value") == {"value": "deviates"}
    found = verdicts(DICE, without_last_row, RELATIONS[0])
    assert found == {RELATIONS[0]: "deviates"}


def squared(input, target):
    return total(total((input - target) ** 2))


SQUARED = loss_of(
    "squared",
    squared,
    ("(N, D), (N, D) -> ()",),
    {"input": Real(), "target": Real()},
    reductions=("none",),
)


def test_a_nan_that_one_loss_for_the_batch_hides_is_found():
    def of_all(input, target):
        return ((input - target) ** 2).sum()

    def of_numbers(input, target):
        return of_all(input, target).nan_to_num(0.0)

    found = verdicts(SQUARED, of_all, "value", "gradient", RELATIONS[0])
    assert set(found.values()) == {"conforms"}
    assert verdicts(SQUARED, of_all, "nan-spreads") == {"nan-spreads": "conforms"}
    assert verdicts(SQUARED, of_numbers, "nan-spreads") == {"nan-spreads": "deviates"}


# === batches that are given twice =========================================================


def from_centre(input):
    columns = range(input.shape[-1])
    centre = [total(input[..., :, i]) / input.shape[-2] for i in columns]
    return sum((input[..., i] - centre[i][..., None]) ** 2 for i in columns)


CENTRED = loss_of(
    "centred",
    from_centre,
    ("(N, D) -> (N)",),
    {"input": Real()},
    rows="coupled",
    repeatable=True,
    sizes={"D": (1, 2, 3)},
)


def centred(input, reduction="mean"):
    losses = ((input - input.mean(0)) ** 2).sum(-1)
    return losses if reduction == "none" else getattr(losses, reduction)()


def off_centre(input, reduction="mean"):
    losses = ((input - input.sum(0) / max(len(input) - 1, 1)) ** 2).sum(-1)
    return losses if reduction == "none" else getattr(losses, reduction)()


def test_a_batch_that_is_given_twice():
    assert set(verdicts(CENTRED, centred, "value", "gradient", *RELATIONS).values()) == {"conforms"}
    assert verdicts(CENTRED, off_centre, RELATIONS[1]) == {RELATIONS[1]: "deviates"}


# === mistakes in the declaration ==========================================================


def test_a_promise_that_the_definition_breaks_is_an_error_of_the_spec():
    def drifts(input, target):
        return total(total(input * target) * np.arange(input.shape[-2]))

    ordered = loss_of(
        "drifts", drifts, ("(N, D), (N, D) -> ()",), {"input": Real(), "target": Real()}
    )
    wrong = "spec 'drifts': reversing the rows along the batch axis 'N' must only reverse the .*"
    with pytest.raises(SpecError, match=wrong + "declare rows='ordered' if"):
        verdicts(ordered, lambda input, target, reduction="mean": input.sum(), RELATIONS[0])
    assert not clauses()[RELATIONS[0]].applies(replace(ordered, rows="ordered"), "function")
    with pytest.raises(SpecError, match="spec 'info_nce': repeatable=True promises that each row"):
        verdicts(replace(INFO_NCE, repeatable=True), info_nce, RELATIONS[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": "tied"}, "rows: unknown 'tied'; known: 'independent', 'coupled', 'ordered'"),
        ({"batch": "N"}, r"rows='coupled' is about the batch axis 'N' .* Loss\(batch=...\)"),
        ({"rows": "independent", "repeatable": True}, "repeatable=True is about the batch axis"),
    ],
    ids=["unknown", "no batch axis", "repeatable"],
)
def test_a_wrong_declaration_of_rows_is_one_clear_error(change, message):
    with pytest.raises(SpecError, match=f"^spec 'info_nce': {message}"):
        replace(INFO_NCE, **change)


def test_coupled_rows_allow_no_ignored_elements():
    target = ClassIndex(classes="B", ignored_by="ignored")
    with pytest.raises(SpecError, match="rows='coupled' allows no tensor with ignored_by, got 't"):
        loss_of(
            "ignoring",
            at_target,
            ("(B, D), (B, D), (B) -> (B)",),
            {"query": Real(), "key": Real(), "target": target},
            batch="B",
            rows="coupled",
            parameters={"ignored": number(-1, doc="Ignored.")},
        )


def test_a_result_without_a_loss_for_each_row_is_an_error_of_the_spec():
    loss = replace(INFO_NCE, define=lambda query, key: total(total(query * key)))
    with pytest.raises(SpecError, match="the rows along 'B' are coupled, so the result must have"):
        verdicts(loss, info_nce, "value")


# === the page of a loss ===================================================================


def words(loss):
    return " ".join(text(loss).split())


def test_the_declaration_is_printed():
    assert "It sees the axes `B` and `D` last." in words(INFO_NCE)
    assert "The rows along `B` are coupled: the loss of each row depends on all" in words(INFO_NCE)
    assert "The result is one number for all rows along `N`." in words(DICE)
    assert "A batch that is given twice has the same losses" in words(CENTRED)
    assert "rows along" not in words(lossspec.spec.find("cross_entropy"))


# === a square matrix of scores ============================================================


def own_column(scores):
    return -pick(log_softmax(scores), np.arange(scores.shape[-1]))


SQUARE = loss_of("own_column", own_column, ("(N, N) -> (N)",), {"scores": Logit()}, rows="coupled")


def by_rows(scores, reduction="mean"):
    own = torch.arange(len(scores), device=scores.device)
    return functional.cross_entropy(scores, own, reduction=reduction)


def shifted(scores, reduction="mean"):
    own = (torch.arange(len(scores), device=scores.device) + 1) % max(len(scores), 1)
    return functional.cross_entropy(scores, own, reduction=reduction)


def test_the_rows_and_columns_of_a_square_are_reversed_together():
    names = ["whole-batch-permutation", "live-results", "changed-in-place", "other-calls"]
    assert verdicts(SQUARE, by_rows, *names) == dict.fromkeys(names, "conforms")
    wrong = {"whole-batch-permutation": "deviates", "value": "deviates"}
    assert verdicts(SQUARE, shifted, *wrong) == wrong
