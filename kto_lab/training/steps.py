"""The steps of a run: each planned step cut into micro-batches and dealt to the processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from kto_lab.losses import MeanOver, Objective
from kto_lab.models.placing import placed
from kto_lab.models.rows import padding
from kto_lab.models.sequences import Tokens
from kto_lab.training.data import TrainingData
from kto_lab.training.dealing import deal
from kto_lab.training.optimization import Optimization


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

    def to(self, device: torch.device) -> "MicroBatch":
        """With its tensors on a device."""
        return replace(
            self,
            reference=placed(self.reference, device),
            desirable=placed(self.desirable, device),
            reference_tokens=placed(self.reference_tokens, device),
        )


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

    def to(self, device: torch.device) -> "Step":
        """With the tensors of its micro-batches on a device; `desirable` is for the host."""
        micro_batches, mismatched = (
            [micro_batch.to(device) for micro_batch in group] for group in (self.micro_batches, self.mismatched)
        )
        return replace(self, micro_batches=micro_batches, mismatched=mismatched)


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
            share_prompts: see `models.exact_rows.ExactRows`.
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

    def balance(self, processes: int) -> float:
        """Tokens of the slowest process of a step over those of the mean one; the mean over the steps of the run."""
        ratios = []
        for step in self.data.plan.steps:
            units = [[self.data.tokens[example] for example in self.data.plan.units[unit]] for unit in step]
            tokens = deal(
                units,
                processes=processes,
                token_budget=self.optimization.micro_batch_tokens,
                share_prompts=self.share_prompts,
                packed=self.packed,
                apart=self.apart,
            ).tokens
            ratios.append(max(tokens) / fmean(tokens))
        return fmean(ratios)


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

    how: dict[str, Any] = {"processes": world, "share_prompts": share_prompts, "packed": packed}
    how["token_budget"] = optimization.micro_batch_tokens
    shares = deal(units, apart=apart, **how).shares
    at_once = packed and not apart and len(shares[rank]) == 1
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
        for part in shares[rank]
    ]
    pairs = [[pair] for pair in data.mismatched_tokens(number)] if data.plan.mismatched is not None else []
    # Where all is run at once, the pairs follow the prompts of the same pass.
    pair_shares = (shares if at_once else deal(pairs, **how).shares) if pairs else [[]] * world
    mismatched = [
        MicroBatch(
            places=part,
            units=[pairs[place] for place in part],
            reference=data.reference_mismatched[number][part],
            desirable=torch.zeros(len(part), dtype=torch.bool),
        )
        for part in pair_shares[rank]
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
            [[units[place] for place in part] for share in shares for part in share],
            share_prompts=share_prompts,
            packed=packed,
        ),
    )
