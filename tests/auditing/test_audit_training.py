"""The signal of policies that are trained without the example's fold."""

from pathlib import Path

import numpy as np
import pytest

from kto_lab.auditing.command import recipe_of
from kto_lab.auditing.examples import Examples, make_folds
from kto_lab.auditing.training import held_out_rewards, of_rewards, training
from kto_lab.errors import LabError
from kto_lab.feedback.collected import from_collected
from kto_lab.feedback.corruption import label_noise
from kto_lab.feedback.table import of_split
from tests.small_runs import composed

SMALL = ["model=tiny", "trainer=cpu", "loss.beta=5", "optimization.learning_rate=2e-4", "optimization.batch_size=32"]
SMALL += ["optimization.micro_batch_tokens=8192"]


def test_a_policy_of_other_prompts_doubts_wrong_thumbs_on_sums() -> None:
    from sklearn.metrics import roc_auc_score

    table = label_noise(of_split(from_collected("arithmetic", 200), "train"), rate=0.1, seed=0).table
    examples = Examples.of(table)
    folds = make_folds(examples, 2, seed=0)
    recipe = recipe_of(composed([*SMALL, "optimization.max_steps=12"], name="audit"))
    signal = training(table, examples.labels, folds, recipe)
    wrong = examples.labels != np.array(table["desirable_clean"][:])
    assert signal.known.all()
    assert roc_auc_score(wrong, signal.suspicion(examples.labels)) > 0.8


def test_rewards_repeat_and_an_overlong_prompt_has_none() -> None:
    table = of_split(from_collected("arithmetic", 60), "train")
    train, held_out = table.select(range(150)), table.select(range(150, len(table)))
    words = [*SMALL, "model.weights=random", "optimization.max_steps=2", "lengths.min_completion=2"]
    recipe = recipe_of(composed([*words, "lengths.max_length=8"], name="audit"))
    first, again = (held_out_rewards(train, held_out, recipe) for _ in range(2))
    assert np.array_equal(first, again, equal_nan=True)
    long = np.array([len(prompt) > 6 for prompt in held_out["prompt"][:]])
    assert (np.isnan(first) == long).all()


def test_a_reward_becomes_a_probability_by_fold_and_silence_stays() -> None:
    labels = np.array([True, False] * 20)
    folds = np.repeat([0, 1], 20)
    # The second fold's policy moved all rewards, and further.
    rewards = np.where(labels, 1.0, -1.0) * np.where(folds, 10, 1) + 100 * folds
    rewards[3] = np.nan
    signal = of_rewards(rewards, labels, folds)
    assert signal.known.tolist() == [row != 3 for row in range(40)]
    assert signal.up[3] == 0.5
    assert (signal.up[signal.known] > 0.5).tolist() == labels[signal.known].tolist()


def test_it_runs_in_one_process(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="one process"):
        recipe_of(composed([*SMALL, "trainer=ddp"], name="audit"))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_rewards_in_bf16_are_those_of_float32_but_for_rounding(adapter: str) -> None:
    table = of_split(from_collected("arithmetic", 40), "train")
    train, held_out = table.select(range(96)), table.select(range(96, len(table)))
    words = [*SMALL, f"adapter={adapter}", "optimization.max_steps=3", "optimization.learning_rate=1e-3"]
    exact, rounded = (
        held_out_rewards(train, held_out, recipe_of(composed([*words, f"trainer.precision={name}"], name="audit")))
        for name in ("32-true", "bf16-mixed")
    )
    assert 0 < np.abs(rounded - exact).max() < np.abs(exact).max()
    assert np.corrcoef(exact, rounded)[0, 1] > 0.95
