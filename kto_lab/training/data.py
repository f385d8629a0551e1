"""From the table of examples to what a run trains on: tokens, the plan, and the reference's log-probs."""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import Corrupted, PairSwaps, Swapped, swapped
from kto_lab.feedback.pairs import GivenPairs, PairNoise, given_pairs, make_pairs, pair_noise
from kto_lab.feedback.table import is_chat
from kto_lab.feedback.table_numbers import require_both_classes
from kto_lab.losses import Feed, Objective
from kto_lab.losses.noise import clean_counts
from kto_lab.losses.reference_points import Completions
from kto_lab.losses.weighting import Weights
from kto_lab.models.ending import Ending
from kto_lab.models.sequences import Encoded, Tokens
from kto_lab.models.tokens import Encoder, Lengths
from kto_lab.training.optimization import Optimization
from kto_lab.training.plan import Plan, Unit, make_plan


@dataclass
class TrainingData:
    """Everything that training reads, on the CPU.

    Attributes:
        tokens: of each example that a step sees; the others are not tokenised.
        example_ids: of each training example, for messages.
        desirable: the thumbs that the loss sees.
        plan: which example when.
        reference: (examples,) log pi_ref(y|x), nats; filled by `fill_reference`.
        reference_mismatched: (steps, batch size) log pi_ref(y'|x); likewise.
        reference_tokens: log pi_ref of the completion's tokens, for each sequence that is trained on; likewise, where
            the loss reads them, else empty.
        dropped: examples left out because their prompt is too long.
        refused: examples left out because the chat template refuses them.
        cut: examples that a step sees whose completion was cut to fit; `ended` and so on count these, too.
        swapped: pairs that the corruption exchanged; None where it leaves pairs alone.
        given: what is left of the pairs that the data was given.
        pair_noise: how the pairs of the plan stand to the clean thumbs; None for a loss of single thumbs, and where
            nothing is known of the noise.
        pad_id: any valid token id.
        ending: how a completion ends.
        ended: completions that had the text of their end, which is not written twice.
        special: completions with the text of a special token inside, which is read as text.
        special_prompts: examples whose prompt has the text of a special token, which is read as that token.
    """

    tokens: dict[int, Tokens]
    example_ids: list[str]
    desirable: list[bool]
    plan: Plan
    reference: Tensor
    reference_mismatched: Tensor
    reference_tokens: dict[Tokens, Tensor]
    dropped: int
    refused: int
    cut: int
    swapped: Swapped | None
    given: GivenPairs
    pair_noise: PairNoise | None
    pad_id: int
    ending: Ending
    ended: int
    special: int
    special_prompts: int

    def budget(self, feed: Feed) -> dict[str, int]:
        """The run's budget for its record: steps, units, examples, pairs and tokens."""
        steps, batch = self.plan.steps.shape
        seen = [self.tokens[example] for unit in self.plan.steps.flat for example in self.plan.units[unit]]
        return {
            "steps": steps,
            "batch_size": batch,
            "units_available": len(self.plan.units),
            "units_seen": steps * batch,
            "examples_seen": len(seen),
            "pairs_seen": steps * batch if feed is Feed.PAIRS else 0,
            "tokens_seen": sum(map(len, seen)),
            "completion_tokens_seen": sum(len(tokens.completion) for tokens in seen),
        }

    def remarks(self) -> list[str]:
        """Remarks for a person: examples that were left out, cut or read in a special way."""
        counted = {
            "examples left out: the prompt leaves no room within lengths.max_length": self.dropped,
            "examples left out: the chat template refuses them": self.refused,
            "completions cut at lengths.max_length": self.cut,
            "completions had the text of their end: it is written once, and nothing after it": self.ended,
            "completions have the text of a special token inside: it is read letter by letter": self.special,
            "examples have the text of a special token in their prompt: it is read as that token": self.special_prompts,
            "mismatched pairs share a prompt: their step had too few prompts": self.plan.same_prompt,
        }
        return [f"{count} {what}" for what, count in counted.items() if count]

    def mismatched_tokens(self, step: int) -> list[Tokens]:
        """The mismatched pairs (x, y') of a step, one per unit."""
        assert self.plan.mismatched is not None
        firsts = [self.plan.units[unit][0] for unit in self.plan.steps[step]]
        partners = self.plan.mismatched[step]
        return [Tokens(self.tokens[x].prompt, self.tokens[y].completion) for x, y in zip(firsts, partners, strict=True)]


def _left_out(encoded: Encoded, examples: int, lengths: Lengths) -> str:
    """Why examples were left out, and the keys that say so, as sentences; "" where none was."""
    sentences = []
    if encoded.dropped:
        sentences.append(
            f"{encoded.dropped} of {examples} training examples were left out (lengths.overlong_prompt=drop): their "
            f"prompts leave less than lengths.min_completion={lengths.min_completion} of lengths.max_length="
            f"{lengths.max_length} tokens. Raise lengths.max_length."
        )
    if encoded.refused:
        sentences.append(
            f"{encoded.refused} of {examples} training examples were left out (lengths.refused_by_template=drop): the "
            "chat template does not take them."
        )
    return " ".join(sentences)


def prepare(
    corrupted: Corrupted, encoder: Encoder, objective: Objective, optimization: Optimization, *, seed: int
) -> TrainingData:
    """Tokenise the training split and plan the run.

    Args:
        corrupted: the rows of the training split, and what is to happen to the pairs made of them.
        encoder: the policy's tokenizer.
        objective: says what a unit is.
        optimization: batch size and number of steps.
        seed: of the order of the data.

    Raises:
        LabError: the table has one class only, has no pairs where the loss needs them, does not fill a batch, or pairs
            are to be swapped for a loss of single thumbs.
    """
    controls, table = objective.controls, corrupted.table
    asked = [controls.desirable if up else controls.undesirable for up in table["desirable"][:]] if controls else None
    fitting = encoder.fitting(table, asked)
    kept = table.select(fitting.kept) if len(fitting.kept) < len(table) else table
    desirable = kept["desirable"][:]
    try:
        plan, swaps = plan_steps(kept, corrupted.swap_pairs, objective, optimization, seed=seed)
    except LabError as error:
        if not (left_out := _left_out(fitting, len(table), encoder.lengths)):
            raise
        raise LabError(f"{error} {left_out}") from error
    seen = plan.examples()
    encoded = encoder.encode_table(kept.select(seen), [asked[fitting.kept[one]] for one in seen] if asked else None)
    known = objective.needs.feed is Feed.PAIRS and corrupted.noise_is_known
    noise = pair_noise(np.array(plan.units), kept["desirable_clean"][:]) if known else None
    return TrainingData(
        tokens=dict(zip(seen, encoded.tokens, strict=True)),
        example_ids=kept["example_id"][:],
        desirable=desirable,
        plan=plan,
        reference=torch.zeros(len(desirable)),
        reference_mismatched=torch.zeros(plan.steps.shape),
        reference_tokens={},
        dropped=fitting.dropped,
        refused=fitting.refused,
        cut=encoded.cut,
        swapped=swaps,
        given=given_pairs(kept),
        pair_noise=noise,
        pad_id=encoder.pad_id,
        ending=encoder.ending(is_chat(table)),
        ended=encoded.ended,
        special=encoded.special,
        special_prompts=encoded.special_prompts,
    )


def plan_steps(
    table: Dataset, swap_pairs: PairSwaps | None, objective: Objective, optimization: Optimization, *, seed: int
) -> tuple[Plan, Swapped | None]:
    """Which examples each step sees, and the pairs that were exchanged. Asks for no model, so it can be tried first.

    Args:
        table: the training split, or what is left of it.
        swap_pairs: what is to happen to its pairs.
        objective: says what a unit is.
        optimization: batch size and number of steps.
        seed: of the order of the data.

    Raises:
        LabError: as `prepare`.
    """
    feed, estimator = objective.needs.feed, objective.reference_point
    if feed is not Feed.DESIRABLE:
        require_both_classes(table)
    if swap_pairs is not None and feed is not Feed.PAIRS:
        raise LabError(f"corruption=pair_swaps exchanges pairs, and {objective.name} takes none. Use label_noise.")
    units, swaps = make_units(table, feed, swap_pairs, seed=seed)
    plan = make_plan(
        units,
        table["prompt_id"][:],
        batch_size=optimization.batch_size,
        epochs=optimization.epochs,
        max_steps=optimization.max_steps,
        seed=seed,
        keep_prompts_together=optimization.keep_prompts_together,
        mismatched=objective.compared_to is Completions.MISMATCHED,
        group=estimator.group if estimator else None,
    )
    return plan, swaps


def make_units(
    table: Dataset, feed: Feed, swap_pairs: PairSwaps | None, *, seed: int
) -> tuple[list[Unit], Swapped | None]:
    """The units of a batch: every example, the desirable ones, or pairs of one prompt, some of them swapped."""
    if feed is Feed.PAIRS:
        pairs = make_pairs(table, seed=seed)
        found = swapped(pairs, table["example_id"][:], swap_pairs) if swap_pairs else None
        return [(int(up), int(down)) for up, down in (found.pairs if found else pairs)], found
    units: list[Unit] = [(i,) for i, desirable in enumerate(table["desirable"][:]) if desirable or feed is Feed.THUMBS]
    if not units:
        raise LabError("There is no desirable example to train on.")
    return units, None


def class_weights(objective: Objective, data: TrainingData) -> Weights:
    """lambda_D and lambda_U for the examples that are trained on.

    They are of the true classes where the loss corrects for flips, so the counts are those behind the counts seen.
    """
    if objective.weighting is None:
        return Weights(1.0, 1.0)
    used = [data.desirable[example] for unit in data.plan.units for example in unit]
    counts: tuple[float, float] = sum(used), len(used) - sum(used)
    if objective.flip_rates is not None:
        counts = clean_counts(sum(used), len(used) - sum(used), objective.flip_rates)
    return objective.weighting.weights(*counts)


def trained_sequences(data: TrainingData) -> list[Tokens]:
    """Every distinct sequence that the run trains on, in a stable order."""
    return list(dict.fromkeys(data.tokens.values()))


def reference_sequences(data: TrainingData) -> list[Tokens]:
    """Every distinct sequence that the run needs the reference's log-probability of, in a stable order."""
    wanted = dict.fromkeys(trained_sequences(data))
    if data.plan.mismatched is not None:
        for step in range(len(data.plan.steps)):
            wanted.update(dict.fromkeys(data.mismatched_tokens(step)))
    return list(wanted)


def fill_reference(
    data: TrainingData, logps: dict[Tokens, float], token_logps: dict[Tokens, Tensor] | None = None
) -> None:
    """Put the reference's log-probabilities where the steps read them.

    Args:
        data: to fill in.
        logps: of every sequence of `reference_sequences`, nats.
        token_logps: of the completion tokens of every sequence of `trained_sequences`, where the loss reads them.
    """
    data.reference_tokens = token_logps or {}
    for example, tokens in data.tokens.items():
        data.reference[example] = logps.get(tokens, 0.0)
    if data.plan.mismatched is not None:
        for step in range(len(data.plan.steps)):
            data.reference_mismatched[step] = torch.tensor([logps[pair] for pair in data.mismatched_tokens(step)])
