"""The reference's log-probabilities, computed once before the first step.

They depend on nothing that training changes, so they are made in large batches of similar length, and the reference is
then not needed in memory. Before its first step the policy is the reference (an adapter starts as the identity), so no
second model is loaded either.
"""

import lightning.pytorch as pl
import torch

from kto_lab import console
from kto_lab.losses.reference_points import Completions
from kto_lab.models.adapters import moved
from kto_lab.models.logps import score
from kto_lab.training.data import TrainingData, fill_reference, reference_sequences
from kto_lab.training.hardware import Hardware
from kto_lab.training.module import AlignmentModule
from kto_lab.training.reference_point import PolicySamples


class ReferencePass(pl.Callback):
    """Fills in `TrainingData.reference` while the policy still has its first weights.

    Lightning calls `setup` when the processes can talk to one another and before a checkpoint is restored: on a resumed
    run, too, the policy still is the reference then. Each process scores its share.
    """

    def __init__(self, data: TrainingData, hardware: Hardware) -> None:
        """Fill in `data`, in the precision of `hardware`."""
        self.data = data
        self.hardware = hardware

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Score every completion and mismatched pair of the run under the reference.

        Losses without a reference get it all the same, so that their implicit rewards can be compared.
        """
        assert isinstance(pl_module, AlignmentModule)
        sequences = reference_sequences(self.data)
        mine = sequences[trainer.global_rank :: trainer.world_size]
        policy = moved(pl_module.policy, trainer.strategy.root_device)
        if pl_module.objective.compared_to is Completions.SAMPLED:
            pl_module.samples = PolicySamples(
                policy,
                pad_id=pl_module.pad_id,
                stop_ids=self.data.stop_ids,
                token_budget=pl_module.optimization.micro_batch_tokens,
                seed=pl_module.seed,
            )
        with console.progress("reference", len(mine)) as advance, self.hardware.autocast():
            found = score(
                policy,
                mine,
                pad_id=pl_module.pad_id,
                token_budget=pl_module.optimization.micro_batch_tokens,
                share_prompts=pl_module.share_prompts,
                advance=advance,
            )
        logps = torch.zeros(len(sequences), device=trainer.strategy.root_device)
        logps[trainer.global_rank :: trainer.world_size] = found.to(logps.device)
        if trainer.world_size > 1:
            logps = trainer.strategy.reduce(logps, reduce_op="sum")
        fill_reference(self.data, dict(zip(sequences, logps.tolist(), strict=True)))
