"""A Hypothesis backend that samples each kind of choice in strata.

Each of n options comes up once in every n choices of its kind, so a short stream contains them all.
Two options come up three times in every six choices, and three options twice.
Hypothesis's own backend mutates earlier cases and mixes in constants from the loaded modules. Its
streams repeat cases, and they depend on which modules are loaded.
"""

from __future__ import annotations

from contextvars import ContextVar
from random import Random
from weakref import WeakKeyDictionary

from hypothesis.internal.conjecture.providers import HypothesisProvider

#: The kind of the choice that is being made; empty for a choice that is not part of a case.
KIND: ContextVar[str] = ContextVar("kind of choice", default="")
#: The kind of the choice that seeds the dense values. It is drawn uniformly, not in strata.
SEED = "seed"
SEED_BITS = 32

#: The options that remain in each stratum, by kind and number of options; one map for each run.
_Strata = dict[tuple[str, int], list[int]]
_STRATA: WeakKeyDictionary[Random, _Strata] = WeakKeyDictionary()


class StratifiedProvider(HypothesisProvider):
    """A provider that draws the choices of cases in strata, and other choices as Hypothesis does.

    All choices depend only on the seed of the run.
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
        """Draw an integer; for a choice of a case, take the next option of its stratum."""
        kind = KIND.get()
        if not kind or min_value is None or max_value is None:
            return super().draw_integer(
                min_value, max_value, weights=weights, shrink_towards=shrink_towards
            )
        random = self._random
        assert random is not None  # Hypothesis gives a generator to every provider that draws
        if kind == SEED:
            return min_value + random.getrandbits(SEED_BITS) % (max_value - min_value + 1)
        count = max_value - min_value + 1
        left = _STRATA.setdefault(random, {}).setdefault((kind, count), [])
        if not left:
            # Repeat few options: strata of equal length would always pair the same options of two
            # kinds.
            left += list(range(count)) * max(1, 6 // count)
            random.shuffle(left)
        return min_value + left.pop()
