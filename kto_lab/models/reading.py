"""Reading a model from the disk or the hub, whole or as an adapter on its base, and whatever its weights lack."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file, extract_commit_hash
from transformers.utils import logging as transformers_logging

from kto_lab import hub_errors
from kto_lab.errors import LabError
from kto_lab.hashing import sha256_as_it_is
from kto_lab.models.adapted import is_adapted
from kto_lab.models.quantization import keep_packing, kind_of
from kto_lab.models.saved_adapter import SavedAdapter, find_adapter, make_dense, merged, with_adapter
from kto_lab.sealed import SUMS, check_sums

if TYPE_CHECKING:
    from peft import PeftModel

# In what transformers says of a model whose code it was not allowed to run.
REMOTE_CODE = "trust_remote_code"
# ... and of an architecture that is of another kind, such as a multimodal one.
OTHER_KIND = "Unrecognized configuration class"
RESTORE = f"Put it back as it was written; to use it as it is, remove {SUMS}."
CPU = torch.device("cpu")
_PLACE: ContextVar[torch.device] = ContextVar("place", default=CPU)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True)
class Read:
    """A model as it was read.

    Attributes:
        model: in eval mode, on the CPU unless `read_onto` says otherwise; with an adapter only where one was kept.
        tokenizer: the one beside it, or else that of its base; None where there is none.
        provenance: what a record says of it; `weights` is the SHA-256 of its weight files.
        missing: names of parameters that no file had, so that they are random.
    """

    model: "PreTrainedModel | PeftModel"
    tokenizer: PreTrainedTokenizerBase | None
    provenance: dict[str, Any]
    missing: list[str]


@dataclass(frozen=True)
class Reader:
    """Reads models of one kind. Remote code stays off.

    Attributes:
        kind: transformers' class, such as AutoModelForCausalLM.
        task: what peft calls that kind.
        options: of the class's `from_pretrained`.
        key: where a person names the model, for messages.
    """

    kind: Any
    task: Literal["CAUSAL_LM", "SEQ_CLS"]
    options: Mapping[str, Any]
    key: str

    def read(
        self,
        name: str,
        revision: str | None,
        *,
        base: str | None = None,
        keep: bool = False,
        needs_tokenizer: bool = True,
    ) -> Read:
        """A model by its folder or hub name; one that holds an adapter is its base with the adapter.

        Args:
            name: hub name, or folder in Hugging Face format.
            revision: branch, tag or commit on the hub.
            base: the base of the adapter; None for the one that its adapter_config.json names.
            keep: the adapter stays beside the weights, and is not merged into them.
            needs_tokenizer: refuse a model without one.

        Raises:
            DamagedError: the folder lists checksums, and a file is not as it was listed.
            LabError: something cannot be loaded, or adapter and base do not fit.
        """
        check_sums(Path(name), RESTORE)
        with loading(name, self.key):
            saved = find_adapter(name, revision)
        if saved is None:
            if base is not None:
                raise LabError(f"{self.key}.base is for an adapter, and {name} holds none. Leave it out.")
            return self._whole(name, revision, needs_tokenizer)
        if saved.config.task_type not in (None, self.task):
            raise LabError(f"{name} holds an adapter for {saved.config.task_type}, and {self.task} is wanted.")
        # What an adapter is merged into is the same, to the last digit, wherever it computes then.
        with read_onto(CPU):
            under = self._base(saved, base)
        assert isinstance(under.model, PreTrainedModel)
        own = saved.provenance | {"kept": keep}
        model: PreTrainedModel | PeftModel = with_adapter(under.model, saved)
        if is_adapted(model) and not keep:
            model, own["in_bfloat16"] = merged(make_dense(model))
            # The base of what is trained on it next.
            model.name_or_path = model.config._name_or_path = _where(name)
        tokenizer = _tokenizer(name, revision, self.key, needed=needs_tokenizer and under.tokenizer is None)
        tokenizer = tokenizer or under.tokenizer
        both = hashlib.sha256(f"{under.provenance['weights']} {own['weights']}".encode()).hexdigest()
        trained = set(saved.config.modules_to_save or ())
        return Read(
            model,
            tokenizer,
            {"name": own["name"], "weights": both, "base": under.provenance, "adapter": own},
            [missing for missing in under.missing if not trained & set(missing.split("."))],
        )

    def _base(self, saved: SavedAdapter, given: str | None) -> Read:
        """The model that an adapter goes onto."""
        name = given or saved.config.base_model_name_or_path
        mend = f"give it with {self.key}.base=PATH (or a hub name)"
        if not name:
            raise LabError(f"{saved.name} holds an adapter whose adapter_config.json names no base; {mend}.")
        if Path(name).resolve() == Path(saved.name).resolve():
            raise LabError(f"The adapter {saved.name} cannot be its own base; {mend}.")
        options = dict(self.options)
        if self.task == "SEQ_CLS" and (outputs := saved.outputs) is not None:
            options["num_labels"] = outputs
        try:
            reader, revision = replace(self, options=options), None if given else saved.config.revision
            found = reader.read(name, revision, needs_tokenizer=False)
        except LabError as error:
            raise LabError(
                f"The adapter {saved.name} needs its base {name!r}"
                f"{'' if given else ', which its adapter_config.json names'}. {error} If the base is elsewhere, {mend}."
            ) from error
        saved.check_base(found.provenance, mend)
        return found

    def _whole(self, name: str, revision: str | None, needs_tokenizer: bool) -> Read:
        where, path = _where(name), Path(name)
        if path.exists() and not (path / "config.json").exists():
            raise LabError(f"{path} is no model folder: it has no config.json.")
        tokenizer = _tokenizer(name, revision, self.key, needed=needs_tokenizer)
        placed = {} if _PLACE.get() == CPU else {"device_map": {"": _PLACE.get()}}
        with loading(name, self.key), quiet():
            model, about = self.kind.from_pretrained(
                where, revision=revision, output_loading_info=True, trust_remote_code=False, **placed, **self.options
            )
            config = cached_file(where, "config.json", revision=revision)
        assert config is not None
        provenance = {"name": path.name if path.exists() else name, "weights": weights_digest(Path(config).parent)}
        if (kind := kind_of(model, name)) is not None:
            keep_packing(model)
            provenance["quantization"] = kind
        if revision is not None:
            provenance["revision"] = revision
        # By the folder in the cache: transformers' configurations no longer carry the commit.
        if not path.exists() and (commit := extract_commit_hash(config, None)) is not None:
            provenance["commit"] = commit
        return Read(model.eval(), tokenizer, provenance, sorted(about["missing_keys"]))


@contextmanager
def read_onto(device: torch.device) -> Iterator[None]:
    """Read whole models straight onto a device in a block: the host holds no more than a weight of them at a time."""
    token = _PLACE.set(device)
    try:
        yield
    finally:
        _PLACE.reset(token)


@contextmanager
def loading(name: str, key: str = "model") -> Iterator[None]:
    """Turn what transformers raises where a model cannot be loaded, or brings code to be run, into a LabError.

    Args:
        name: of the model, or its folder.
        key: the node of the configuration that names it.
    """
    try:
        yield
    except LabError:
        raise
    except Exception as error:
        if REMOTE_CODE in str(error):
            raise LabError(
                f"The model {name!r} brings Python code of its own (auto_map in its configuration). kto-lab never runs "
                "code that comes with a model (trust_remote_code=False), and no key allows it. Use a model of an "
                "architecture that the transformers installed here knows."
            ) from error
        if OTHER_KIND in str(error):
            kind = re.search(r"\.(\w+)Config'>", str(error))
            raise LabError(
                f"The model {name!r} is {kind[1] if kind else 'of a kind'} that transformers does not know as the kind "
                "of model that is wanted here: one that reads text alone (no images, no sound) and goes on with it, or "
                "for rewards, scores it. Use another model."
            ) from error
        if not Path(name).exists() and (why := hub_errors.explain(error, name, kind="model", key=key)):
            raise LabError(why) from error
        if not isinstance(error, OSError | ValueError | ImportError | RuntimeError | SafetensorError):
            raise
        raise LabError(
            f"Could not load the model {name!r}: {str(error).splitlines()[0]} "
            "Give a folder in Hugging Face format, a .gguf file, or a hub name with the hub reachable "
            "(HF_HUB_OFFLINE not set)."
        ) from error


def weights_digest(folder: Path) -> str:
    """The SHA-256 of a model's weight file, in hex; of the names and hashes of its files where there are several."""
    files = sorted([*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if len(files) == 1:
        return sha256_as_it_is(files[0])
    return hashlib.sha256("".join(f"{file.name} {sha256_as_it_is(file)}\n" for file in files).encode()).hexdigest()


def _tokenizer(name: str, revision: str | None, key: str, *, needed: bool) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside a model; None where there is none and none is needed."""
    with loading(name, key), quiet():
        there = any(
            cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
            for file in TOKENIZERS
        )
        if not there and not needed:
            return None
        if not there and Path(name).exists():
            raise LabError(f"{name} has no tokenizer. Save the model's tokenizer beside its weights (save_pretrained).")
        return AutoTokenizer.from_pretrained(_where(name), revision=revision, trust_remote_code=False)


def _where(name: str) -> str:
    """A hub name, or the absolute path of a folder: what an adapter's configuration can name from anywhere."""
    path = Path(name)
    return str(path.resolve()) if path.exists() else name


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers' own: ours say what is being done."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
