"""Training by Lightning: the trainer, its callbacks, checkpoints and resume."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import ModelParallelStrategy

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.losses import Objective
from kto_lab.losses.reference_points import Completions
from kto_lab.models.adapters import FullFineTuning, Lora, Policy
from kto_lab.models.logps import packs_rows
from kto_lab.models.reference import ReferencePolicy
from kto_lab.training.autocast import precision_plugin
from kto_lab.training.callbacks import METRICS, StepMetrics, TrainingProgress
from kto_lab.training.checkpoints import AtomicFiles, LastCheckpoint, StoppedCheckpoint, last_checkpoint
from kto_lab.training.clipping import Clipping, factors
from kto_lab.training.compiling import compiled
from kto_lab.training.data import TrainingData, class_weights
from kto_lab.training.dropout import set_dropout
from kto_lab.training.hardware import Hardware
from kto_lab.training.joining import quiet_lightning
from kto_lab.training.module import AlignmentModule
from kto_lab.training.optimization import Optimization
from kto_lab.training.recomputing import recomputed
from kto_lab.training.reference import ReferencePass
from kto_lab.training.steps import AlignmentData
from kto_lab.training.stopping import StopWhenAsked, slurm
from kto_lab.training.update_rule import UpdateRule

if TYPE_CHECKING:
    from kto_lab.models.store import LogpCache

CHECKPOINTS = "checkpoints"


def check_feasible(
    objective: Objective,
    optimization: Optimization,
    hardware: Hardware,
    adapter: FullFineTuning | Lora,
    *,
    attention: str | None,
) -> None:
    """LabError where what was chosen does not go together.

    Args:
        objective: what is minimised.
        optimization: how.
        hardware: where, and in which number format.
        adapter: what is trained.
        attention: implementation that the model is to have; None where it is not chosen.
    """
    processes = hardware.processes
    if optimization.dropout or adapter.dropout:
        asked = "optimization.dropout" if optimization.dropout else "adapter.dropout"
        if hardware.compile:
            raise LabError(f"{asked} is on, and compiled blocks would draw other masks. Use trainer.compile=false.")
        if optimization.batch_size % processes:
            raise LabError(
                f"{asked} is on, so each example is run by itself, and {processes} processes cannot share "
                f"{optimization.batch_size} evenly. Make optimization.batch_size a multiple of {processes}."
            )
    if hardware.number_format == "32-true" and attention == "flash_attention_2":
        raise LabError(
            "model.attention=flash_attention_2 computes in 16 bits, and trainer.precision is 32-true here. Use "
            "trainer.precision=bf16-mixed, or model.attention=sdpa."
        )
    if hardware.strategy == "fsdp" and objective.compared_to is Completions.SAMPLED:
        raise LabError(
            "reference_point=sampled generates from the policy in every step, where fsdp has it in shards. Use "
            "trainer=ddp, or another reference_point@loss.reference_point."
        )


def fit(
    policy: Policy,
    data: TrainingData,
    objective: Objective,
    optimization: Optimization,
    update_rule: UpdateRule,
    reference: ReferencePolicy | None,
    hardware: Hardware,
    *,
    folder: Path,
    loggers: list[Logger],
    share_prompts: bool,
    seed: int,
    logp_cache: "LogpCache | None" = None,
) -> dict[str, Any]:
    """Train the policy in place, from the last checkpoint in `folder` where there is one.

    Args:
        policy: with its first weights; in shards under fsdp.
        data: the plan and its tokens; the reference's log-probabilities are filled in first.
        objective: what is minimised.
        optimization: how.
        update_rule: makes the optimiser and its schedule.
        reference: of the policy; None for a loss without one, whose implicit rewards are then not measured.
        hardware: where.
        folder: the run folder; checkpoints go into it.
        loggers: Lightning's.
        share_prompts: completions of one prompt share its row.
        seed: of dropout, where there is any.
        logp_cache: the reference's log-probabilities that are known, and where new ones are kept; None for neither.

    Returns:
        What a record says of it: `reference`, see `ReferenceUse`, `compile`, see `Compilation`, on the first process
        `clipping`, see `Clipping`, and with several processes `balance`, see `AlignmentData.balance`.

    Raises:
        LabError: the loss or the gradient is not finite, or the disk refuses; the last good state is kept as a
            checkpoint where it can be.
    """
    narration.stage("Training", "The reference's log-probs are known ahead of all steps; then one step per batch.")
    module = AlignmentModule(
        policy,
        objective,
        optimization,
        update_rule,
        weights=class_weights(objective, data),
        steps=len(data.plan.steps),
        pad_id=data.pad_id,
        share_prompts=share_prompts,
        seed=seed,
        has_reference=reference is not None,
    )
    set_dropout(policy, own=optimization.dropout)
    samples = objective.compared_to is Completions.SAMPLED
    with (
        quiet_lightning(),
        compiled(policy, hardware, share_prompts=share_prompts, samples=samples) as compilation,
        recomputed(policy, optimization.gradient_checkpointing),
    ):
        reference_pass = ReferencePass(data, reference, hardware, logp_cache)
        trainer = _trainer(hardware, _callbacks(reference_pass, optimization, folder), folder, loggers)
        steps = AlignmentData(
            data,
            objective,
            optimization,
            share_prompts=share_prompts,
            packed=packs_rows(policy),
            apart=module.drops_out,
        )
        trainer.fit(module, steps, ckpt_path=last_checkpoint(folder / CHECKPOINTS), weights_only=True)
    found: dict[str, Any] = {"reference": reference_pass.use.as_dict(), "compile": compilation.as_dict()}
    if trainer.world_size > 1:
        balance = steps.balance(trainer.world_size)
        found["balance"] = {"processes": trainer.world_size, "slowest_over_mean": round(balance, 4)}
        narration.say(f"    {trainer.world_size} processes; the slowest has {balance:.2f} times the tokens of the mean")
    if trainer.is_global_zero:
        clipping = Clipping.of(factors(folder / METRICS))
        narration.say(f"    {clipping.said()}")
        found["clipping"] = clipping.as_dict()
    return found


def _callbacks(reference_pass: ReferencePass, optimization: Optimization, folder: Path) -> list[pl.Callback]:
    """The callbacks of a run, in the order in which they are called."""
    checkpoints = folder / CHECKPOINTS
    return [
        reference_pass,
        StepMetrics(folder),
        TrainingProgress(),
        StopWhenAsked(checkpoints / "stopped.ckpt"),
        LastCheckpoint(checkpoints, filename="{step}", every_n_train_steps=optimization.checkpoint_every),
        StoppedCheckpoint(checkpoints, filename="stopped"),
    ]


def _trainer(hardware: Hardware, callbacks: list[pl.Callback], folder: Path, loggers: list[Logger]) -> pl.Trainer:
    """Lightning's trainer: one epoch over the planned steps."""
    strategy: str | ModelParallelStrategy = hardware.strategy
    if strategy == "fsdp":
        # FSDP2; what Lightning calls "fsdp" is the first, for GPUs alone. A checkpoint is one file, as it is anywhere
        # else, so that a run can go on under another strategy.
        strategy = ModelParallelStrategy(hardware.processes, tensor_parallel_size=1, save_distributed_checkpoint=False)
    return pl.Trainer(
        accelerator="gpu" if hardware.device.type == "cuda" else "cpu",
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy=strategy,
        deterministic=hardware.deterministic,
        max_epochs=1,
        logger=loggers,
        callbacks=callbacks,
        plugins=[AtomicFiles(), precision_plugin(hardware), *slurm()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
