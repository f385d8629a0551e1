"""Signal: the implicit reward that a policy gives to examples it was not trained on.

The policy is trained on the thumbs once for each fold, without the fold's prompts, and the log-ratio of each of the
fold's completions to the reference is measured at the end. A thumbs-up on an answer that a policy has learned to avoid
is doubtful, and a thumbs-down on one that it has learned to give.

Two other readings of a run were measured (results/feedback/audit). Rewards of the examples that the policy is trained
on found flips worse in a short run and slightly better in one that saw each example once; over several epochs a
policy comes to agree with what it is told, right or wrong, and nobody says when. The mean of the rewards over the
steps of the run (as in Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking") was
no better than the last ones once the fold is left out.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from kto_lab import console
from kto_lab.auditing.examples import Bools, Floats, Ints
from kto_lab.auditing.signals import Signal
from kto_lab.errors import LabError
from kto_lab.feedback.corruption import Corrupted
from kto_lab.losses import Objective
from kto_lab.models.adapters import FullFineTuning, Lora, Policy, attached, moved
from kto_lab.models.attention import set_packing
from kto_lab.models.exact_rows import find_exact_rows
from kto_lab.models.load import Loaded
from kto_lab.models.number_format import as_read, masters
from kto_lab.models.reference import ReferencePolicy, at_start, check_loaded, initial
from kto_lab.models.sequences import Tokens
from kto_lab.models.store_scorer import score_and_keep
from kto_lab.models.tokens import Encoder, Lengths
from kto_lab.training.data import plan_steps, prepare
from kto_lab.training.fit import fit
from kto_lab.training.hardware import Hardware
from kto_lab.training.optimization import Optimization
from kto_lab.training.update_rule import UpdateRule


@dataclass(frozen=True)
class Recipe:
    """How a policy is trained: what the nodes of the same names make.

    Attributes:
        load: loads the model, afresh at each call.
        adapter: what of it is trained.
        objective: what is minimised.
        optimization: how.
        update_rule: makes the optimiser and its schedule.
        hardware: where; one process.
        lengths: how long an example may be.
        seed: of the order of the data and of adapters.
    """

    load: Callable[[], Loaded]
    adapter: FullFineTuning | Lora
    objective: Objective
    optimization: Optimization
    update_rule: UpdateRule
    hardware: Hardware
    lengths: Lengths
    seed: int

    def __post_init__(self) -> None:
        """Refuse several processes: folds follow one another in this one."""
        if self.hardware.devices * self.hardware.num_nodes > 1:
            raise LabError("The training signal runs in one process. Use trainer=auto, trainer=gpu or trainer=cpu.")


def training(table: Dataset, labels: Bools, folds: Ints, recipe: Recipe) -> Signal:
    """The probability of a thumbs-up, given the reward of policies that were trained without the example's fold.

    Args:
        table: N examples.
        labels: (N,) their thumbs.
        folds: (N,) see `make_folds`.
        recipe: how each policy is trained.
    """
    rewards = np.full(len(table), np.nan)
    for fold in np.unique(folds):
        console.say(f"    part {fold + 1} of {len(np.unique(folds))}")
        inside = np.flatnonzero(folds == fold)
        rewards[inside] = held_out_rewards(table.select(np.flatnonzero(folds != fold)), table.select(inside), recipe)
    return of_rewards(rewards, labels, folds)


def of_rewards(rewards: Floats, labels: Bools, folds: Ints) -> Signal:
    """The signal of rewards (N,), NaN where an example has none: one logistic curve for all folds (Platt 1999).

    Each fold's rewards are brought to the mean 0 and the deviation 1 first: they come from policies of their own.
    """
    from sklearn.linear_model import LogisticRegression

    known = np.isfinite(rewards)
    scaled = np.zeros(len(rewards))
    for fold in np.unique(folds):
        inside = known & (folds == fold)
        if inside.any():
            values = rewards[inside]
            scaled[inside] = (values - values.mean()) / (values.std() or 1.0)
    up = np.full(len(rewards), 0.5)
    if known.any() and len(np.unique(labels[known])) == 2:
        curve = LogisticRegression(C=1e3).fit(scaled[known, None], labels[known])
        up[known] = curve.predict_proba(scaled[known, None])[:, 1]
    return Signal("training", up, known)


def held_out_rewards(train: Dataset, held_out: Dataset, recipe: Recipe) -> Floats:
    """(N,) log-ratios of the completions held out, nats, after training; NaN where the prompt is too long."""
    import lightning.pytorch as pl

    hardware, optimization = recipe.hardware, recipe.optimization
    plan, _ = plan_steps(train, None, recipe.objective, optimization, seed=recipe.seed)
    recipe.update_rule.check(
        learning_rate=optimization.learning_rate,
        vectors=recipe.adapter.trains_the_model,
        steps=len(plan.steps),
        device=hardware.device,
    )
    loaded = recipe.load()
    check_loaded(loaded.provenance, initial(), number_format=hardware.number_format)
    as_read(loaded.model, number_format=hardware.number_format, trained=recipe.adapter.trains_the_model)
    pl.seed_everything(recipe.seed, verbose=False)
    policy = moved(attached(loaded.model, recipe.adapter, number_format=hardware.number_format), hardware.device)
    encoder = Encoder.of(loaded, recipe.lengths)
    data = prepare(Corrupted(train, ()), encoder, recipe.objective, optimization, seed=recipe.seed)
    with hardware.autocast():
        exact = find_exact_rows(loaded.model, longest=2 * recipe.lengths.max_length)
    set_packing(loaded.model, exact.packed)
    share_prompts = optimization.keep_prompts_together and exact.shared
    encoded = encoder.encode_table(held_out)

    def score() -> Floats:
        return _logps(policy, encoded.tokens, encoder, recipe, share_prompts=share_prompts)

    with at_start(policy):
        before = score()
    with (
        tempfile.TemporaryDirectory() as folder,
        masters(policy, number_format=hardware.number_format, seed=recipe.seed),
    ):
        fit(
            policy,
            data,
            recipe.objective,
            optimization,
            recipe.update_rule,
            ReferencePolicy(load=lambda: policy, inside=True),
            hardware,
            folder=Path(folder),
            loggers=[],
            share_prompts=share_prompts,
            seed=recipe.seed,
        )
    rewards = np.full(len(held_out), np.nan)
    rewards[encoded.kept] = score() - before
    return rewards


def _logps(policy: Policy, tokens: list[Tokens], encoder: Encoder, recipe: Recipe, *, share_prompts: bool) -> Floats:
    moved(policy, recipe.hardware.device)
    with recipe.hardware.autocast(), console.progress("rewards", len(tokens)) as advance:
        found = score_and_keep(
            policy,
            tokens,
            None,
            pad_id=encoder.pad_id,
            token_budget=recipe.optimization.micro_batch_tokens,
            share_prompts=share_prompts,
            advance=advance,
        )
    return found.numpy().astype(np.float64)
