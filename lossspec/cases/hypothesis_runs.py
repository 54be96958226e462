"""Run a function on cases under Hypothesis: draw, climb, shrink, try again what failed before.

What Hypothesis does not document is used here and in `lossspec.cases.backend` only:
the names of backends and `choices_to_bytes`. tests/test_engine.py notices when that changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, example, given, settings, target
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.database import ExampleDatabase, InMemoryExampleDatabase, choices_to_bytes
from hypothesis.errors import Flaky

from lossspec.cases.strategies import DrawnCase
from lossspec.hypothesis_entry import BACKEND, register

T = TypeVar("T")

register()  # Hypothesis may have been told to load no entry points

#: A score beyond this is a failure, and no better than another.
HIGHEST_SCORE = 1e3
#: Seeds that are tried with the same other choices: one seed is as simple as another.
MOST_SEEDS = 3


class Enough(BaseException):
    """Ends a run: no case is wanted any more. No Exception, which Hypothesis would report."""


class Failed(Exception):
    """A value fails: what Hypothesis takes for the failure of a test."""


class _Left(BaseException):
    """Takes an exception out of a run unseen: Hypothesis would call it a failure of the test."""


def generate(
    strategy: st.SearchStrategy[T], seed: str, count: int, look: Callable[[T], object]
) -> None:
    """Look at so many values that the backend draws.

    Hypothesis tries the simplest value first. It is left out: clauses that judge few cases would
    use them up for what shows least. seed : names the stream; the values depend on nothing else.
    look : may raise Enough.
    """
    if count <= 0:
        return
    simplest = True

    def look_behind_simplest(value: T) -> None:
        nonlocal simplest
        if not simplest:
            look(value)
        simplest = False

    run = _settings(max_examples=count + 1, phases=[Phase.generate])
    _run(strategy, seed, run, look_behind_simplest)


def climb(
    strategy: st.SearchStrategy[T],
    seed: str,
    count: int,
    starts: Sequence[Sequence[int]],
    score: Callable[[T], float],
) -> None:
    """Look for values with a higher score, at so many, from those with the given choices."""
    if not starts or count <= 0:
        return
    database = InMemoryExampleDatabase()
    for choices in starts:
        database.save(_KEY, choices_to_bytes(tuple(choices)))
    phases = [Phase.reuse, Phase.target]
    run = _settings(max_examples=count, phases=phases, database=database)
    _run(strategy, seed, run, lambda value: target(min(score(value), HIGHEST_SCORE)))


def failures_database() -> ExampleDatabase | None:
    """Where Hypothesis's profile in force keeps failing cases: None under CI, for one."""
    return settings().database


def try_again(
    strategy: st.SearchStrategy[DrawnCase],
    database: ExampleDatabase | None,
    key: str,
    fails: Callable[[DrawnCase], bool],
) -> None:
    """Try the cases that failed in earlier runs; forget those that do not fail any more."""
    if database is None or not any(database.fetch(key.encode())):
        return
    judged: dict[tuple[int, ...], bool] = {}

    def look(value: DrawnCase) -> None:
        if value.choices not in judged:  # the simplest that fails comes a second time
            judged[value.choices] = fails(value)
        if judged[value.choices]:
            raise Failed

    run = _settings(max_examples=1000, phases=[Phase.reuse], database=database)
    with suppress(Failed):
        _run(strategy, "", run, look, key.encode(), (Failed,))


def remember(database: ExampleDatabase | None, key: str, choices: Sequence[int]) -> None:
    """Keep a failing value for the next run, if Hypothesis keeps any."""
    if database is not None:
        database.save(key.encode(), choices_to_bytes(tuple(choices)))


def shrink_choices(
    strategy: st.SearchStrategy[DrawnCase],
    choices: Sequence[int],
    fails: Callable[[DrawnCase], bool],
    attempts: int,
) -> DrawnCase | None:
    """The simplest value, by Hypothesis's order, that still fails; None where none fails.

    attempts : how often `fails` is asked, at most.
    """
    database = InMemoryExampleDatabase()
    # Choices that fail exactly as stored count as shrunk already, so one more is stored.
    database.save(_KEY, choices_to_bytes((*choices, 0)))
    simplest: DrawnCase | None = None
    #: How many seeds were tried with the same other choices.
    seeds: Counter[tuple[int, ...]] = Counter()

    def look(value: DrawnCase) -> None:
        nonlocal simplest
        plan = value.without_seed
        seeds[plan] += 1
        if seeds[plan] > MOST_SEEDS:
            return
        if seeds.total() > attempts:
            raise Enough
        if fails(value):
            simplest = value
            raise Failed

    phases = [Phase.reuse, Phase.shrink]
    run = _settings(max_examples=attempts, phases=phases, database=database)
    with suppress(Failed, Flaky):  # one that fails now and then is as simple as it got
        _run(strategy, "", run, look, expected=(Failed,))
    return simplest


def expected_failure(
    value: T, judge: Callable[[T], object], raises: type[Exception], reason: str
) -> bool:
    """Whether judging a stored value still raises, as `@example(...).xfail` asks for."""

    passed = False

    def look(stored: _Stored[T]) -> None:
        nonlocal passed
        judge(stored.value)
        passed = True

    stored = _Stored(value)
    expected = example(stored).xfail(raises=raises, reason=reason)
    run = _settings(phases=[Phase.explicit])
    try:
        _run(st.just(stored), "", run, look, expected=(raises,), wrap=expected)
    except AssertionError:
        if not passed:  # of `judge` itself, and not Hypothesis's word for what does not fail
            raise
    return not passed


@dataclass(frozen=True)
class _Stored(Generic[T]):
    """An explicit example, whose text is short: Hypothesis writes it out in any case."""

    value: T = field(repr=False)


_KEY = b"lossspec"


def _settings(**changes: Any) -> settings:
    return settings(
        **{
            "backend": BACKEND,
            "database": None,
            "deadline": None,
            "derandomize": False,
            "print_blob": False,
            "verbosity": Verbosity.quiet,
            "suppress_health_check": list(HealthCheck),
            **changes,
        }
    )


def _run(
    strategy: st.SearchStrategy[T],
    seed: str,
    run: settings,
    look: Callable[[T], object],
    key: bytes | None = None,
    expected: tuple[type[Exception], ...] = (),
    wrap: Callable[[Any], Any] = lambda test: test,
) -> None:
    """Run a test that looks at values; an exception of `look` comes out as it is."""

    @run  # outermost, since `seed` turns the database off
    @seeded(seed)
    @wrap
    @given(strategy)
    def test(value: T) -> None:
        _escaping(look, value, expected)

    test._hypothesis_internal_database_key = key or _KEY  # as `find` does
    try:
        test()
    except _Left as left:
        error = _carried(left)
        if not isinstance(error, Enough):
            raise error from None


def _escaping(
    look: Callable[[T], Any], value: T, expected: tuple[type[Exception], ...] = ()
) -> Any:
    """Call, and hand any exception but an expected one past Hypothesis."""
    try:
        return look(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, expected):
            raise
        raise _Left from error


def _carried(left: _Left) -> BaseException:
    error = left.__cause__
    assert error is not None  # `_escaping` raises no other
    return error
