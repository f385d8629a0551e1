"""The plan of a run: which examples each optimiser step sees, as a pure function of (data, seed).

It is made before the first step, so that the reference's log-probabilities of every completion and of every mismatched
pair can be computed ahead, in large batches. Nothing here depends on devices, processes or micro-batches.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kto_lab.errors import LabError

Unit = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What each step sees.

    Attributes:
        units: each unit as indices of examples: one for a thumb, (chosen, rejected) for a pair.
        steps: (steps, batch size) indices of units.
        mismatched: (steps, batch size) for each unit of a step, the example whose completion is paired with the unit's
            prompt; None where the loss needs no mismatched pairs.
        same_prompt: mismatched pairs whose completion answers the same prompt, because the step (or group) had no
            other.
    """

    units: list[Unit]
    steps: np.ndarray
    mismatched: np.ndarray | None
    same_prompt: int

    def examples(self) -> list[int]:
        """The examples that a step sees, in order."""
        return sorted({example for unit in np.unique(self.steps) for example in self.units[unit]})


def make_plan(
    units: Sequence[Unit],
    prompt_ids: Sequence[str],
    *,
    batch_size: int,
    epochs: float,
    max_steps: int | None,
    seed: int,
    keep_prompts_together: bool,
    mismatched: bool,
    group: int | None = None,
) -> Plan:
    """Plan a run.

    Epochs follow one another without a gap: a batch may hold the end of one and the start of the next, so every batch
    has `batch_size` units, and at most the last `batch_size` - 1 units of the run are left out.

    Args:
        units: what a batch is made of.
        prompt_ids: the prompt of each example (indexed by the indices in `units`).
        batch_size: units an optimiser step, over all processes.
        epochs: passes over the units.
        max_steps: stop there if the epochs have not ended before; None for no limit.
        seed: of the order.
        keep_prompts_together: shuffle prompts, and take all units of a prompt one after the other, rather than shuffle
            units.
        mismatched: whether mismatched pairs are needed.
        group: units in a row among which mismatched pairs are drawn; None for the whole step.

    Raises:
        LabError: there are fewer units than a batch, a batch is too small for mismatched pairs, or groups do not fill
            it.
    """
    if group is not None and batch_size % group:
        raise LabError(
            f"loss.reference_point.size is {group}, which does not divide optimization.batch_size={batch_size}: every "
            "unit of a step needs a reference point."
        )
    if mismatched and batch_size < 2:
        raise LabError(
            "A batch of 1 has no mismatched pair to estimate the reference point from. Set optimization.batch_size to "
            "2 or more, or choose reference_point@loss.reference_point=zero."
        )
    steps = int(epochs * len(units) / batch_size + 1e-9)
    if steps < 1:
        raise LabError(
            f"{epochs:g} epochs of {len(units)} training examples (pairs, for a loss of pairs) do not fill one batch "
            f"of {batch_size}. Add data, lower optimization.batch_size, or raise optimization.epochs."
        )
    steps = steps if max_steps is None else min(steps, max_steps)
    prompts = [prompt_ids[unit[0]] for unit in units]
    order = _order(prompts, needed=steps * batch_size, seed=seed, together=keep_prompts_together)
    grid = order.reshape(steps, batch_size)
    if not mismatched:
        return Plan(units=list(units), steps=grid, mismatched=None, same_prompt=0)
    partners, same = _partners(grid, units, prompts, group or batch_size)
    return Plan(units=list(units), steps=grid, mismatched=partners, same_prompt=same)


def _partners(grid: np.ndarray, units: Sequence[Unit], prompts: Sequence[str], size: int) -> tuple[np.ndarray, int]:
    """The examples that each step's units are mismatched with, among `size` units in a row; and how many conflict."""
    partners = np.empty_like(grid)
    same = 0
    for step, at in itertools.product(range(len(grid)), range(0, grid.shape[1], size)):
        row = grid[step, at : at + size]
        chosen = pair_mismatched([prompts[unit] for unit in row])
        same += sum(prompts[unit] == prompts[row[place]] for unit, place in zip(row, chosen, strict=True))
        partners[step, at : at + size] = [units[row[place]][0] for place in chosen]
    return partners, same


def _order(prompts: Sequence[str], *, needed: int, seed: int, together: bool) -> np.ndarray:
    """The first `needed` units of epoch after epoch, each epoch shuffled by (seed, epoch)."""
    parts: list[np.ndarray] = []
    taken = epoch = 0
    while taken < needed:
        order = np.random.default_rng([seed, epoch]).permutation(len(prompts))
        if together:
            first: dict[str, int] = {}
            for place, unit in enumerate(order):
                first.setdefault(prompts[unit], place)
            order = np.array(sorted(order, key=lambda unit: first[prompts[unit]]))
        parts.append(order)
        taken += len(order)
        epoch += 1
    return np.concatenate(parts)[:needed]


def pair_mismatched(prompts: Sequence[str]) -> list[int]:
    """For each place of a batch, the place whose completion it is paired with: a permutation of the batch.

    The places are lined up prompt by prompt and each is paired with the one that lies as many places on as the
    commonest prompt has. No pair then shares a prompt, unless one prompt fills more than half of the batch; if one
    fills it whole, no completion is at least paired with itself.
    """
    groups: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(place)
    line = [place for group in sorted(groups.values(), key=len, reverse=True) for place in group]
    shift = max(map(len, groups.values())) % len(line) or 1
    partner = [0] * len(line)
    for at, place in enumerate(line):
        partner[place] = line[(at + shift) % len(line)]
    return partner
