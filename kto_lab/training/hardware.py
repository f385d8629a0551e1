"""Where a run computes and in which number format: the keys of `conf/trainer`."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from kto_lab.errors import LabError


@dataclass(frozen=True)
class Hardware:
    """What Lightning's Trainer is told of the machine.

    Attributes:
        accelerator: "auto" (a GPU where there is one), "cpu" or "gpu".
        devices: processes a node; one device each.
        num_nodes: nodes.
        strategy: Lightning's, such as "auto" or "ddp".
        precision: "auto" (bf16-mixed on a GPU, else 32-true), "32-true", or "bf16-mixed": float32 weights, matrix
            products in bfloat16.
        deterministic: refuse operations whose result can differ from run to run (on a GPU, at some cost).
    """

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: int
    num_nodes: int
    strategy: str
    precision: Literal["auto", "32-true", "bf16-mixed"]
    deterministic: bool

    def __post_init__(self) -> None:
        """Refuse what this machine, or the lab, cannot do."""
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise LabError(f"trainer.accelerator is {self.accelerator!r}; it must be 'auto', 'cpu' or 'gpu'.")
        if self.precision not in ("auto", "32-true", "bf16-mixed"):
            raise LabError(f"trainer.precision is {self.precision!r}; it must be 'auto', '32-true' or 'bf16-mixed'.")
        if self.devices < 1 or self.num_nodes < 1:
            raise LabError("trainer.devices and trainer.num_nodes must be at least 1.")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise LabError(
                "trainer.accelerator is 'gpu', but no CUDA device is visible. Use trainer=auto or trainer=cpu."
            )

    @property
    def device(self) -> torch.device:
        """Where evaluation before and after training runs."""
        on_gpu = self.accelerator == "gpu" or (self.accelerator == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if on_gpu else "cpu")

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
        return torch.autocast(self.device.type, dtype=torch.bfloat16)
