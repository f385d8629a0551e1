"""Reference points z0: what gains and losses are measured from.

A reference point is made before the step's backward pass, from log-ratios r = log pi - log pi_ref of all of the step's
examples over all processes, and gets no gradient. What differs is which completions r is taken of, over how many of
them it is averaged, and what is remembered from step to step.

An estimator says what it needs (`completions`, `group`) and maps `Evidence` and its own state to a `ReferencePoint`,
purely: the state that comes out is what the next step passes in, and what a checkpoint holds.
"""

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from kto_lab.errors import LabError

State = tuple[float, ...]


class Completions(Enum):
    """Which completions a reference point is estimated from."""

    MISMATCHED = "mismatched"
    MATCHED = "matched"
    SAMPLED = "sampled"
    NONE = "none"


@dataclass(frozen=True)
class Evidence:
    """What a reference point is estimated from; on the CPU.

    Attributes:
        logratios: (n,) r of the step's completions, in nats and in the order of the step's units.
        desirable: (n,) bool, the thumbs of matched completions; for others without meaning.
    """

    logratios: Tensor
    desirable: Tensor


@dataclass(frozen=True)
class ReferencePoint:
    """An estimate, in nats of log-ratio.

    Attributes:
        z0: (n,) what the loss of each unit uses, or a scalar for all of them.
        raw: before clamping at zero; the mean where the step has several.
        stderr: standard error of one raw value; 0 where it is no estimate, or from one log-ratio.
        clamped: share of the step's raw values that were negative and became 0.
        state: what the next step's estimate takes.
    """

    z0: Tensor
    raw: float = 0.0
    stderr: float = 0.0
    clamped: float = 0.0
    state: State = ()


class _OneForTheStep:
    """What estimators share that take one mean over all the log-ratios they get."""

    clamp: bool
    group = None

    def estimate(self, evidence: Evidence, state: State = ()) -> ReferencePoint:
        """One reference point for the step."""
        return _of_groups(evidence.logratios, len(evidence.logratios), clamp=self.clamp)


@dataclass(frozen=True)
class Batch(_OneForTheStep):
    """z0 = max(0, mean of r over the step's mismatched pairs (x, y')).

    An estimate of KL(pi || pi_ref), clamped since a KL divergence is not negative (Ethayarajh et al. 2024, arXiv
    2402.01306, section 4.1). Over the whole step and all processes; TRL and HALOs take a micro-batch.

    Attributes:
        clamp: at 0.
    """

    clamp: bool = True
    completions = Completions.MISMATCHED


@dataclass(frozen=True)
class Microbatch:
    """z0 of each group of `size` units = max(0, mean of r over the group's mismatched pairs).

    What TRL and HALOs compute, with `size` equal to their micro-batch times the number of processes, since both average
    over processes. Pairs are drawn within the group. The noise of z0 is that of `size` log-ratios, and clamping each
    group makes the average z0 larger than the clamped average (Jensen).

    Attributes:
        size: units that share a reference point; divides the batch size.
        clamp: at 0.
    """

    size: int
    clamp: bool = True
    completions = Completions.MISMATCHED

    def __post_init__(self) -> None:
        """Refuse a group without a mismatched pair."""
        _check_size(self.size)

    @property
    def group(self) -> int:
        """Units that share a reference point."""
        return self.size

    def estimate(self, evidence: Evidence, state: State = ()) -> ReferencePoint:
        """One reference point for each group of the step."""
        return _of_groups(evidence.logratios, self.size, clamp=self.clamp)


@dataclass(frozen=True)
class Legacy:
    """z0 of each group of `size` units = max(0, mean of r over the group's mismatched pairs) / `world_size`.

    What the published code computed from January to August 2024: the all-reduced sum was discarded, and the mean of
    one process was divided by the number of processes. Its models were trained on 8 processes of micro-batches of 4.

    Attributes:
        size: units of a micro-batch on one process; divides the batch size.
        world_size: what the mean was divided by.
        clamp: at 0.
    """

    size: int
    world_size: int
    clamp: bool = True
    completions = Completions.MISMATCHED

    def __post_init__(self) -> None:
        """Refuse a group without a mismatched pair, and no process."""
        _check_size(self.size)
        if self.world_size < 1:
            raise LabError(f"loss.reference_point.world_size is {self.world_size}; it must be at least 1.")

    @property
    def group(self) -> int:
        """Units that share a reference point."""
        return self.size

    def estimate(self, evidence: Evidence, state: State = ()) -> ReferencePoint:
        """One reference point for each group of the step."""
        return _of_groups(evidence.logratios / self.world_size, self.size, clamp=self.clamp)


@dataclass(frozen=True)
class Matched(_OneForTheStep):
    """z0 = mean of r over the step's own completions (x, y).

    Gains and losses are relative to the average of the batch, and mismatched pairs are not needed. It is not an
    estimate of a KL divergence, since y is not sampled from the policy; it may be negative and is not clamped by
    default.

    Attributes:
        clamp: at 0.
    """

    clamp: bool = False
    completions = Completions.MATCHED


@dataclass(frozen=True)
class RunningMean:
    """z0 = running mean of r over the completions of this step and of those before.

    The reward shift of BCO, in nats (delta = beta z0): Jung et al. 2024, arXiv 2404.04656, as TRL computes it (the mean
    over both classes, of all examples so far). Not clamped by default. Its state is in every checkpoint.

    Attributes:
        decay: factor on the weight of all earlier steps, per step; 1 weighs all steps alike.
        by_class: average the two classes' means rather than all examples, so that class sizes do not matter.
        clamp: at 0.
    """

    decay: float = 1.0
    by_class: bool = False
    clamp: bool = False
    completions = Completions.MATCHED
    group = None

    def __post_init__(self) -> None:
        """Refuse a decay that is none."""
        if not 0 < self.decay <= 1:
            raise LabError(f"loss.reference_point.decay is {self.decay}; it must be above 0 and at most 1.")

    def estimate(self, evidence: Evidence, state: State = ()) -> ReferencePoint:
        """One reference point for the step.

        The state is (sum of weights, sum of their squares, mean) of the desirable, then of the undesirable. The
        standard error takes log-ratios as independent and of this step's spread.
        """
        before = state or (0.0,) * 6
        r, up = evidence.logratios.double(), evidence.desirable
        classes = [self._further(before[:3], r[up]), self._further(before[3:], r[~up])]
        seen = [(weight, squares, mean) for weight, squares, mean in classes if weight]
        # What each class has in the whole: halves, or by its size.
        total = sum(weight for weight, _, _ in seen)
        shares = [1 / len(seen) if self.by_class else weight / total for weight, _, _ in seen]
        raw = sum(share * mean for share, (_, _, mean) in zip(shares, seen, strict=True))
        spread = sum(share**2 * squares / weight**2 for share, (weight, squares, _) in zip(shares, seen, strict=True))
        return ReferencePoint(
            z0=evidence.logratios.new_tensor(max(raw, 0.0) if self.clamp else raw),
            raw=raw,
            stderr=r.std().item() * math.sqrt(spread) if len(r) > 1 else 0.0,
            clamped=float(self.clamp and raw < 0),
            state=(*classes[0], *classes[1]),
        )

    def _further(self, before: State, new: Tensor) -> State:
        """Sum of weights, sum of their squares, and mean of a class, with new log-ratios of weight 1."""
        weight, squares, mean = before
        now = self.decay * weight + len(new)
        sums = self.decay * weight * mean + new.sum().item()
        return now, self.decay**2 * squares + len(new), sums / now if now else 0.0


@dataclass(frozen=True)
class Sampled(_OneForTheStep):
    """z0 = max(0, mean of r over completions sampled from the current policy at temperature 1).

    The definition itself, KL(pi(.|x) || pi_ref(.|x)) over the step's prompts, by Monte Carlo. Sampling costs far more
    than scoring and the reference stays in memory: for small models. An answer is cut at `max_new_tokens`, which makes
    it the KL divergence over that many first tokens, at most that of whole answers (chain rule).

    Attributes:
        samples: completions per step, one for each prompt of the step (prompts repeat where it has fewer).
        max_new_tokens: where an answer is cut.
        clamp: at 0.
    """

    samples: int
    max_new_tokens: int
    clamp: bool = True
    completions = Completions.SAMPLED

    def __post_init__(self) -> None:
        """Refuse to estimate from nothing."""
        if self.samples < 1 or self.max_new_tokens < 1:
            raise LabError("loss.reference_point: samples and max_new_tokens must be at least 1.")


@dataclass(frozen=True)
class Zero:
    """z0 = 0: no second forward pass; suits a reference that was fine-tuned on the same desirable data."""

    completions = Completions.NONE
    group = None

    def estimate(self, evidence: Evidence, state: State = ()) -> ReferencePoint:
        """Zero, whatever is given."""
        return ReferencePoint(z0=evidence.logratios.new_zeros(()))


def _of_groups(logratios: Tensor, size: int, *, clamp: bool) -> ReferencePoint:
    """The mean of each `size` log-ratios in a row."""
    groups = logratios.reshape(-1, size)
    raw = groups.mean(1)
    z0 = raw.clamp(min=0) if clamp else raw
    errors = groups.std(1) / math.sqrt(size) if size > 1 else torch.zeros_like(raw)
    return ReferencePoint(
        z0=z0.repeat_interleave(size) if len(groups) > 1 else z0[0],
        raw=raw.mean().item(),
        stderr=errors.square().mean().sqrt().item(),
        clamped=(raw < 0).double().mean().item() if clamp else 0.0,
    )


def _check_size(size: int) -> None:
    if size < 2:
        raise LabError(f"loss.reference_point.size is {size}; a mismatched pair needs at least 2 units.")
