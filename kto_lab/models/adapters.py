"""Adapters: what of the policy is trained, and what the reference is made of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kto_lab.files import atomic_path
from kto_lab.models.ending import Ending
from kto_lab.models.load import quiet
from kto_lab.models.logps import evaluating
from kto_lab.models.number_format import add_in_float32

Policy = PreTrainedModel | PeftModel


class FullFineTuning:
    """Every weight is trained. The reference is the model as it was loaded."""

    merge = False

    def attach(self, model: PreTrainedModel) -> Policy:
        """The policy: the model itself."""
        return model


class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by peft; the reference is the policy with them off."""

    def __init__(self, rank: int, alpha: int, dropout: float, target_modules: str | list[str], merge: bool) -> None:
        """Describe the adapters.

        Args:
            rank: of each adapter.
            alpha: adapters are scaled by alpha / rank.
            dropout: on the adapter's input while training.
            target_modules: names of modules, or "all-linear" for every linear layer but the head.
            merge: the saved policy is a whole model with the adapter merged in, rather than the adapter alone.
        """
        self.merge = merge
        targets = target_modules if isinstance(target_modules, str) else list(target_modules)
        self.config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM"
        )

    def attach(self, model: PreTrainedModel) -> Policy:
        """The policy: the model with fresh adapters, which at first change nothing."""
        return get_peft_model(model, self.config)


def attached(model: PreTrainedModel, adapter: FullFineTuning | Lora, *, number_format: str) -> Policy:
    """The policy to train: the model with its adapter, where it has one, adding in a format that rounds nothing away.

    Args:
        model: its weights `as_read` in the number format.
        adapter: what of it is trained.
        number_format: Lightning's name of it.
    """
    policy = adapter.attach(model)
    if number_format == "bf16-mixed":
        add_in_float32(policy)
    return policy


def moved(policy: Policy, device: torch.device) -> Policy:
    """The policy, moved to a device in place."""
    nn.Module.to(policy, device)
    return policy


@contextmanager
def reference_model(policy: Policy, load: Callable[[], Policy]) -> Iterator[Policy]:
    """The reference in eval mode for a block: the policy with its adapter off, or else a freshly loaded model.

    Args:
        policy: the trained policy.
        load: loads the base model; called only where the policy has no adapter. The caller's block owns the copy.
    """
    if isinstance(policy, PeftModel):
        with policy.disable_adapter(), evaluating(policy):
            yield policy
        return
    reference = load()
    with evaluating(reference):
        yield reference


def save_policy(
    policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path, *, merge: bool, ending: Ending
) -> None:
    """Write the policy in Hugging Face format (safetensors) and its tokenizer, whole or not at all.

    A policy with an adapter is written as the adapter alone, or merged into a whole model. Its settings of generation
    end an answer where training did.
    """
    if merge and isinstance(policy, PeftModel):
        policy = policy.merge_and_unload()
    with quiet(), atomic_path(folder) as partial:
        policy.save_pretrained(str(partial))
        ending.written(policy.generation_config).save_pretrained(str(partial))
        tokenizer.save_pretrained(partial)
