"""Whether a model carries an adapter, told without peft: its import takes half a second, and most runs have none."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from peft import PeftModel
    from typing_extensions import TypeIs


def is_adapted(model: nn.Module) -> "TypeIs[PeftModel]":
    """Whether a model is one of peft's, around another one."""
    return any(kind.__name__ == "PeftModel" and kind.__module__.startswith("peft.") for kind in type(model).__mro__)
