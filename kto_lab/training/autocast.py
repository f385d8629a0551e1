"""Lightning's number formats, with one change: in bf16-mixed a trained weight is converted once per step."""

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from kto_lab.training.hardware import Hardware


class OncePerStep(MixedPrecision):
    """bf16-mixed where every pass of a step reads the same converted weights.

    A step is one autocast region and changes no weight before its end, so the casts that autocast caches stay valid.
    Lightning's own plugin clears that cache: each micro-batch then converts every weight, also in the pass for the
    reference point. Autocast caches weights with a gradient only; a base under an adapter is converted at each use.
    """

    def __init__(self, device: str) -> None:
        """`device`: "cpu" or "cuda"."""
        super().__init__("bf16-mixed", device)

    def autocast_context_manager(self) -> torch.autocast:
        """The context that Lightning enters for each step."""
        return torch.autocast(self.device, dtype=torch.bfloat16)


def precision_plugin(hardware: Hardware) -> Precision:
    """The precision plugin for Lightning's Trainer."""
    return OncePerStep(hardware.device.type) if hardware.number_format == "bf16-mixed" else Precision()
