import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import (
    imbalance,
    label_noise,
    label_noise_by_class,
    label_noise_by_length,
    label_noise_near_boundary,
)
from kto_lab.feedback.corruption.draws import uniform
from tests.feedback.corruption_tables import assert_chain, assert_sound, flips, rated_table, table_of

# 90 desirable and 60 undesirable examples.
TABLE = rated_table()
RATES = (0.0, 0.02, 0.1, 0.105, 0.3, 0.8)


def noise(rate: float, seed: int = 0) -> Any:
    return partial(label_noise, rate=rate, seed=seed)


def by_class(up: float, down: float, seed: int = 0) -> Any:
    return partial(label_noise_by_class, rate_desirable=up, rate_undesirable=down, seed=seed)


def by_length(rate: float, strength: float = 2.0, seed: int = 0) -> Any:
    return partial(label_noise_by_length, rate=rate, strength=strength, seed=seed)


def near(rate: float, boundary: float = 0.0, width: float = 0.3, seed: int = 0) -> Any:
    return partial(label_noise_near_boundary, rate=rate, boundary=boundary, width=width, seed=seed)


def flipped(corruption: Any, table: Dataset = TABLE) -> set[str]:
    return flips(table, corruption(table).table)


@pytest.mark.parametrize("rate", [*RATES, 1.0])
def test_symmetric_noise_is_exact_in_each_class(rate: float) -> None:
    (change,) = assert_sound(TABLE, noise(rate)).changes
    assert (change.flipped_to_undesirable, change.flipped_to_desirable) == (round(rate * 90), round(rate * 60))


@pytest.mark.parametrize(("up", "down"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (0.1, 0.45), (1.0, 0.5)])
def test_noise_by_class_is_exact_in_each(up: float, down: float) -> None:
    (change,) = assert_sound(TABLE, by_class(up, down)).changes
    assert (change.flipped_to_undesirable, change.flipped_to_desirable) == (round(up * 90), round(down * 60))
    assert change.name == "label_noise_by_class"
    assert change.parameters == {"rate_desirable": up, "rate_undesirable": down, "seed": 0}


@pytest.mark.parametrize("kind", [by_length, near])
@pytest.mark.parametrize("rate", RATES)
def test_weighted_noise_is_exact_over_both_classes(kind: Any, rate: float) -> None:
    (change,) = assert_sound(TABLE, kind(rate)).changes
    assert change.flipped_to_desirable + change.flipped_to_undesirable == round(rate * 150)


@pytest.mark.parametrize("kind", [noise, lambda rate: by_class(rate, rate / 2), by_length, near])
def test_flips_nest_across_rates(kind: Any) -> None:
    assert_chain([flipped(kind(rate)) for rate in RATES])


@pytest.mark.parametrize("kind", [noise, by_length, near])
def test_the_hash_changes_exactly_when_the_flips_do(kind: Any) -> None:
    corrupted = [kind(rate, seed=seed)(TABLE) for rate in (0.1, 0.101, 0.2) for seed in (0, 1)]
    found = [(flips(TABLE, one.table), one.changes[0].touched) for one in corrupted]
    for (ids, touched), (other_ids, other_touched) in itertools.combinations(found, 2):
        assert (ids == other_ids) == (touched == other_touched)
    # Of 90 and of 60 (and of 150) examples 0.101 is as many as 0.1.
    assert found[0] == found[2] != found[1]


def test_symmetric_noise_is_noise_by_class_at_equal_rates() -> None:
    assert flipped(noise(0.2)) == flipped(by_class(0.2, 0.2))
    assert flipped(noise(0.2)) > flipped(by_class(0.2, 0.1))


def test_a_flip_acts_on_the_label_as_it_is() -> None:
    once = noise(0.2)(TABLE).table
    twice = noise(0.25, seed=1)(once)
    # 18 went down and 12 up: 84 and 66.
    assert (twice.changes[0].flipped_to_undesirable, twice.changes[0].flipped_to_desirable) == (21, 16)
    assert flips(once, twice.table) & flips(TABLE, once), "some are turned back"
    assert list(twice.table["desirable_clean"]) == list(TABLE["desirable"])


def test_a_subset_is_no_noisier_than_the_whole() -> None:
    """The draws of imbalance and of noise are independent: kept and flipped examples are not the same ones."""
    large = table_of(400)
    noisy = noise(0.2)(large).table
    left = imbalance(noisy, keep_desirable=0.5, keep_undesirable=0.5, by="example", seed=0).table
    share = np.mean(np.array(left["desirable"]) != np.array(left["desirable_clean"]))
    # 1,000 examples: the standard error is 0.013 at most.
    assert abs(share - 0.2) < 0.05


def test_without_strength_length_tells_nothing() -> None:
    """Then the draw is uniform: the examples with the lowest hashes."""
    names = list(TABLE["example_id"])
    lowest = sorted(names, key=lambda name: uniform("label noise", 0, name))[:30]
    assert flipped(by_length(0.2, strength=0.0)) == set(lowest)


def test_long_undesirable_and_short_desirable_examples_are_flipped() -> None:
    table = by_length(0.2, strength=50.0)(TABLE).table
    rows = [row for row in table if row["desirable"] != row["desirable_clean"]]
    middle = float(np.median([len(text) for text in TABLE["completion"]]))
    for row in rows:
        assert (len(row["completion"]) > middle) == row["desirable"]
    assert {row["desirable"] for row in rows} == {True, False}


def test_weights_are_the_stated_ones() -> None:
    """With one draw an example is flipped with probability w over the sum of all weights."""
    table = table_of(1)
    lengths = [len(text) for text in table["completion"]]
    ranks = np.argsort(np.argsort(lengths))
    signs = np.where(table["desirable"], -1, 1)
    weights = np.exp(1.5 * signs * (ranks / 2 - 1))
    names = list(table["example_id"])
    draws = 400
    counts = np.zeros(5)
    for seed in range(draws):
        (name,) = flips(table, by_length(0.2, strength=1.5, seed=seed)(table).table)
        counts[names.index(name)] += 1
    expected = weights / weights.sum()
    assert np.all(np.abs(counts / draws - expected) < 4 * np.sqrt(expected * (1 - expected) / draws))


def test_close_calls_are_flipped_first() -> None:
    """A width of nearly nothing takes the nearest scores, and a huge one draws uniformly."""
    nearest = sorted(zip(np.abs(TABLE["score"]), TABLE["example_id"], strict=True))[:15]
    chosen = flipped(near(0.1, width=1e-4))
    assert sorted(abs(row["score"]) for row in TABLE if row["example_id"] in chosen) == [value for value, _ in nearest]
    assert flipped(near(0.1, width=1e9)) == flipped(by_length(0.1, strength=0.0))
    assert flipped(near(0.1, boundary=2.0)) != flipped(near(0.1))


@pytest.mark.parametrize(
    ("corruption", "message"),
    [
        (noise(-0.1), "corruption.rate is -0.1; it must be a number from 0 to 1"),
        (noise(1.01), "corruption.rate is 1.01"),
        (noise(math.nan), "corruption.rate is nan"),
        (noise(True), "corruption.rate is True"),
        (noise(0.1, seed="x"), "corruption.seed is 'x'; it must be a whole number"),  # type: ignore[arg-type]
        (by_class(2.0, 0.0), "corruption.rate_desirable is 2.0"),
        (by_class(0.0, -1.0), "corruption.rate_undesirable is -1.0"),
        (by_class(1.0, 0.0), "none of the 90 desirable.*corruption.rate_desirable, corruption.rate_undesirable"),
        (by_class(0.0, 1.0), "none of the 60 undesirable examples"),
        (by_length(1.1), "corruption.rate is 1.1"),
        (by_length(0.1, strength=-1.0), "corruption.strength is -1.0"),
        (by_length(0.1, strength=math.inf), "corruption.strength is inf"),
        (near(1.1), "corruption.rate is 1.1"),
        (near(0.1, boundary=math.nan), "corruption.boundary is nan"),
        (near(0.1, width=0.0), "corruption.width is 0.0; it must be a number above 0"),
    ],
)
def test_what_cannot_be_done_is_said(corruption: Any, message: str) -> None:
    with pytest.raises(LabError, match=message):
        corruption(TABLE)


def test_close_calls_need_scores() -> None:
    table = table_of(2, score=lambda number, label: None if number < 3 else math.nan if number == 3 else 1.0)
    with pytest.raises(LabError, match="needs the score behind every thumb, and 4 of 10 examples have none"):
        near(0.1)(table)
