"""Adapters: what of the policy is trained."""

import difflib
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import torch
from annotated_types import MinLen
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from kto_lab.errors import LabError
from kto_lab.files import atomic_path
from kto_lab.kinds import AtLeastOne, ShareBelowOne, Text
from kto_lab.models.adapted import is_adapted
from kto_lab.models.attention import packs, set_packing
from kto_lab.models.ending import Ending
from kto_lab.models.experts import heed_autocast
from kto_lab.models.load import hf
from kto_lab.models.logps import evaluating
from kto_lab.models.number_format import add_in_float32
from kto_lab.models.quantization import quantised
from kto_lab.models.reading import quiet
from kto_lab.models.saved_adapter import ADAPTER, WEIGHTS, fill, make_dense, merged
from kto_lab.sealed import check_sums, write_sums

if TYPE_CHECKING:
    from peft import PeftModel

# By its name, since the class is imported where an adapter is made.
Policy = Union[PreTrainedModel, "PeftModel"]
# The frozen adapter of the reference, where another is trained further.
START = "start"
# Settings of peft's that may differ where an adapter is trained further, and those that `_settings` compares.
FREE_OF_CONFIG = {"lora_dropout", "inference_mode", "base_model_name_or_path", "revision", "peft_version", "task_type"}
FREE_OF_CONFIG |= {"r", "lora_alpha", "target_modules"}


class FullFineTuning:
    """Every weight is trained. The reference is the model as it was loaded."""

    trains_the_model = True
    dropout = 0.0
    merge = False

    def attach(self, model: Policy, *, reference_without_adapter: bool = False) -> Policy:
        """The policy: the model itself.

        Raises:
            LabError: it was loaded with an adapter that was kept, or its weights are quantised.
        """
        if quantised(model):
            raise LabError(
                "The model's weights are quantised, and adapter=none trains all weights. Use adapter=lora, which "
                "trains an adapter over them, or original weights."
            )
        if is_adapted(model):
            raise LabError(
                "model.saved_adapter=keep keeps an adapter beside the weights, and adapter=none trains all weights. "
                "Use model.saved_adapter=merge, or adapter=lora to train the adapter further."
            )
        return model


class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by peft.

    The reference is the policy with them off; where the model came with an adapter that is trained further, a frozen
    copy of that adapter is on, or a fresh one that changes nothing.
    """

    trains_the_model = False

    def __init__(
        self,
        rank: AtLeastOne,
        alpha: AtLeastOne,
        dropout: ShareBelowOne,
        target_modules: Text | Annotated[list[str], MinLen(1)],
        merge: bool,
    ) -> None:
        """Describe the adapters.

        Args:
            rank: of each adapter.
            alpha: adapters are scaled by alpha / rank.
            dropout: on the adapter's input while training.
            target_modules: names of modules, or "all-linear" for every linear layer but the head.
            merge: the saved policy is a whole model with the adapter merged in, rather than the adapter alone.
        """
        from peft import LoraConfig

        self.merge = merge
        self.dropout = dropout
        targets = target_modules if isinstance(target_modules, str) else list(target_modules)
        self.config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM"
        )

    def attach(self, model: Policy, *, reference_without_adapter: bool = False) -> "PeftModel":
        """The policy: the model with fresh adapters, which at first change nothing; or with those it came with.

        Args:
            model: as it was loaded.
            reference_without_adapter: the frozen adapter of the reference, where the model came with an adapter,
                changes nothing, rather than being a copy of that one.

        Raises:
            LabError: `target_modules` names what the model has not, what peft cannot adapt or what the model does not
                call; or the model came with other adapters.
        """
        from peft import get_peft_model

        if is_adapted(model):
            return self._continued(model, reference_without_adapter)
        targets = self.config.target_modules
        names = [f".{name}" for name, _ in model.named_modules()]
        listed: set[str] = targets if isinstance(targets, set) else set()
        unknown = sorted(target for target in listed if not any(name.endswith(f".{target}") for name in names))
        last = sorted({name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
        has = f"{type(model).__name__} has {', '.join(last)}"
        if unknown:
            raise LabError(f"adapter.target_modules names {', '.join(unknown)}, and {has}.{_meant(unknown, last)}")
        try:
            # peft settles the names of modules in the configuration, for this model.
            policy = get_peft_model(model, deepcopy(self.config))
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise LabError(
                f"adapter.target_modules is {_shown(targets)}, which peft refuses: {error} Name the modules that "
                f"get an adapter, as adapter.target_modules=[name,name]; {has}.{_meant([_shown(targets)], last)}"
            ) from error
        assert is_adapted(policy)
        _check_results(policy, f"adapter.target_modules is {_shown(targets)}")
        if listed and (unused := _unused(policy)):
            raise LabError(
                f"adapter.target_modules is {_shown(targets)}, and {type(model).__name__} computes without calling "
                f"{', '.join(unused)}: an adapter there would change nothing. Name others; {has}."
            )
        return policy

    def _continued(self, kept: "PeftModel", reference_without_adapter: bool) -> "PeftModel":
        """The policy that goes on with an adapter, beside a frozen one, with which it is the reference."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        weights = get_peft_model_state_dict(kept, save_embedding_layers=False)
        old, there, modules = kept.peft_config[ADAPTER], _settings(kept), _targeted(kept)
        policy = self.attach(kept.unload())
        new, here = policy.peft_config[ADAPTER], _settings(policy)
        foreign = [name for name, value in vars(old).items() if name not in FREE_OF_CONFIG and value != vars(new)[name]]
        if here == there and modules != _targeted(policy):
            # Modules of the same names in other layers.
            foreign.append("target_modules")
        if foreign:
            raise LabError(
                f"The saved adapter sets {', '.join(foreign)}, which adapter=lora cannot train further. Use "
                "model.saved_adapter=merge."
            )
        if said := [
            f"{key} is {here[key]}, and its own is {value}" for key, value in there.items() if value != here[key]
        ]:
            raise LabError(
                f"model.saved_adapter=keep goes on with the saved adapter as it is: {'; '.join(said)}. Set the same, "
                "or use model.saved_adapter=merge."
            )
        # Before it is given weights it changes nothing.
        policy.add_adapter(START, deepcopy(new))
        for name in (ADAPTER,) if reference_without_adapter else (ADAPTER, START):
            set_peft_model_state_dict(policy, weights, adapter_name=name)
        policy.set_adapter(ADAPTER)
        return policy


def _shown(targets: str | set[str] | list[str] | None) -> str:
    return targets if isinstance(targets, str) else f"[{','.join(sorted(targets or ()))}]"


@torch.no_grad()
def _check_results(policy: "PeftModel", asked: str) -> None:
    """Refuse adapters on layers that give more than one tensor, such as a router that is a linear layer.

    Args:
        policy: with adapters.
        asked: which key asked for them.
    """
    from peft.tuners.lora import Linear

    adapted = [(name, part.get_base_layer()) for name, part in policy.named_modules() if isinstance(part, Linear)]
    # A plain linear layer gives what it should.
    special = {name.split(".")[-1] for name, layer in adapted if type(layer) not in (nn.Linear, Conv1D)}
    if not special:
        return
    try:
        _called(policy)
    except (AttributeError, TypeError) as error:
        raise LabError(
            f"{asked}, which takes in {', '.join(sorted(special))}: of {type(policy.get_base_model()).__name__} that "
            "is a layer that gives more than one result, and peft has no adapter for such. Name the modules that get "
            "an adapter, as adapter.target_modules=[name,name]."
        ) from error


@torch.no_grad()
def _unused(policy: "PeftModel") -> list[str]:
    """Names of modules with an adapter of which the model calls none: it reads their weights and does the rest itself.

    By name, since a mixture of experts calls some of its modules for a token.
    """
    all_names, called = _called(policy)
    return sorted(all_names - called)


def _called(policy: "PeftModel") -> tuple[set[str], set[str]]:
    """Names of the modules with an adapter, and of those of them that a pass over a few tokens calls."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    called: set[str] = set()
    modules = [(name.split(".")[-1], part) for name, part in policy.named_modules()]
    layers = [one for one in modules if isinstance(one[1], BaseTunerLayer)]
    hooks = [part.register_forward_hook(lambda *_, name=name: called.add(name)) for name, part in layers]
    ids = torch.arange(8, device=policy.device)[None] % policy.config.vocab_size
    try:
        # Adapters are float32 over a base that may be kept in 16 bits; autocast makes them meet, as in a run.
        with evaluating(policy), torch.autocast(policy.device.type, dtype=torch.bfloat16):
            policy(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name for name, _ in layers}, called


def _meant(unknown: Sequence[str], names: Sequence[str]) -> str:
    """The names that were probably meant by unknown ones, as a further sentence; "" where none comes near."""
    near = [match for one in unknown for match in difflib.get_close_matches(one, names, n=1)]
    return f" Did you mean {', '.join(near)}?" if near else ""


def _targeted(policy: "PeftModel") -> set[str]:
    """Full names of the modules that an adapter changes."""
    names: Any = policy.base_model.targeted_module_names
    return set(names)


def _settings(policy: "PeftModel") -> dict[str, object]:
    """What an adapter is, by the keys of adapter=lora."""
    from peft import LoraConfig

    config = policy.peft_config[ADAPTER]
    assert isinstance(config, LoraConfig)
    modules = sorted({name.split(".")[-1] for name in _targeted(policy)})
    return {"adapter.rank": config.r, "adapter.alpha": config.lora_alpha, "adapter.target_modules": modules}


def attached(
    model: Policy, adapter: FullFineTuning | Lora, *, number_format: str, reference_without_adapter: bool = False
) -> Policy:
    """The policy to train: the model with its adapter, where it has one, adding in a format that rounds nothing away.

    Args:
        model: its weights `as_read` in the number format.
        adapter: what of it is trained.
        number_format: Lightning's name of it.
        reference_without_adapter: see `Lora.attach`.
    """
    policy = adapter.attach(model, reference_without_adapter=reference_without_adapter)
    if number_format == "bf16-mixed":
        add_in_float32(policy)
    return policy


def moved(policy: Policy, device: torch.device) -> Policy:
    """The policy, moved to a device in place."""
    nn.Module.to(policy, device)
    return policy


def load_saved(
    folder: Path,
    like: Policy,
    adapter: FullFineTuning | Lora,
    load: Callable[[], Policy],
    *,
    device: torch.device,
    number_format: str,
    reference_without_adapter: bool = False,
) -> Policy:
    """A policy that `save_policy` wrote, in eval mode, with its rows laid out as those of another one.

    Args:
        folder: what was written.
        like: the other one.
        adapter: what was trained.
        load: loads the model that it was trained from; called only where an adapter is to be put onto it.
        device: to put it on.
        number_format: Lightning's name of it.
        reference_without_adapter: see `Lora.attach`.

    Raises:
        DamagedError: a file of it is not as it was written.
        LabError: the policy cannot be loaded.
    """
    check_sums(folder, "Put it back as the run wrote it, or train again.")
    if not (folder / "adapter_config.json").exists():
        policy: Policy = hf(str(folder), dtype="float32", attention=like.config._attn_implementation).model
    else:
        policy = attached(
            load(), adapter, number_format=number_format, reference_without_adapter=reference_without_adapter
        )
        assert is_adapted(policy)
        fill(policy, folder / WEIGHTS)
    set_packing(policy, packs(like))
    if number_format == "bf16-mixed":
        heed_autocast(policy)
    return moved(policy, device).eval()


def save_policy(
    policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path, *, merge: bool, ending: Ending
) -> None:
    """Write the policy in Hugging Face format (safetensors) and its tokenizer, whole or not at all.

    A policy with an adapter is written as the adapter alone, or merged into a whole model, in float32: what an adapter
    adds to a 16-bit weight would be rounded away. Its settings of generation end an answer where training did.
    """
    if merge and is_adapted(policy):
        policy = merged(nn.Module.float(make_dense(policy))).model
    with quiet(), atomic_path(folder) as partial:
        if is_adapted(policy):
            policy.save_pretrained(str(partial), selected_adapters=[ADAPTER], save_embedding_layers=False)
        else:
            policy.save_pretrained(str(partial))
        ending.written(policy.generation_config).save_pretrained(str(partial))
        tokenizer.save_pretrained(partial)
        write_sums(partial)
