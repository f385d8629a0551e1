"""The reference: the policy that log-ratios, implicit rewards and the KL are measured against.

The group `reference` says which it is (`Reference`). By default it is the policy before its first step, which needs no
second model where an adapter is trained: without the adapter the policy is its own reference. `ReferencePolicy` gives
it to compute with, during a run and after. Where it is a second model, the policy waits on the host meanwhile: with
float32 weights and what autocast keeps of them in bfloat16, two 7 B models take 81 GiB.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kto_lab.errors import LabError
from kto_lab.models.adapted import is_adapted
from kto_lab.models.adapters import START, Policy, moved
from kto_lab.models.logps import evaluating
from kto_lab.models.saved_adapter import ADAPTER, check_merged
from kto_lab.models.sharing import emptied
from kto_lab.models.through import in_shards

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reference:
    """Which model is the reference.

    Attributes:
        exists: whether there is one.
        without_adapter: it is the base of the adapter that the model came with and that is trained further.
        model: the node of another model; None where the reference is made of the policy.
    """

    exists: bool = True
    without_adapter: bool = False
    model: "DictConfig | None" = None


def initial() -> Reference:
    """The policy before its first step."""
    return Reference()


def base() -> Reference:
    """The model without the adapter that it came with, where that adapter is trained further."""
    return Reference(without_adapter=True)


def other(model: "DictConfig") -> Reference:
    """Another model, which must read the policy's token ids; `model` is its node, made when it is needed."""
    return Reference(model=model)


def none() -> Reference:
    """No reference: for losses that read none. There are no implicit rewards and no KL then."""
    return Reference(exists=False)


@dataclass(frozen=True)
class ReferencePolicy:
    """Gives the reference of a policy to compute with.

    Attributes:
        load: loads it onto the device, with its rows laid out for it; what it gives is emptied after use.
        inside: it is the policy without what is trained, so a policy with an adapter holds it.
    """

    load: Callable[[], Policy]
    inside: bool

    def of(self, policy: Policy) -> AbstractContextManager[Policy]:
        """The reference in eval mode for a block, whatever has been trained of the policy.

        Do not use the policy in the block: where the reference is a second model, it is on the host.
        """
        if self.inside and is_adapted(policy):
            return _within(policy)
        return _loaded(self.load, policy)

    def at_start(self, policy: Policy) -> AbstractContextManager[Policy]:
        """The reference for a block, while the policy has its first weights: the policy itself, where it can be."""
        return at_start(policy) if self.inside else self.of(policy)


def at_start(policy: Policy) -> AbstractContextManager[Policy]:
    """A policy as it is before its first step: itself, or the frozen adapter beside the one that is trained further."""
    further = is_adapted(policy) and START in policy.peft_config
    return _within(policy) if is_adapted(policy) and further else nullcontext(policy)


@contextmanager
def _within(policy: "PeftModel") -> Iterator[Policy]:
    """The reference that a policy with an adapter holds, in eval mode."""
    with _as_it_started(policy), evaluating(policy):
        yield policy


@contextmanager
def _loaded(load: Callable[[], Policy], policy: Policy) -> Iterator[Policy]:
    """A model that is loaded for a block, in eval mode and in the policy's place on the device."""
    with on_the_host(policy):
        model = load()
        with evaluating(model):
            yield model
        # Whoever still names it keeps its memory no longer.
        emptied(model)


@contextmanager
def on_the_host(policy: Policy) -> Iterator[None]:
    """Free the device of a policy for a block, but for shards. Its parameters stay the same objects."""
    if in_shards(policy):
        yield
        return
    device = policy.device
    moved(policy, torch.device("cpu"))
    try:
        yield
    finally:
        moved(policy, device)


@contextmanager
def _as_it_started(policy: "PeftModel") -> Iterator[None]:
    if START not in policy.peft_config:
        with policy.disable_adapter():
            yield
        return
    policy.set_adapter(START, inference_mode=True)
    try:
        yield
    finally:
        policy.set_adapter(ADAPTER)


def is_another_model(model: Policy, reference: Reference) -> bool:
    """Whether the reference is not the model as it was loaded, but its base without the adapter that it came with."""
    return is_adapted(model) and reference.without_adapter


def initial_model(model: Policy, reference: Reference) -> Policy:
    """What a policy without an adapter is compared with, of the model as it was loaded."""
    return model.unload() if is_adapted(model) and reference.without_adapter else model


def check_loaded(provenance: Mapping[str, Any], reference: Reference, *, number_format: str) -> None:
    """Refuse a model whose adapter is not as the run needs it.

    Args:
        provenance: of the model.
        reference: what it will be compared with.
        number_format: Lightning's name of it.

    Raises:
        LabError: its base alone shall be the reference and there is none, or the merged adapter is rounded away.
    """
    check_merged(provenance, narrow=number_format == "bf16-mixed")
    if not reference.without_adapter or provenance.get("adapter", {}).get("kept"):
        return
    asks = f"reference=base asks for {provenance['name']} without its adapter"
    if "adapter" in provenance:
        raise LabError(f"{asks}, which was merged into it. Use model.saved_adapter=keep.")
    raise LabError(f"{asks}, and it came with none. Use reference=initial.")


def check_vocabulary(policy: "PreTrainedTokenizerBase", reference: "PreTrainedTokenizerBase", name: str) -> None:
    """Refuse a reference that reads other tokens in the ids that the policy's tokenizer writes.

    Raises:
        LabError: the message names a token.
    """
    mine, theirs = policy.get_vocab(), reference.get_vocab()
    differing = sorted(token for token, index in mine.items() if theirs.get(token) != index)
    if differing:
        raise LabError(
            f"The reference {name} has another tokenizer than the policy: {len(differing)} of {len(mine)} tokens have "
            f"another id or none there, such as {differing[0]!r}. Log-ratios need the same tokens: choose a "
            "reference.model of the policy's family, or reference=initial."
        )
