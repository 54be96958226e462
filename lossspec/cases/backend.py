"""A Hypothesis backend that samples each kind of choice in strata.

Each of n options comes up once in every n choices of its kind, so that a short stream has seen them
all. Hypothesis's own backend mutates earlier cases and mixes in constants of whatever modules are
loaded: in its streams cases come twice, and no stream comes twice.
"""

from __future__ import annotations

from contextvars import ContextVar
from random import Random
from weakref import WeakKeyDictionary

from hypothesis.internal.conjecture.providers import HypothesisProvider

#: The kind of the choice at hand; empty for a choice that no case asked for.
KIND: ContextVar[str] = ContextVar("kind of choice", default="")
#: The kind of choice that numbers are made from, which are drawn evenly and not in strata.
SEED = "seed"
SEED_BITS = 32

#: By the random generator of a run, by kind and number of options, the options still to come.
_Strata = dict[tuple[str, int], list[int]]
_STRATA: WeakKeyDictionary[Random, _Strata] = WeakKeyDictionary()


class StratifiedProvider(HypothesisProvider):
    """Draws the choices of cases in strata, and others as Hypothesis does.

    Everything depends on nothing but the seed of the run.
    """

    lifetime = "test_case"

    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        """Draw an integer: of a case's choices the next one of its stratum."""
        kind = KIND.get()
        if not kind or min_value is None or max_value is None:
            return super().draw_integer(
                min_value, max_value, weights=weights, shrink_towards=shrink_towards
            )
        random = self._random
        assert random is not None  # Hypothesis gives one to every provider that draws
        if kind == SEED:
            return min_value + random.getrandbits(SEED_BITS) % (max_value - min_value + 1)
        count = max_value - min_value + 1
        left = _STRATA.setdefault(random, {}).setdefault((kind, count), [])
        if not left:
            # Several of few options: two kinds that took turns would pair up with each other.
            left += list(range(count)) * max(1, 6 // count)
            random.shuffle(left)
        return min_value + left.pop()
