from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from kto_lab import cli
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.feedback.corruption import (
    PairSwaps,
    compose,
    imbalance,
    label_noise,
    label_noise_by_length,
    pair_swaps,
    unchanged,
)
from kto_lab.keys import TRAIN
from tests.feedback.corruption_tables import assert_chain, flips, rated_table
from tests.small_runs import composed

# 90 desirable and 60 undesirable examples, with scores and ratings.
TABLE = rated_table()
FEWER = partial(imbalance, keep_desirable=0.5, keep_undesirable=1.0, by="example", seed=0)
NOISE = partial(label_noise, rate=0.2, seed=0)
SWAPS = partial(pair_swaps, rate=0.1, seed=7)
# One key of each option, with a value that is not its default.
OVERRIDES: dict[str, tuple[str, Any]] = {
    "one_per_prompt": ("seed", 3),
    "imbalance": ("keep_desirable", 0.5),
    "imbalance_ratio": ("desirable_share", 0.25),
    "label_noise": ("rate", 0.2),
    "label_noise_by_class": ("rate_undesirable", 0.2),
    "label_noise_by_length": ("strength", 1.0),
    "label_noise_disagreeing_raters": ("raters", 2),
    "label_noise_near_boundary": ("width", 0.5),
    "label_noise_one_rater": ("share", 0.5),
    "label_noise_simulated_rater": ("reliability", 0.5),
}


def test_nothing() -> None:
    for corrupted in (unchanged(TABLE), compose(TABLE, first=unchanged, second=unchanged, third=unchanged)):
        assert corrupted.table is TABLE and corrupted.changes == () and corrupted.swap_pairs is None


def test_each_acts_on_what_the_one_before_left() -> None:
    corrupted = compose(TABLE, first=FEWER, second=NOISE, third=SWAPS)
    assert [change.name for change in corrupted.changes] == ["imbalance", "label_noise"]
    first, second = corrupted.changes
    assert (first.examples_before, first.examples_after, first.desirable_after) == (150, 105, 45)
    assert (second.examples_before, second.flipped_to_undesirable, second.flipped_to_desirable) == (105, 9, 12)
    assert corrupted.swap_pairs == PairSwaps(0.1, 7)
    assert corrupted.table.to_list() == NOISE(FEWER(TABLE).table).table.to_list()


def test_the_order_matters() -> None:
    one = compose(TABLE, first=FEWER, second=NOISE, third=unchanged)
    other = compose(TABLE, first=NOISE, second=FEWER, third=unchanged)
    assert [change.name for change in other.changes] == ["label_noise", "imbalance"]
    assert other.changes[0].flipped_to_undesirable == 18 and other.changes[1].desirable_after == 42
    assert len(one.table) == 105 and len(other.table) == 108
    assert one.changes[1].touched != other.changes[0].touched


def test_flips_nest_within_a_composition() -> None:
    rates = [partial(label_noise, rate=rate, seed=0) for rate in (0.1, 0.2, 0.4)]
    assert_chain([flips(TABLE, compose(TABLE, first=FEWER, second=r, third=unchanged).table) for r in rates])


def test_swaps_are_kept_wherever_they_stand_and_once_only() -> None:
    assert compose(TABLE, first=SWAPS, second=NOISE, third=unchanged).swap_pairs == PairSwaps(0.1, 7)
    with pytest.raises(LabError, match=r"corruption\.third swaps pairs, and so does one before it"):
        compose(TABLE, first=SWAPS, second=unchanged, third=SWAPS)


def test_two_noises_need_two_seeds() -> None:
    again = partial(label_noise_by_length, rate=0.1, strength=0.0, seed=0)
    with pytest.raises(LabError, match=r"Set corruption\.third\.seed to another number"):
        compose(TABLE, first=NOISE, second=unchanged, third=again)
    both = compose(TABLE, first=NOISE, second=unchanged, third=partial(again, seed=1))
    assert len(both.changes) == 2


def test_a_mistake_is_named_where_it_stands() -> None:
    wrong = partial(label_noise, rate=3.0, seed=0)
    with pytest.raises(LabError, match=r"corruption\.second\.rate is 3\.0"):
        compose(TABLE, first=FEWER, second=wrong, third=unchanged)
    inner = partial(compose, first=unchanged, second=unchanged, third=wrong)
    with pytest.raises(LabError, match=r"corruption\.first\.third\.rate is 3\.0"):
        compose(TABLE, first=inner, second=unchanged, third=unchanged)


def test_every_option_is_tried_here() -> None:
    found = {file.stem for file in (Path(cli.config_dir()) / "corruption").glob("*.yaml")}
    assert found == {*OVERRIDES, "none", "compose", "pair_swaps"}


@pytest.mark.parametrize("option", OVERRIDES)
def test_an_option_from_the_command_line(option: str) -> None:
    key, value = OVERRIDES[option]
    cfg = composed([f"corruption={option}", f"corruption.{key}={value}"])
    check_keys(cfg, TRAIN)
    corrupted = instantiate(cfg.corruption)(TABLE)
    (change,) = corrupted.changes
    assert change.name == option and change.parameters[key] == value and change.touched
    # Every key of the option is in the record.
    assert set(change.parameters) == {str(name) for name in cfg.corruption if not str(name).startswith("_")}


@pytest.mark.parametrize("option", sorted(OVERRIDES.keys() - {"label_noise_disagreeing_raters"}))
def test_another_seed_of_the_run_is_another_draw(option: str) -> None:
    key, value = OVERRIDES[option]
    words = [f"corruption={option}", *([f"corruption.{key}={value}"] if key != "seed" else [])]
    (first,), (other,), (fixed,) = (
        instantiate(composed([*words, *more]).corruption)(TABLE).changes
        for more in (["seed=3"], ["seed=4"], ["seed=4", "corruption.seed=3"])
    )
    assert first.parameters["seed"] == 3 and other.parameters["seed"] == 4
    assert first.touched != other.touched and fixed == first


@pytest.mark.parametrize("seed", [0, 3])
def test_corruption_nests_across_rates_within_each_seed(seed: int) -> None:
    words = [f"seed={seed}", "corruption=label_noise"]
    assert_chain(
        [
            flips(TABLE, instantiate(composed([*words, f"corruption.rate={rate}"]).corruption)(TABLE).table)
            for rate in (0, 0.1, 0.2, 0.4)
        ]
    )


def test_a_composition_from_the_command_line() -> None:
    words = ["corruption=compose", "corruption@corruption.first=imbalance", "corruption.first.keep_desirable=0.5"]
    words += ["corruption@corruption.second=label_noise", "corruption.second.rate=0.2"]
    words += ["corruption@corruption.third=pair_swaps", "corruption.third.seed=7"]
    cfg = composed(words)
    check_keys(cfg, TRAIN)
    corrupted = instantiate(cfg.corruption)(TABLE)
    assert corrupted.changes == compose(TABLE, first=FEWER, second=NOISE, third=SWAPS).changes
    assert corrupted.swap_pairs == PairSwaps(0.1, 7)


def test_a_key_that_a_part_does_not_have() -> None:
    cfg = composed(["corruption=compose", "corruption@corruption.second=label_noise", "+corruption.second.rat=0.2"])
    with pytest.raises(LabError, match=r"There is no key 'corruption\.second\.rat'"):
        check_keys(cfg, TRAIN)


def test_what_removes_examples_makes_no_noise_known_and_noise_at_rate_nothing_does() -> None:
    all_kept = partial(imbalance, keep_desirable=1.0, keep_undesirable=1.0, by="example", seed=0)
    spared = partial(label_noise, rate=0.0, seed=0)
    assert not unchanged(TABLE).noise_is_known and not all_kept(TABLE).noise_is_known
    for noise in (spared, SWAPS):
        assert noise(TABLE).noise_is_known
        assert compose(TABLE, first=noise, second=all_kept, third=unchanged).noise_is_known
    assert unchanged(NOISE(TABLE).table).noise_is_known, "its clean labels are others"
