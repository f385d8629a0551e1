"""Where a run computes and in which number format: the keys of `conf/trainer`."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from kto_lab.errors import LabError
from kto_lab.gpus import Machine
from kto_lab.kinds import AtLeastOne
from kto_lab.training.devices import Answer, Choice, ask, choose
from kto_lab.values import check_fields

# torch and Lightning are imported where they are needed: they take seconds, and a mistyped value should show before.
if TYPE_CHECKING:
    import torch

# Variables that the launcher of a run on several nodes sets: srun, torchrun, or whoever starts a process on each.
LAUNCHED = ("SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "NODE_RANK")
# How much memory cuBLAS keeps for itself, and the values with which its results repeat.
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
REPEATING = (":4096:8", ":16:8")


@dataclass(frozen=True)
class Hardware:
    """The machine as Lightning's Trainer sees it.

    Attributes:
        accelerator: "auto" (a GPU where there is one; one that cannot be used is an error), "cpu" or "gpu".
        devices: processes per node, with one device each.
        num_nodes: nodes.
        strategy: how processes share the work: "ddp" (each has the whole policy), "fsdp" (each has a shard of it), or
            "auto" (ddp, where there are several).
        precision: "auto" (bf16-mixed on a GPU made for bfloat16, else 32-true), "32-true", or "bf16-mixed": float32
            weights, matrix products in bfloat16.
        deterministic: refuse operations whose result can differ from run to run (on a GPU, at some cost).
        compile: compile the policy's blocks with torch.compile for the training; see `compiling.py`.
        timeout_min: minutes that a process waits for the others, at the start and in a step, before the run fails.
    """

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: AtLeastOne
    num_nodes: AtLeastOne
    strategy: Literal["auto", "ddp", "fsdp"]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    deterministic: bool
    compile: bool
    timeout_min: AtLeastOne = 30

    def __post_init__(self) -> None:
        """Refuse what this machine, or the lab, cannot do."""
        check_fields(self, "trainer")
        if self.strategy == "fsdp" and self.processes == 1:
            raise LabError(
                "trainer.strategy is 'fsdp', which gives each process a shard of the policy, but there is one process. "
                "Set trainer.devices to 2 or more, or use trainer=auto."
            )
        if self.num_nodes > 1 and not any(name in os.environ for name in LAUNCHED):
            raise LabError(
                f"trainer.num_nodes is {self.num_nodes}, and nothing has started processes on other nodes: this one "
                "would wait for them for ever. Start it with srun inside a Slurm job, with torchrun on every node, or "
                "set MASTER_ADDR and NODE_RANK on each; see docs/clusters.md."
            )
        if self.compile and self.strategy == "fsdp":
            raise LabError(
                "trainer.compile needs a whole policy, and fsdp gives each process a shard of it. Use trainer=ddp, or "
                "trainer.compile=false."
            )
        if self.deterministic and self.accelerator != "cpu":
            # Ahead of the first question to torch.
            _fix_workspace()
        if self.chosen.refusal:
            raise LabError(self.chosen.refusal)
        if self.chosen.device == "cpu":
            return
        if self.devices > self._answer.gpus:
            raise LabError(
                f"trainer.devices is {self.devices}, but the number of visible CUDA devices is {self._answer.gpus}. "
                "Lower it, or use trainer.accelerator=cpu."
            )
        if self.precision == "bf16-mixed" and not self._answer.bfloat16:
            raise LabError(
                "trainer.precision is 'bf16-mixed', but this GPU is older than Ampere (compute capability 8.0), and "
                "only emulates products in bfloat16. Use trainer.precision=32-true."
            )

    @cached_property
    def _answer(self) -> Answer:
        return ask(self.devices)

    @cached_property
    def chosen(self) -> Choice:
        """Where the run computes, decided once."""
        # Without an import of torch where it has no say.
        return Choice("cpu") if self.accelerator == "cpu" else choose(self.accelerator, Machine.here(), self._answer)

    @property
    def processes(self) -> int:
        """Processes of a run, over all nodes."""
        return self.devices * self.num_nodes

    @property
    def device(self) -> "torch.device":
        """The device of this process for what runs outside of training: its own among the GPUs of its node."""
        import torch
        from lightning.pytorch.utilities import rank_zero_only

        if self.chosen.device == "cpu":
            return torch.device("cpu")
        # None before Lightning knows of other processes.
        rank = getattr(rank_zero_only, "rank", None) or 0
        return torch.device("cuda", rank % self.devices)

    @property
    def number_format(self) -> Literal["32-true", "bf16-mixed"]:
        """The precision with "auto" resolved."""
        if self.precision == "auto":
            return "bf16-mixed" if self.chosen.device == "cuda" and self._answer.bfloat16 else "32-true"
        return self.precision

    @property
    def said(self) -> str:
        """The device and the number format for a person, with what is not as they may expect."""
        remarks = [self.chosen.remark] if self.chosen.remark else []
        if self.chosen.device == "cuda" and not self._answer.bfloat16:
            remarks.append("the GPU only emulates products in bfloat16")
        return f"{self.device}, {self.number_format}" + (f" ({'; '.join(remarks)})" if remarks else "")

    def autocast(self) -> AbstractContextManager[object]:
        """The number format of training, for what runs outside it: policy and reference must see the same numerics."""
        if self.number_format == "32-true":
            return nullcontext()
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def _fix_workspace() -> None:
    """Have cuBLAS repeat its results. CUDA's libraries read the variable once, with the first product.

    Raises:
        LabError: this process has used CUDA without it.
    """
    if os.environ.get(WORKSPACE) in REPEATING:
        return
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise LabError(
            f"trainer.deterministic is true, but this process has used the GPU before, without {WORKSPACE}: products "
            f"would not repeat. Start the command with {WORKSPACE}={REPEATING[0]} in its environment."
        )
    os.environ[WORKSPACE] = REPEATING[0]
