"""Training by Lightning: the trainer, its callbacks, checkpoints and resume."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import ModelParallelStrategy

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.losses import Objective
from kto_lab.losses.reference_points import Completions
from kto_lab.models.adapters import Policy
from kto_lab.models.logps import packs_rows
from kto_lab.models.store import Shelf
from kto_lab.training.autocast import precision_plugin
from kto_lab.training.callbacks import StepMetrics, TrainingProgress
from kto_lab.training.checkpoints import AtomicFiles, LastCheckpoint, StoppedCheckpoint, last_checkpoint
from kto_lab.training.compiling import compiled
from kto_lab.training.data import AlignmentData, TrainingData, class_weights
from kto_lab.training.hardware import Hardware
from kto_lab.training.module import AlignmentModule
from kto_lab.training.optimization import Optimization
from kto_lab.training.reference import ReferencePass
from kto_lab.training.sharding import returned
from kto_lab.training.stopping import StopWhenAsked, slurm

CHECKPOINTS = "checkpoints"


def check_strategy(objective: Objective, hardware: Hardware) -> None:
    """LabError where the strategy cannot do what the objective needs."""
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
    hardware: Hardware,
    *,
    folder: Path,
    loggers: list[Logger],
    share_prompts: bool,
    seed: int,
    shelf: Shelf | None = None,
) -> dict[str, Any]:
    """Train the policy in place, from the last checkpoint in `folder` where there is one.

    Under fsdp the trained policy is whole again on the first process only.

    Args:
        policy: starts as the reference.
        data: the plan and its tokens; the reference's log-probabilities are filled in first.
        objective: what is minimised.
        optimization: how.
        hardware: where.
        folder: the run folder; checkpoints go into it.
        loggers: Lightning's.
        share_prompts: completions of one prompt share its row.
        seed: of dropout, where an adapter has it.
        shelf: the reference's log-probabilities that are known, and where new ones are kept; None for neither.

    Returns:
        What a record says of it: `reference`, see `ReferenceUse`, and `compile`, see `Compilation`.

    Raises:
        LabError: the loss or the gradient is not finite, or the disk refuses; the last good state is kept as a
            checkpoint where it can be.
    """
    console.stage("Training", "The reference's log-probs are known ahead of all steps; then one step a batch.")
    module = AlignmentModule(
        policy,
        objective,
        optimization,
        weights=class_weights(objective, data),
        steps=len(data.plan.steps),
        pad_id=data.pad_id,
        share_prompts=share_prompts,
        seed=seed,
    )
    if optimization.gradient_checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # transformers recomputes in train mode alone, and a model is loaded in eval mode.
        policy.train()
    samples = objective.compared_to is Completions.SAMPLED
    with _quiet_lightning(), compiled(policy, hardware, share_prompts=share_prompts, samples=samples) as compilation:
        reference = ReferencePass(data, hardware, shelf)
        trainer = _trainer(hardware, _callbacks(reference, optimization, folder), folder, loggers)
        steps = AlignmentData(data, objective, optimization, share_prompts=share_prompts, packed=packs_rows(policy))
        trainer.fit(module, steps, ckpt_path=last_checkpoint(folder / CHECKPOINTS), weights_only=True)
    if hardware.strategy == "fsdp":
        returned(module.policy, policy, first=trainer.is_global_zero)
    return {"reference": reference.use.as_dict(), "compile": compilation.as_dict()}


def _callbacks(reference: ReferencePass, optimization: Optimization, folder: Path) -> list[pl.Callback]:
    """What happens beside the steps, in this order."""
    checkpoints = folder / CHECKPOINTS
    return [
        reference,
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
        processes = hardware.devices * hardware.num_nodes
        strategy = ModelParallelStrategy(processes, tensor_parallel_size=1, save_distributed_checkpoint=False)
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


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's own remarks on hardware and data loaders: the stages say what a person needs."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            yield
    finally:
        logger.setLevel(level)
