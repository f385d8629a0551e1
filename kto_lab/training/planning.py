"""The stage of a run that settles what each step sees, and says what a person should know of it."""

from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.feedback.corruption import Corrupted
from kto_lab.feedback.table import is_chat
from kto_lab.feedback.table_numbers import flip_rates
from kto_lab.losses import Feed, FlipRates, Objective
from kto_lab.losses.noise import inversion_warnings, robust_weights
from kto_lab.losses.weighting import Weights
from kto_lab.models.adapters import FullFineTuning, Lora, Policy
from kto_lab.models.tokens import Encoder
from kto_lab.training.clipping import planned_scales
from kto_lab.training.data import TrainingData, class_weights, plan_steps, prepare
from kto_lab.training.dropout import dropout_rates
from kto_lab.training.hardware import Hardware
from kto_lab.training.optimization import Optimization
from kto_lab.training.update_rule import UpdateRule


def check_plan(
    corrupted: Corrupted,
    objective: Objective,
    optimization: Optimization,
    update_rule: UpdateRule,
    adapter: FullFineTuning | Lora,
    hardware: Hardware,
    *,
    seed: int,
) -> None:
    """Try the plan on all examples, so that what cannot be planned shows before a model is loaded.

    Args:
        corrupted: the training split.
        objective: what is to be minimised.
        optimization: how.
        update_rule: the optimiser and its schedule, which are tried, too.
        adapter: what is trained.
        hardware: to train on.
        seed: of the run.

    Raises:
        LabError: there is no plan, or training by it would fail; or the share of swapped pairs is to be measured, and
            nothing is known of the noise.
    """
    check_measurable(objective, corrupted)
    planned, _ = plan_steps(corrupted.table, corrupted.swap_pairs, objective, optimization, seed=seed)
    update_rule.check(
        learning_rate=optimization.learning_rate,
        vectors=adapter.trains_the_model,
        steps=len(planned.steps),
        device=hardware.device,
    )


@dataclass(frozen=True)
class Planned:
    """The plan of a training run.

    Attributes:
        data: the tokens, and which examples each step sees.
        objective: what is minimised, with the flip rate measured on the pairs where it asks for that.
        about: what a record says of it.
    """

    data: TrainingData
    objective: Objective
    about: dict[str, Any]


def plan(
    policy: Policy,
    corrupted: Corrupted,
    encoder: Encoder,
    objective: Objective,
    optimization: Optimization,
    *,
    seed: int,
) -> Planned:
    """Settle what each step sees, and say it.

    Args:
        policy: that will be trained.
        corrupted: the training split.
        encoder: of the policy's tokenizer.
        objective: what is to be minimised.
        optimization: how.
        seed: of the run.

    Raises:
        LabError: as `prepare`; or the share of swapped pairs is out of the loss's range.
    """
    narration.stage("Plan", "What each step sees is settled now, by the data and the seed alone.")
    data = prepare(corrupted, encoder, objective, optimization, seed=seed)
    _say_examples(data, objective)
    for note in encoder.notes(chat=is_chat(corrupted.table)):
        narration.say(f"    {note}")
    objective = told_of_pairs(objective, data)
    weights = class_weights(objective, data)
    _say_weights(data, objective, weights, corrupted.table)
    dropout = dropout_rates(policy, own=optimization.dropout)
    about = {
        "loss": objective.name,
        **data.budget(objective.needs.feed),
        "lambda_desirable": weights.desirable,
        "lambda_undesirable": weights.undesirable,
        "dropout": dropout,
        "dropped": data.dropped,
        "refused": data.refused,
        "cut": data.cut,
        "end_in_text": data.ended,
        "special_tokens_in_text": data.special,
        "special_tokens_in_prompt": data.special_prompts,
        "mismatched_same_prompt": data.plan.same_prompt,
        "corruption": [asdict(change) for change in corrupted.changes],
        "pair_swap_share": data.pair_noise and data.pair_noise.swapped,
        "pair_same_share": data.pair_noise and data.pair_noise.same,
        "given_pairs": {"whole": len(data.given.pairs), "agreeing": data.given.agreeing, "alone": data.given.alone},
        "pairs_swapped": data.swapped and {"swapped": data.swapped.swapped, "touched": data.swapped.touched},
    }
    rates = ", ".join(f"{name} {rate:g}" for name, rate in dropout.items())
    narration.say(f"    dropout: {rates + '; each is run by itself' if rates else 'off'}")
    scales = planned_scales(data, weights)
    varies = f" times {min(scales):.3g} to {max(scales):.3g}, the size of a step's weights" if max(scales) != 1 else ""
    narration.say(f"    gradients are clipped at a norm of {optimization.clip_norm:g}{varies}")
    return Planned(data, objective, about)


def _say_examples(data: TrainingData, objective: Objective) -> None:
    """Say how many units and steps there are, and what became of pairs."""
    steps, batch = data.plan.steps.shape
    what = "pairs" if objective.needs.feed is Feed.PAIRS else "examples"
    narration.say(f"    {len(data.plan.units)} {what} in {steps} steps of {batch}, loss {objective.name}")
    if data.swapped is not None:
        narration.say(f"    pair_swaps: {data.swapped.swapped} pairs swapped")
    if data.pair_noise is not None:
        narration.say(
            f"    by the clean thumbs {data.pair_noise.swapped:.1%} of the pairs are swapped, and "
            f"{data.pair_noise.same:.1%} are of two answers of one class"
        )
    if data.given.agreeing or data.given.alone:
        narration.say(
            f"    of the pairs that were given {data.given.agreeing} have halves with the same thumb and "
            f"{data.given.alone} lack a half: those are no pairs any more"
        )


def _say_weights(data: TrainingData, objective: Objective, weights: Weights, train_table: Dataset) -> None:
    """Say what each class weighs, and what a person should know of the examples."""
    if objective.weighting is not None:
        narration.say(f"    lambda_D {weights.desirable:.3g}, lambda_U {weights.undesirable:.3g}")
    for warning in noise_warnings(objective, weights, train_table):
        narration.say(f"    warning: {warning}")
    for remark in data.remarks():
        narration.say(f"    {remark}")


def told_of_pairs(objective: Objective, data: TrainingData) -> Objective:
    """The objective, told the share of swapped pairs where it waits for that; see `check_measurable`.

    Raises:
        LabError: the share is out of the loss's range.
    """
    if not objective.measured:
        return objective
    assert data.pair_noise is not None, "what cannot be measured was refused"
    return objective.told(data.pair_noise.swapped)


def check_measurable(objective: Objective, corrupted: Corrupted) -> None:
    """LabError where the share of swapped pairs is to be measured, and nothing is known of the thumbs' noise."""
    if objective.measured and not corrupted.noise_is_known:
        raise LabError(
            "loss.flip_rate=measured needs thumbs whose noise is known, and no corruption turned any: nobody can say "
            "how many pairs are swapped. Set loss.flip_rate to a number, or add noise with corruption=label_noise."
        )


def noise_warnings(objective: Objective, weights: Weights, train_table: Dataset) -> list[str]:
    """Warnings where the known noise of the training thumbs is too much for the weights."""
    rates = flip_rates(train_table)
    if rates is None or not (objective.needs.weighting and objective.needs.reference):
        return []
    known = FlipRates(*rates)
    seen = robust_weights(weights, objective.flip_rates) if objective.flip_rates else weights
    return inversion_warnings(seen, known)
