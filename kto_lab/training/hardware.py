"""Where a run computes and in which number format: the keys of `conf/trainer`."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kto_lab.errors import LabError

# torch and Lightning are imported where they are needed: they take seconds, and a mistyped value should show before.
if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Hardware:
    """The machine as Lightning's Trainer sees it.

    Attributes:
        accelerator: "auto" (a GPU where there is one), "cpu" or "gpu".
        devices: processes per node, with one device each.
        num_nodes: nodes.
        strategy: how processes share the work: "ddp" (each has the whole policy), "fsdp" (each has a shard of it), or
            "auto" (ddp, where there are several).
        precision: "auto" (bf16-mixed on a GPU, else 32-true), "32-true", or "bf16-mixed": float32 weights, matrix
            products in bfloat16.
        deterministic: refuse operations whose result can differ from run to run (on a GPU, at some cost).
        compile: compile the policy's blocks with torch.compile for the training; see `compiling.py`.
    """

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: int
    num_nodes: int
    strategy: Literal["auto", "ddp", "fsdp"]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    deterministic: bool
    compile: bool

    def __post_init__(self) -> None:
        """Refuse what this machine, or the lab, cannot do."""
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise LabError(f"trainer.accelerator is {self.accelerator!r}; it must be 'auto', 'cpu' or 'gpu'.")
        if self.strategy not in ("auto", "ddp", "fsdp"):
            raise LabError(f"trainer.strategy is {self.strategy!r}; it must be 'auto', 'ddp' or 'fsdp'.")
        if self.precision not in ("auto", "32-true", "bf16-mixed"):
            raise LabError(f"trainer.precision is {self.precision!r}; it must be 'auto', '32-true' or 'bf16-mixed'.")
        if self.devices < 1 or self.num_nodes < 1:
            raise LabError("trainer.devices and trainer.num_nodes must be at least 1.")
        if self.strategy == "fsdp" and self.devices * self.num_nodes == 1:
            raise LabError(
                "trainer.strategy is 'fsdp', which gives each process a shard of the policy, but there is one process. "
                "Set trainer.devices to 2 or more, or use trainer=auto."
            )
        import torch

        if self.compile and self.strategy == "fsdp":
            raise LabError(
                "trainer.compile needs a whole policy, and fsdp gives each process a shard of it. Use trainer=ddp, or "
                "trainer.compile=false."
            )
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise LabError(
                "trainer.accelerator is 'gpu', but no CUDA device is visible. Use trainer=auto or trainer=cpu."
            )
        if self.device.type == "cuda" and self.devices > torch.cuda.device_count():
            raise LabError(
                f"trainer.devices is {self.devices}, but {torch.cuda.device_count()} CUDA devices are visible. "
                "Lower it, or use trainer.accelerator=cpu."
            )

    @property
    def device(self) -> "torch.device":
        """The device of this process for what runs outside of training: its own among the GPUs of its node."""
        import torch
        from lightning.pytorch.utilities import rank_zero_only

        if self.accelerator == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        # None before Lightning knows of other processes.
        rank = getattr(rank_zero_only, "rank", None) or 0
        return torch.device("cuda", rank % self.devices)

    @property
    def number_format(self) -> Literal["32-true", "bf16-mixed"]:
        """The precision with "auto" resolved."""
        if self.precision == "auto":
            return "bf16-mixed" if self.device.type == "cuda" else "32-true"
        return self.precision

    def autocast(self) -> AbstractContextManager[object]:
        """The number format of training, for what runs outside it: policy and reference must see the same numerics."""
        if self.number_format == "32-true":
            return nullcontext()
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16)
