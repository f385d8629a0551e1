"""What the tests look at in a checkpoint."""

from pathlib import Path

import torch


def assert_holds_what_is_trained(checkpoint: Path, trained: dict[str, torch.Tensor] | None) -> None:
    """A checkpoint is as large as the trained weights and AdamW's two moments of them, and little more.

    `trained` are the weights of the adapter, where there is one.
    """
    held = torch.load(checkpoint, weights_only=True)["state_dict"]
    if trained is not None:
        assert len(held) == len(trained) and all(".lora_" in name for name in held)
    size = sum(value.nbytes for name, value in held.items() if name != "policy.lm_head.weight")
    assert 3 * size < checkpoint.stat().st_size < 3 * size + 200_000
