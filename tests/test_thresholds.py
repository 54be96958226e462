"""Thresholds: every number that decides a verdict has a meaning and a source, and is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lossspec
from lossspec import thresholds

PACKAGE = Path(lossspec.__file__).parent
TEXT = (PACKAGE / "thresholds.py").read_text("utf-8")
NAMES = [name for name in vars(thresholds) if name.isupper()]
PROVENANCES = ("Derived", "Documented", "Measured", "Chosen")


@pytest.mark.parametrize("name", NAMES)
def test_a_threshold_names_its_source(name):
    found = re.search(rf"((?:^#: .*\n)+)^{name} = ", TEXT, re.MULTILINE)
    assert found is not None
    said = " ".join(found[1].replace("#:", "").split())
    (provenance,) = re.findall(rf"\b({'|'.join(PROVENANCES)}): ", said)
    assert provenance in PROVENANCES
    if provenance == "Documented":
        assert "https://docs.pytorch.org/" in said
    if provenance == "Measured":
        assert re.search(r"`(python|lossspec) .*?`", said)


@pytest.mark.parametrize("name", NAMES)
def test_a_threshold_is_used(name):
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "thresholds.py"]
    assert any(re.search(rf"\b{name}\b", path.read_text("utf-8")) for path in files)


def test_second_derivatives_are_checked_to_half_of_the_digits():
    assert thresholds.second_order_error(2.0**-24) == 2.0**-12


def test_the_last_places_follow_from_the_slack():
    assert (thresholds.LAST_PLACES, thresholds.SMALLEST_PLACES) == (
        2 * thresholds.SLACK,
        thresholds.SLACK / 2,
    )
