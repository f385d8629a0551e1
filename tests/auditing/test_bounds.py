"""How often thumbs can be wrong at most."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from kto_lab.auditing.bounds import TRIALS, bounds_of, judge, upper_ends
from kto_lab.auditing.examples import Bools, Examples, make_folds
from kto_lab.auditing.signals import Signal
from tests.auditing.audit_tables import looks

# Deviations between the scores of good and bad answers: an AUC of the clean thumbs of 0.53, 0.76 and 0.998.
STRENGTHS = (0.1, 1.0, 4.0)


def drawn(strength: float, rate: float, seed: int, prompts: int = 400) -> tuple[np.ndarray, Bools, np.ndarray]:
    """Scores, thumbs of which a share is wrong, and prompts with four answers each that share half their luck."""
    rng = np.random.default_rng(seed)
    of_prompt = np.repeat(np.arange(prompts), 4)
    good = rng.random(prompts)[of_prompt] < 0.3 + 0.4 * rng.random(4 * prompts)
    score = strength * good + rng.normal(size=len(good))
    return score, good ^ (rng.random(len(good)) < rate), of_prompt


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.3])
def test_the_interval_holds_the_rates_that_were_put_in(strength: float, rate: float) -> None:
    ends = np.array([upper_ends(*drawn(strength, rate, seed)) for seed in range(40)])
    assert (ends >= rate).mean(axis=0).min() >= 0.95
    if strength == max(STRENGTHS):
        # Of use: near the rate where the signals tell much, and wide where they tell nothing.
        assert ends.mean() < rate + 0.1
    if strength == min(STRENGTHS):
        assert ends.mean() > 0.4


def test_answers_to_one_prompt_are_no_evidence_of_their_own() -> None:
    score, labels, prompts = drawn(4.0, 0.1, 0, prompts=100)
    alone = np.arange(len(labels))
    assert min(upper_ends(score, labels, prompts)) > max(upper_ends(score, labels, alone)) + 0.01
    # One prompt with most of the answers counts for little.
    uneven = np.where(alone < 300, 0, alone)
    assert min(upper_ends(score, labels, uneven)) > max(upper_ends(score, labels, prompts)) + 0.01


def asked(strength: float, rate: float) -> tuple[Examples, Callable[[Bools], Sequence[Signal]]]:
    examples = Examples.of(looks(200, flips_down=rate, flips_up=rate))
    good = np.array(looks(200)["desirable"][:])
    score = strength * (good - 0.5) + np.random.default_rng(0).normal(size=len(good))
    signal = Signal("x", 1 / (1 + np.exp(-score)), np.ones_like(good))
    return examples, lambda labels: [signal]


def test_further_flips_move_the_bounds_where_the_signals_tell_much_and_not_where_they_do_not() -> None:
    moved = {}
    for strength in (0.1, 4.0):
        examples, read = asked(strength, 0.1)
        folds = make_folds(examples, 4, seed=0)
        found = bounds_of(read, examples, folds, read(examples.labels), seed=0)
        assert [trial.rate for trial in found.trials] == list(TRIALS)
        assert all(min(trial.desirable, trial.undesirable) >= trial.rate for trial in found.trials)
        moved[strength] = found.trials[-1].desirable - found.desirable
        assert found.auc.low is not None and (found.auc.low > 0.5) == (strength > 1)
    assert moved[4.0] > 0.15 > 0.08 > moved[0.1]


def test_a_bound_that_misses_what_was_put_in_is_widened() -> None:
    """A judge that has seen the labels it speaks of: no bound, since its groups are formed by the thumbs themselves."""
    examples, _ = asked(4.0, 0.0)
    every = np.ones(len(examples), dtype=bool)

    def read(labels: Bools) -> list[Signal]:
        return [Signal("x", np.where(labels, 0.9, 0.1), every)]

    folds = make_folds(examples, 4, seed=0)
    found = bounds_of(read, examples, folds, read(examples.labels), seed=0)
    assert found.trials[-1].desirable < 0.1
    assert found.desirable > 0.25 and found.undesirable > 0.25


def test_the_judge_has_not_seen_the_fold() -> None:
    examples, read = asked(0.1, 0.0)
    folds = make_folds(examples, 4, seed=0)
    labels = examples.labels.copy()
    score = judge(read(labels), labels, folds)
    labels[folds == 0] = ~labels[folds == 0]
    assert judge(read(labels), labels, folds)[folds == 0] == pytest.approx(score[folds == 0])
