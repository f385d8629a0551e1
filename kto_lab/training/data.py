"""From the table of examples to the steps of a run: units, tokens, reference log-probs, micro-batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import lightning.pytorch as pl
import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import Corrupted, PairSwaps, Swapped, swapped
from kto_lab.feedback.pairs import GivenPairs, PairNoise, given_pairs, make_pairs, pair_noise
from kto_lab.feedback.table import is_chat, require_both_classes
from kto_lab.losses import Feed, MeanOver, Objective
from kto_lab.losses.noise import clean_counts
from kto_lab.losses.reference_points import Completions
from kto_lab.losses.weighting import Weights
from kto_lab.models.ending import Ending
from kto_lab.models.rows import cut_micro_batches, padding
from kto_lab.models.sequences import Tokens
from kto_lab.models.tokens import Encoder
from kto_lab.training.optimization import Optimization
from kto_lab.training.plan import Plan, Unit, make_plan


@dataclass(frozen=True)
class MicroBatch:
    """Units that go through the policy together.

    Attributes:
        places: where in the step each unit stands.
        units: their token sequences.
        reference: (sequences,) log pi_ref(y|x), nats.
        desirable: (sequences,) bool.
        reference_tokens: (tokens,) log pi_ref of each completion token, sequence by sequence; empty where the loss
            reads none.
    """

    places: list[int]
    units: list[list[Tokens]]
    reference: Tensor
    desirable: Tensor
    reference_tokens: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Step:
    """One optimiser step, as one process sees it.

    Attributes:
        number: from 0.
        units: units of the step over all processes.
        micro_batches: this process's share.
        mismatched: this process's share of the mismatched pairs; empty where none are needed.
        at_once: the share is one micro-batch in a packed row, and the mismatched pairs are those of its places.
        desirable: (units,) bool of the whole step, for thumbs.
        prompts: token ids of the whole step's prompts, one per unit.
        normaliser: what the sum of the losses is divided by: units, or completion tokens, of the whole step.
        tokens: real tokens of the whole step that the policy's gradient pass is about (prompts once per example).
        padding: share of what that pass is fed over all processes that is padding.
    """

    number: int
    units: int
    micro_batches: list[MicroBatch]
    mismatched: list[MicroBatch]
    at_once: bool
    desirable: Tensor
    prompts: list[tuple[int, ...]]
    normaliser: int
    tokens: int
    padding: float


@dataclass
class TrainingData:
    """Everything that training reads, on the CPU.

    Attributes:
        tokens: one entry per training example.
        example_ids: likewise, for messages.
        desirable: the thumbs that the loss sees.
        plan: which example when.
        reference: (examples,) log pi_ref(y|x), nats; filled by `fill_reference`.
        reference_mismatched: (steps, batch size) log pi_ref(y'|x); likewise.
        reference_tokens: log pi_ref of the completion's tokens, for each sequence that is trained on; likewise, where
            the loss reads them, else empty.
        dropped: examples left out because their prompt is too long.
        cut: examples whose completion was cut to fit.
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

    tokens: list[Tokens]
    example_ids: list[str]
    desirable: list[bool]
    plan: Plan
    reference: Tensor
    reference_mismatched: Tensor
    reference_tokens: dict[Tokens, Tensor]
    dropped: int
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
    encoded = encoder.encode_table(table, asked)
    kept = table.select(encoded.kept) if encoded.dropped else table
    desirable = kept["desirable"][:]
    plan, swaps = plan_steps(kept, corrupted.swap_pairs, objective, optimization, seed=seed)
    known = objective.needs.feed is Feed.PAIRS and corrupted.noise_is_known
    noise = pair_noise(np.array(plan.units), kept["desirable_clean"][:]) if known else None
    return TrainingData(
        tokens=encoded.tokens,
        example_ids=kept["example_id"][:],
        desirable=desirable,
        plan=plan,
        reference=torch.zeros(len(desirable)),
        reference_mismatched=torch.zeros(plan.steps.shape),
        reference_tokens={},
        dropped=encoded.dropped,
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
    used = sorted({example for unit in np.unique(data.plan.steps) for example in data.plan.units[unit]})
    return list(dict.fromkeys(data.tokens[example] for example in used))


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
    data.reference[:] = torch.tensor([logps.get(tokens, 0.0) for tokens in data.tokens])
    if data.plan.mismatched is not None:
        for step in range(len(data.plan.steps)):
            data.reference_mismatched[step] = torch.tensor([logps[pair] for pair in data.mismatched_tokens(step)])


class StepLoader:
    """Yields the steps of one process that are still to be taken.

    Where to start is asked when the loop begins, after Lightning has restored its counters from a checkpoint; so a
    resumed run takes the steps that are left, and none twice. The two state methods tell Lightning that this is so.
    """

    def __init__(self, make_step: Callable[[int], Step], steps: int, taken: Callable[[], int]) -> None:
        """`make_step` makes the step of a number; there are `steps` of them, of which `taken()` are done."""
        self._make_step = make_step
        self._steps = steps
        self._taken = taken

    def __len__(self) -> int:
        """Steps of the whole run."""
        return self._steps

    def __iter__(self) -> Iterator[Step]:
        """The steps that are left."""
        return map(self._make_step, range(self._taken(), self._steps))

    def state_dict(self) -> dict[str, int]:
        """Nothing: the trainer's counter of optimiser steps is the state."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to restore."""


class AlignmentData(pl.LightningDataModule):
    """Cuts each planned step into micro-batches, and deals them to the processes."""

    def __init__(
        self,
        data: TrainingData,
        objective: Objective,
        optimization: Optimization,
        *,
        share_prompts: bool,
        packed: bool = False,
        apart: bool = False,
    ) -> None:
        """Deal out steps.

        Args:
            data: what they are made of.
            objective: what a unit is.
            optimization: how large they are.
            share_prompts: see `models.logps.ExactRows`.
            packed: likewise.
            apart: each unit is a micro-batch of its own; the processes share a batch evenly.
        """
        super().__init__()
        self.data = data
        self.objective = objective
        self.optimization = optimization
        self.share_prompts = share_prompts
        self.packed = packed
        self.apart = apart

    def train_dataloader(self) -> StepLoader:
        """The steps of this process."""
        return StepLoader(
            self.make_step, len(self.data.plan.steps), lambda: self.trainer.global_step if self.trainer else 0
        )

    def make_step(self, number: int) -> Step:
        """Step `number` as this process sees it."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return make_step(
            self.data,
            self.objective,
            self.optimization,
            number,
            share_prompts=self.share_prompts,
            packed=self.packed,
            apart=self.apart,
            rank=rank,
            world=world,
        )


def make_step(
    data: TrainingData,
    objective: Objective,
    optimization: Optimization,
    number: int,
    *,
    share_prompts: bool,
    packed: bool = False,
    apart: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Step:
    """Step `number` as process `rank` of `world` sees it; the rest as in `AlignmentData`."""
    members = [data.plan.units[unit] for unit in data.plan.steps[number]]
    units = [[data.tokens[example] for example in unit] for unit in members]

    def cut(units: list[list[Tokens]]) -> list[list[int]]:
        return cut_micro_batches(
            units,
            token_budget=optimization.micro_batch_tokens,
            share_prompts=share_prompts,
            packed=packed,
            multiple_of=world,
        )

    parts = [[place] for place in range(len(units))] if apart else cut(units)
    at_once = packed and not apart and len(parts) == world
    micro_batches = [
        MicroBatch(
            places=part,
            units=[units[place] for place in part],
            reference=torch.tensor([data.reference[example].item() for place in part for example in members[place]]),
            desirable=torch.tensor([data.desirable[example] for place in part for example in members[place]]),
            reference_tokens=torch.cat([data.reference_tokens[sequence] for place in part for sequence in units[place]])
            if data.reference_tokens
            else torch.empty(0),
        )
        for part in parts[rank::world]
    ]
    pairs = [[pair] for pair in data.mismatched_tokens(number)] if data.plan.mismatched is not None else []
    # Where all is run at once, the pairs follow the prompts of the same pass.
    pair_parts = (parts if at_once else cut(pairs)) if pairs else []
    mismatched = [
        MicroBatch(
            places=part,
            units=[pairs[place] for place in part],
            reference=data.reference_mismatched[number][part],
            desirable=torch.zeros(len(part), dtype=torch.bool),
        )
        for part in pair_parts[rank::world]
    ]
    completion_tokens = sum(len(sequence.completion) for unit in units for sequence in unit)
    return Step(
        number=number,
        units=len(units),
        micro_batches=micro_batches,
        mismatched=mismatched,
        at_once=at_once,
        desirable=torch.tensor([data.desirable[unit[0]] for unit in members]),
        prompts=[data.tokens[unit[0]].prompt for unit in members],
        normaliser=completion_tokens if objective.needs.mean_over is MeanOver.TOKENS else len(units),
        tokens=sum(len(sequence) for unit in units for sequence in unit),
        padding=padding(
            [[units[place] for place in part] for part in parts], share_prompts=share_prompts, packed=packed
        ),
    )
