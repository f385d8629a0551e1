"""Adapters on the disk: a folder that holds one stands for its base with the adapter on it.

peft and transformers load such a folder, too, and let pass without an error what would be another model: weights that
the file lacks stay as they were drawn, settings that they do not know are left out, and whoever then trains starts from
the bare base. So the parts are put together here, and whatever does not fit is refused.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import cached_file, extract_commit_hash, find_adapter_config_file

from kto_lab.errors import LabError
from kto_lab.hashing import sha256_as_it_is
from kto_lab.models.adapted import is_adapted
from kto_lab.models.quantization import dequantised, is_quantised, quantised
from kto_lab.sealed import read_json

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

# The name that peft gives to an adapter which is given none.
ADAPTER = "default"
WEIGHTS = "adapter_model.safetensors"
# What peft can do and a merged model cannot: adapters that are on after some tokens only, and repeated layers.
REFUSED = ("alora_invocation_tokens", "layer_replication")


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter on the disk.

    Attributes:
        name: the folder, or the name on the hub.
        config: what peft makes of its adapter_config.json.
        weights: its safetensors file.
        commit: on the hub.
    """

    name: str
    config: "LoraConfig"
    weights: Path
    commit: str | None

    @property
    def provenance(self) -> dict[str, Any]:
        """What a record says of it."""
        path = Path(self.name)
        commit = {} if self.commit is None else {"commit": self.commit}
        return {"name": path.name if path.exists() else self.name, "weights": sha256_as_it_is(self.weights), **commit}

    @property
    def outputs(self) -> int | None:
        """Rows of the head that a classifier's adapter brings; None where it brings none."""
        whole = self.config.modules_to_save or ()
        with safe_open(self.weights, framework="pt") as file:
            names = [name for name in file.keys() if name.endswith(".weight")]  # noqa: SIM118 (it is no mapping)
            heads = [name for name in names if name.split(".")[-2] in whole]
            return file.get_slice(heads[0]).get_shape()[0] if len(heads) == 1 else None

    def check_base(self, base: dict[str, Any], mend: str) -> None:
        """Refuse a base that is not the one of the run whose folder holds the adapter, where it is in one.

        Args:
            base: provenance of the base, with `weights`.
            mend: how another base is given.
        """
        record = Path(self.name).resolve().parent / "record.json"
        if not record.is_file():
            return
        try:
            ran = read_json(record, "Put it back: it says which base the adapter was trained on.")["model"]
            # Where the run went on with an adapter that it was given, its own goes onto the same base.
            trained_on = ran["base"] if ran.get("adapter", {}).get("kept") else ran
            weights, quantization = trained_on["weights"], trained_on.get("quantization")
        except (LookupError, TypeError):
            return
        if weights != base.get("weights"):
            raise LabError(
                f"The adapter {self.name} was trained on other weights than those of {base['name']}: {record} says "
                f"{weights}, and these are {base.get('weights')} (SHA-256). Put the base back as it was, or {mend}."
            )
        if quantization != base.get("quantization"):
            raise LabError(
                f"The adapter {self.name} was trained over weights in {quantization or 'their own format'}, says "
                f"{record}, and these are in {base.get('quantization') or 'their own'}. Set "
                f"model.quantization={quantization or 'null'}."
            )


def find_adapter(name: str, revision: str | None) -> SavedAdapter | None:
    """The adapter of a folder or of a hub name; None where it holds a whole model, or nothing.

    Raises:
        LabError: there is an adapter, and it cannot be used; the message says why.
    """
    found = find_adapter_config_file(name, revision=revision)
    if found is None:
        return None
    folder = Path(found).parent
    if (folder / "config.json").exists():
        raise LabError(f"{name} holds a whole model and an adapter. Keep the one that you mean; move the other away.")
    config = _config(Path(found))
    weights = cached_file(name, WEIGHTS, revision=revision, _raise_exceptions_for_missing_entries=False)
    if weights is None:
        raise LabError(
            f"{name} has an adapter_config.json and no {WEIGHTS}. Save the adapter again in the safetensors format "
            "(save_pretrained); pickles are not loaded."
        )
    return SavedAdapter(name, config, Path(weights), extract_commit_hash(found, None))


def _config(file: Path) -> "LoraConfig":
    """A LoRA configuration, all of whose settings are known."""
    from peft import LoraConfig

    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kind = values["peft_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise LabError(f"{file} is no configuration of an adapter: {error!r}. Fetch it again.") from error
    if kind != "LORA":
        raise LabError(f"{file.parent} holds an adapter of the kind {kind}; only LoRA is known here.")
    set_values = [name for name, value in values.items() if value not in (None, False, "", [], {})]
    if unknown := sorted(set(set_values) - {field.name for field in fields(LoraConfig)}):
        raise LabError(f"{file} sets {', '.join(unknown)}, which the peft installed here does not know. Update peft.")
    if refused := [name for name in REFUSED if name in set_values]:
        raise LabError(f"{file} sets {', '.join(refused)}, which is not supported here. Use an adapter without.")
    config = LoraConfig.from_pretrained(str(file.parent))
    assert isinstance(config, LoraConfig)
    return config


def with_adapter(base: PreTrainedModel, saved: SavedAdapter) -> "PeftModel":
    """The base, in place, with a saved adapter on it: frozen, in eval mode.

    Raises:
        LabError: the adapter does not fit the base.
    """
    from peft import get_peft_model

    config = saved.config
    config.inference_mode = True
    # peft notes the base that it is put on, and would warn of another one.
    config.base_model_name_or_path = None
    try:
        policy = get_peft_model(base, config)
    except (ValueError, RuntimeError) as error:
        raise LabError(f"The adapter {saved.name} does not fit {type(base).__name__}: {error}") from error
    assert is_adapted(policy)
    fill(policy, saved.weights)
    return policy.eval()


def fill(policy: "PeftModel", weights: Path) -> None:
    """Give the policy's adapter, in place, the weights of a safetensors file.

    Raises:
        LabError: the file cannot be read, or holds fewer, more or other weights than the adapter has.
    """
    from peft import set_peft_model_state_dict

    said = f"The adapter in {weights.parent} cannot be loaded"
    try:
        loaded = load_file(weights)
        found: Any = set_peft_model_state_dict(policy, loaded)
    except (OSError, SafetensorError) as error:
        raise LabError(f"{said}: {error}. Put it back, or train again.") from error
    except KeyError as error:
        raise LabError(f"{said}: its file lacks {error}. Put it back, or train again.") from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise LabError(
            f"{said}: it does not fit the base ({' '.join(lines[:2])}). Give the base that it was trained on."
        ) from error
    missing = [name for name in found.missing_keys if f".{ADAPTER}" in name]
    if missing or found.unexpected_keys:
        lacks = f"lacks {_few(missing)}" if missing else ""
        has = f"has {_few(found.unexpected_keys)}, which the base has no place for" if found.unexpected_keys else ""
        raise LabError(
            f"{said}: its file {' and '.join(filter(None, (lacks, has)))}. Give the base that it was trained on, and "
            "the file as it was saved."
        )


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:2])
    return shown if len(names) <= 2 else f"{shown} and {len(names) - 2} more"


@torch.no_grad()
def make_dense(policy: "PeftModel") -> "PeftModel":
    """The policy with a quantised base made dense, in float32: what an adapter can be merged into.

    Args:
        policy: where its base is quantised, it is used up; else it is returned.
    """
    if not quantised(policy):
        return policy
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    config, weights = policy.peft_config[ADAPTER], get_peft_model_state_dict(policy, save_embedding_layers=False)
    base: Any = policy.unload()
    for parent in list(base.modules()):
        for name, layer in list(parent.named_children()):
            if is_quantised(layer):
                dense = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
                dense.weight = nn.Parameter(dequantised(layer), requires_grad=False)
                dense.bias = layer.bias
                setattr(parent, name, dense)
    del base.config.quantization_config
    base.hf_quantizer, base.is_quantized = None, False
    whole = get_peft_model(base, config)
    set_peft_model_state_dict(whole, weights)
    assert is_adapted(whole)
    return whole.to(policy.device).eval()


class Merged(NamedTuple):
    """A model with an adapter in its weights.

    Attributes:
        model: nothing of peft is left in it.
        in_bfloat16: the share of the adapter's change that is left when the weights are rounded to bfloat16, along the
            change: 0 where all of it is less than half a step of the weights, about 1 where little is.
    """

    model: PreTrainedModel
    in_bfloat16: float


@torch.no_grad()
def merged(policy: "PeftModel") -> Merged:
    """The model that a policy with an adapter stands for, in place.

    Sums are made in float32 and rounded once, to the format of the base. Where the adapter changes one of two modules
    that share a weight (a head tied to the embedding), each has its own from then on.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    along = whole = 0.0
    inner = policy.get_base_model()
    assert isinstance(inner, PreTrainedModel)
    for module in [part for part in inner.modules() if isinstance(part, BaseTunerLayer)]:
        base = module.get_base_layer()
        _own_weights(base, inner)
        with _in_float32(base):
            before = [part.clone() for part in base.parameters(recurse=False)]
            module.merge(safe_merge=True)
            for old, new in zip(before, base.parameters(recurse=False), strict=True):
                change, rounded = new - old, new.bfloat16().float() - old.bfloat16().float()
                along += (change * rounded).sum().item()
                whole += change.square().sum().item()
    with warnings.catch_warnings():
        # Of what is meant here: embeddings that are not tied any more.
        warnings.simplefilter("ignore")
        model = policy.merge_and_unload()
    assert isinstance(model, PreTrainedModel)
    # peft froze what was under the adapter.
    return Merged(model.requires_grad_(True), along / whole if whole else 1.0)


def check_merged(provenance: Mapping[str, Any], *, narrow: bool) -> None:
    """Refuse a merged adapter that the number format rounds away.

    Args:
        provenance: of the model.
        narrow: whether products read its weights in bfloat16.

    Raises:
        LabError: less than half of the adapter is left.
    """
    left = provenance.get("adapter", {}).get("in_bfloat16", 1.0)
    if narrow and left < 0.5:
        raise LabError(
            f"{provenance['name']} holds an adapter that changes its base by less than bfloat16 can say: merged, "
            f"{left:.0%} of the change is left. Use model.saved_adapter=keep, or float32 (trainer.precision=32-true, "
            "model.dtype=float32)."
        )


def _own_weights(layer: nn.Module, model: PreTrainedModel) -> None:
    """Give a layer a copy of each weight that it shares with another one."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        uses = sum(own is parameter for part in model.modules() for own in part.parameters(recurse=False))
        if uses > 1:
            setattr(layer, name, nn.Parameter(parameter.clone(), requires_grad=parameter.requires_grad))
            model.config.tie_word_embeddings = False
            model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


@contextmanager
def _in_float32(layer: nn.Module) -> Iterator[None]:
    parts = list(layer.parameters(recurse=False))
    formats = [part.dtype for part in parts]
    for part in parts:
        part.data = part.data.float()
    yield
    for part, number_format in zip(parts, formats, strict=True):
        part.data = part.data.to(number_format)
