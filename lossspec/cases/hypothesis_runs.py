"""Runs of a function on cases under Hypothesis: generate, target, shrink, and replay failures.

Only this module and `lossspec.cases.backend` use undocumented parts of Hypothesis: the names of
backends, `choices_to_bytes` and how constants are drawn. tests/test_engine.py fails if these
change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, example, given, settings, target
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.database import ExampleDatabase, InMemoryExampleDatabase, choices_to_bytes
from hypothesis.errors import Flaky
from hypothesis.internal.conjecture.providers import HypothesisProvider

from lossspec.cases.strategies import DrawnCase
from lossspec.errors import SpecError
from lossspec.hypothesis_entry import BACKEND, register

T = TypeVar("T")

register()  # Hypothesis may be configured to load no entry points

#: Scores are cut off here: a larger one is a failure in any case.
HIGHEST_SCORE = 1e3
#: How many seeds shrinking tries with the same other choices; no seed is simpler than another.
MOST_SEEDS = 3


class Enough(BaseException):
    """The signal that ends a run; not an Exception, which Hypothesis would report as a failure."""


class Failed(Exception):
    """The failure of a test, as Hypothesis sees it, when a value fails."""


class _Left(BaseException):
    """The carrier of an exception out of a run, so that Hypothesis does not report a failure."""


def generate(
    strategy: st.SearchStrategy[T], seed: str, count: int, look: Callable[[T], object]
) -> None:
    """Call a function with values that the backend draws.

    Hypothesis draws the simplest value first. It is left out: it shows few defects, and some
    clauses judge only few cases.

    Args:
        strategy: The strategy of the values.
        seed: The name of the stream; the values depend on it and on the strategy only.
        count: The number of values.
        look: The function; it may raise Enough to end the run.
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
    """Search for values with a higher score, with Hypothesis's targeted search.

    Args:
        strategy: The strategy of the values.
        seed: The seed of the search.
        count: The most values to try.
        starts: The choices of the values that the search starts from.
        score: The function to maximise.
    """
    if not starts or count <= 0:
        return
    database = InMemoryExampleDatabase()
    for choices in starts:
        database.save(_KEY, choices_to_bytes(tuple(choices)))
    phases = [Phase.reuse, Phase.target]
    run = _settings(max_examples=count, phases=phases, database=database)
    _run(strategy, seed, run, lambda value: target(min(score(value), HIGHEST_SCORE)))


def failures_database() -> ExampleDatabase | None:
    """Return the database of the current Hypothesis profile; None if it has none, as under CI."""
    return settings().database


def try_again(
    strategy: st.SearchStrategy[DrawnCase],
    database: ExampleDatabase | None,
    key: str,
    fails: Callable[[DrawnCase], bool],
) -> None:
    """Replay the cases that failed in earlier runs; remove those that no longer fail.

    Args:
        strategy: The strategy that drew the cases.
        database: Hypothesis's database; None does nothing.
        key: The key of the cases in the database.
        fails: The function that judges a case.
    """
    if database is None or not any(database.fetch(key.encode())):
        return
    judged: dict[tuple[int, ...], bool] = {}

    def look(value: DrawnCase) -> None:
        if value.choices not in judged:  # Hypothesis replays the simplest failure a second time
            judged[value.choices] = fails(value)
        if judged[value.choices]:
            raise Failed

    run = _settings(max_examples=1000, phases=[Phase.reuse], database=database)
    with suppress(Failed):
        _run(strategy, "", run, look, key.encode(), (Failed,))


def remember(database: ExampleDatabase | None, key: str, choices: Sequence[int]) -> None:
    """Save the choices of a failing value for the next run, if there is a database."""
    if database is not None:
        database.save(key.encode(), choices_to_bytes(tuple(choices)))


def shrink_choices(
    strategy: st.SearchStrategy[DrawnCase],
    choices: Sequence[int],
    fails: Callable[[DrawnCase], bool],
    attempts: int,
) -> DrawnCase | None:
    """Return the simplest failing value that Hypothesis finds; None if no value fails.

    Args:
        strategy: The strategy that drew the value.
        choices: The choices of the failing value.
        fails: The function that judges a value.
        attempts: The most calls of `fails`.
    """
    database = InMemoryExampleDatabase()
    # Hypothesis treats stored choices that fail unchanged as shrunk already; one more prevents it.
    database.save(_KEY, choices_to_bytes((*choices, 0)))
    simplest: DrawnCase | None = None
    #: The number of seeds tried, by the other choices.
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
    with suppress(Failed, Flaky):  # a flaky failure ends shrinking; keep the simplest so far
        _run(strategy, "", run, look, expected=(Failed,))
    return simplest


def expected_failure(
    value: T, judge: Callable[[T], object], raises: type[Exception], reason: str
) -> bool:
    """Return whether judging a stored value still raises the expected exception.

    Args:
        value: The stored value.
        judge: The function that judges it.
        raises: The expected exception.
        reason: The reason for the failure, for `@example(...).xfail`.
    """
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
        if not passed:  # `judge` raised it; Hypothesis raises it only for a value that passes
            raise
    return not passed


@dataclass(frozen=True)
class _Stored(Generic[T]):
    """An explicit example with a short repr, since Hypothesis always formats explicit examples."""

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
    """Run a test that calls a function with values, and raise that function's exceptions unchanged.

    Args:
        strategy: The strategy of the values.
        seed: The seed of the run.
        run: The settings of the run.
        look: The function.
        key: The key of the values in the database; the key of lossspec by default.
        expected: The exceptions of the function that Hypothesis treats as failures.
        wrap: A decorator of the test, such as `example(...)`.
    """

    @run  # outermost, because `seed` disables the database
    @seeded(seed)
    @wrap
    @given(strategy)
    def test(value: T) -> None:
        _escaping(look, value, expected)

    test._hypothesis_internal_database_key = key or _KEY  # as `hypothesis.find` does
    try:
        with _without_constants():
            test()
    except _Left as left:
        error = _carried(left)
        if not isinstance(error, Enough):
            raise error from None
    except SpecError as error:  # a function of the spec that draws
        if hasattr(error, "__notes__"):  # Hypothesis adds the repr of the strategy
            del error.__notes__
        raise


@contextmanager
def _without_constants() -> Iterator[None]:
    """Draw no constants of loaded modules: a shrunk case would depend on what is imported."""
    draw = HypothesisProvider._maybe_draw_constant
    HypothesisProvider._maybe_draw_constant = _no_constant  # type: ignore[method-assign]
    try:
        yield
    finally:
        HypothesisProvider._maybe_draw_constant = draw  # type: ignore[method-assign]


def _no_constant(*args: Any, **keywords: Any) -> None:
    """Return no constant, as Hypothesis does in most draws."""


def _escaping(
    look: Callable[[T], Any], value: T, expected: tuple[type[Exception], ...] = ()
) -> Any:
    """Call a function; wrap unexpected exceptions so that Hypothesis does not handle them."""
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
    assert error is not None  # `_escaping` always sets the cause
    return error
