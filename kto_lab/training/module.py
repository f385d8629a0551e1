"""The Lightning module: one optimiser step is one batch, however it is cut.

A step first makes its reference point, without gradient, from completions of the whole step, over all micro-batches and
processes (see `reference_point.py`); then it runs the micro-batches with gradient, each contributing the sum of its
losses divided by what the whole step is the mean over. So the gradient is the same, to rounding, for every micro-batch
size and every number of processes.

A step that is one micro-batch is run ahead instead (`RunAhead`): its forward pass comes first, and the mismatched
completions go on from the keys and values that it computed for their prompts.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kto_lab.errors import LabError
from kto_lab.losses import Feed, Objective, Pairs, Thumbs
from kto_lab.losses.reference_points import Completions, ReferencePoint, State
from kto_lab.losses.weighting import Weights
from kto_lab.models.adapters import Policy
from kto_lab.models.logps import KeptPrompts, TokenLogps, completion_token_logps, continuation_logps
from kto_lab.models.placing import placed
from kto_lab.training.dropout import dropout_rates, mask_seed
from kto_lab.training.optimization import Optimization
from kto_lab.training.reference_point import PolicySamples, estimate
from kto_lab.training.steps import MicroBatch, Step
from kto_lab.training.update_rule import UpdateRule

SATURATED = 0.05


class NotFiniteError(LabError):
    """The loss or the gradient of a step is not finite. Every process of a run raises it at the same step."""


@dataclass(frozen=True)
class RunAhead:
    """The forward pass of a step that is one micro-batch, before its reference point is known.

    Attributes:
        logps: of its completions, with their graph.
        prompts: what the mismatched completions go on from.
    """

    logps: TokenLogps
    prompts: KeptPrompts


class AlignmentModule(pl.LightningModule):
    """A policy that is aligned with an objective; the reference comes as log-probabilities in each step."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        optimization: Optimization,
        update_rule: UpdateRule,
        *,
        weights: Weights,
        steps: int,
        pad_id: int,
        share_prompts: bool,
        seed: int,
        has_reference: bool = True,
    ) -> None:
        """Wrap a policy.

        Args:
            policy: a causal language model, or a peft model around one.
            objective: what is minimised.
            optimization: how.
            update_rule: makes the optimiser and its schedule.
            weights: lambda_D and lambda_U for the counts that are trained on.
            steps: optimiser steps of the whole run, for the schedule.
            pad_id: any valid token id.
            share_prompts: completions of one prompt share its row.
            seed: of dropout, where there is any.
            has_reference: whether there is a reference, so that implicit rewards can be reported.
        """
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.objective = objective
        self.optimization = optimization
        self.update_rule = update_rule
        self.weights = weights
        self.steps = steps
        self.pad_id = pad_id
        self.share_prompts = share_prompts
        self.seed = seed
        self.has_reference = has_reference
        self.drops_out = bool(dropout_rates(policy, own=optimization.dropout))
        self.reference_point_state: State = ()
        # A checkpoint lacks what is frozen; `on_load_checkpoint` sees that it lacks nothing else.
        self.strict_loading = all(parameter.requires_grad for parameter in policy.parameters())
        self.samples: PolicySamples | None = None

    def configure_model(self) -> None:
        """Leave the policy as it is: under fsdp it comes in shards. Lightning's strategy asks for this method."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser over what is trainable, and its schedule."""
        trainable = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        optimizer, schedule = self.update_rule.make(trainable, steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Step, device: torch.device, dataloader_idx: int) -> Step:
        """All tensors of the micro-batches at once; token ids are on the host until their micro-batch is laid out."""
        return batch.to(device)

    def training_step(self, batch: Step, batch_idx: int) -> dict[str, float]:
        """One optimiser step; see the module's docstring.

        Returns:
            The step's metrics, which the callbacks write.

        Raises:
            NotFiniteError: the loss or the gradient is not finite. The policy is left as it was before the step.
        """
        optimizer = self.optimizers()
        assert isinstance(optimizer, pl.core.optimizer.LightningOptimizer)
        ahead = self.run_ahead(batch)
        point = self.reference_point(batch, ahead)
        tally = Tally(has_reference=self.has_reference, device=self.device)
        last = len(batch.micro_batches) - 1
        for number, micro_batch in enumerate(batch.micro_batches):
            if self.drops_out:
                torch.manual_seed(mask_seed(self.seed, batch.number, micro_batch.places[0]))
            logps = ahead.logps if ahead else self.token_logps(micro_batch)
            z0 = placed(point.z0[micro_batch.places] if point.z0.ndim else point.z0, self.device)
            loss = self.losses(logps, micro_batch, z0).sum() / batch.normaliser
            tally.add(
                loss, self.objective.reward_beta, self.in_logratios(z0, micro_batch), logps.sums.detach(), micro_batch
            )
            # DDP averages over processes what is a sum, and needs to talk only once per step.
            with nullcontext() if number == last else self._without_sync():
                self.manual_backward(loss * self.trainer.world_size)
        norms, most = self._clip_gradient(batch)
        # All that the host has to know of the step, read at once.
        *sums, norm = torch.cat([self._sum_over_processes(tally.sums), norms]).tolist()
        metrics = tally.means(sums)
        # Both are of all processes, so that all of them stop here or none.
        self._require_finite({"loss": metrics["loss"], "gradient norm": norm}, batch)
        rate = float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
        schedule.step()
        if self.objective.needs.reference_point:
            self.reference_point_state = point.state
            metrics |= {
                "z0_raw": point.raw,
                "z0": point.z0.mean().item(),
                "z0_stderr": point.stderr,
                "z0_clamped": point.clamped,
            }
        metrics |= {
            "grad_norm": norm,
            "clip_factor": most / norm if norm > most else 1.0,
            "learning_rate": rate,
            "tokens": float(batch.tokens),
            "padding": batch.padding,
            "examples": float(batch.units * (2 if self.objective.needs.feed is Feed.PAIRS else 1)),
        }
        return {f"train/{name}": value for name, value in metrics.items()}

    def _require_finite(self, values: Mapping[str, float], batch: Step) -> None:
        """NotFiniteError where one of a step's numbers is not finite."""
        for what, value in values.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"The {what} is {value} at step {batch.number + 1}. Training stopped before the policy was changed "
                    "by it. Lower optimization.learning_rate, or look at the data of this step."
                    + (
                        " trainer.precision=32-true shows whether the number format has a part in it."
                        if self.trainer.precision == "bf16-mixed"
                        else ""
                    )
                )

    def token_logps(self, micro_batch: MicroBatch, keep: KeptPrompts | None = None) -> TokenLogps:
        """log pi of each completion token of a micro-batch; `keep` as in `completion_token_logps`."""
        return completion_token_logps(
            self.policy, micro_batch.units, pad_id=self.pad_id, share_prompts=self.share_prompts, keep=keep
        )

    def run_ahead(self, batch: Step) -> RunAhead | None:
        """The forward pass of a step that can be run before its reference point is known, and gains by it."""
        estimator = self.objective.reference_point
        if estimator is None or estimator.completions not in (Completions.MATCHED, Completions.MISMATCHED):
            return None
        # The reference point is of the policy without dropout; and shards are gathered for one forward pass at a time.
        if not batch.at_once or self.drops_out or self.device_mesh is not None:
            return None
        keep = KeptPrompts()
        return RunAhead(self.token_logps(batch.micro_batches[0], keep), keep)

    def losses(self, logps: TokenLogps, micro_batch: MicroBatch, z0: Tensor) -> Tensor:
        """(units,) losses of a micro-batch.

        Args:
            logps: of its completions under the policy.
            micro_batch: what they are of.
            z0: (units,) or scalar.
        """
        sums = logps.sums
        reference, reference_tokens, lengths = micro_batch.reference, micro_batch.reference_tokens, logps.counts
        if self.objective.needs.feed is Feed.PAIRS:
            chosen, rejected = _of_pairs(logps.values, logps.lengths)
            reference_chosen, reference_rejected = _of_pairs(reference_tokens, logps.lengths)
            return self.objective.losses(
                Pairs(
                    policy_chosen=sums[0::2],
                    policy_rejected=sums[1::2],
                    reference_chosen=reference[0::2],
                    reference_rejected=reference[1::2],
                    lengths_chosen=lengths[0::2],
                    lengths_rejected=lengths[1::2],
                    token_logps_chosen=chosen,
                    token_logps_rejected=rejected,
                    reference_token_logps_chosen=reference_chosen,
                    reference_token_logps_rejected=reference_rejected,
                )
            )
        return self.objective.losses(
            Thumbs(
                policy=sums,
                reference=reference,
                desirable=micro_batch.desirable,
                lambda_desirable=self.weights.desirable,
                lambda_undesirable=self.weights.undesirable,
                z0=z0,
                token_logps=logps.values,
                lengths=lengths,
                reference_token_logps=reference_tokens,
            )
        )

    def reference_point(self, batch: Step, ahead: RunAhead | None = None) -> ReferencePoint:
        """z0 of a step, the same on every process, on the CPU; from what was run ahead, if anything was."""
        estimator = self.objective.reference_point
        if estimator is None:
            return ReferencePoint(z0=torch.zeros(()))

        def logps(micro_batch: MicroBatch) -> Tensor:
            if ahead is None:
                return self.token_logps(micro_batch).sums
            if estimator.completions is Completions.MATCHED:
                # Not `ahead.logps.sums`: without gradient here, it would be kept without a graph.
                return TokenLogps(ahead.logps.values.detach(), ahead.logps.lengths).sums
            completions = [sequence.completion for unit in micro_batch.units for sequence in unit]
            return continuation_logps(self.policy, ahead.prompts, completions)

        return estimate(
            estimator,
            batch,
            self.reference_point_state,
            policy=self.policy,
            logps=logps,
            uses_reference=self.objective.needs.reference,
            samples=self.samples,
            sum_over_processes=self._sum_over_processes,
            device=self.device,
        )

    def in_logratios(self, z0: Tensor, micro_batch: MicroBatch) -> Tensor:
        """z0 of a micro-batch as a log-ratio, also where the loss has no reference and z0 is of log pi(y|x)."""
        needs = self.objective.needs
        log_pi = needs.reference_point and not needs.reference
        return z0 - micro_batch.reference if log_pi else z0

    def state_dict(self, *arguments: Any, **named: Any) -> dict[str, Any]:  # type: ignore[override]
        """What a checkpoint holds of the module: what is frozen is left out, for a resumed run loads it with the model.

        Under fsdp it is this module's shards, which the strategy gathers.
        """
        found: dict[str, Any] = super().state_dict(*arguments, **named)
        for name, parameter in self.named_parameters(remove_duplicate=False):
            if not parameter.requires_grad:
                del found[name]
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put what the reference point remembers into the checkpoint, and the names of what is trained."""
        checkpoint["reference_point_state"] = list(self.reference_point_state)
        checkpoint["trained"] = self._trained()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what the reference point remembers.

        Raises:
            LabError: the checkpoint is of a policy of which other weights were trained.
        """
        if differing := sorted(set(self._trained()) ^ set(checkpoint["trained"])):
            raise LabError(
                f"The checkpoint holds other trained weights than this policy has: {len(differing)} of them, such as "
                f"{differing[0]}. Resume with the model and the adapter that the run began with, or choose another "
                "run_dir."
            )
        self.reference_point_state = tuple(checkpoint["reference_point_state"])

    def _trained(self) -> list[str]:
        return [name for name, parameter in self.policy.named_parameters() if parameter.requires_grad]

    def _clip_gradient(self, batch: Step) -> tuple[Tensor, float]:
        """Clip the gradient to its largest global norm: over all shards, if any.

        Returns:
            (1,) the norm that it had, and the largest.
        """
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        up = int(batch.desirable.sum())
        most = self.optimization.clip_norm * self.weights.scale(up, batch.units - up)
        nn.utils.clip_grads_with_norm_(parameters, most, whole)
        return whole[None], most

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum") if self.trainer.world_size > 1 else values

    def _without_sync(self) -> Any:
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        return block() if block is not None and self.trainer.world_size > 1 else nullcontext()


def _of_pairs(values: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """(T,) and (T',) values of the tokens of chosen and of rejected completions, which alternate; empty for none."""
    if not len(values):
        return values, values
    parts = values.split(lengths)
    return torch.cat(parts[0::2]), torch.cat(parts[1::2])


class Tally:
    """Sums over a step's micro-batches, turned into means once at its end."""

    def __init__(self, *, has_reference: bool, device: torch.device) -> None:
        """All sums start at zero; without a reference there are no implicit rewards."""
        self.has_reference = has_reference
        self.sums = torch.zeros(6, device=device)

    def add(self, loss: Tensor, beta: float, z0: Tensor, logps: Tensor, micro_batch: MicroBatch) -> None:
        """Add a micro-batch: its share of the loss, its rewards by class, and how many of its values are saturated."""
        desirable = micro_batch.desirable
        logratio = logps - micro_batch.reference
        reward = beta * logratio
        felt = torch.sigmoid(beta * (logratio - z0))
        # v' is at most 1/4; below 5 % of that an example no longer moves the policy.
        saturated = felt * (1 - felt) < SATURATED / 4
        values = torch.stack(
            [
                loss.detach(),
                (reward * desirable).sum(),
                (reward * ~desirable).sum(),
                desirable.sum(),
                (~desirable).sum(),
                saturated.sum(),
            ]
        )
        self.sums = self.sums + values

    def means(self, sums: Sequence[float]) -> dict[str, float]:
        """The step's metrics; a class that the step has no example of is left out.

        Args:
            sums: `sums` over all processes.
        """
        loss, up, down, n_up, n_down, saturated = sums
        metrics = {"loss": loss, "saturated": saturated / (n_up + n_down)}
        if not self.has_reference:
            return metrics
        if n_up:
            metrics["reward_desirable"] = up / n_up
        if n_down:
            metrics["reward_undesirable"] = down / n_down
        if n_up and n_down:
            metrics["reward_margin"] = up / n_up - down / n_down
        return metrics
