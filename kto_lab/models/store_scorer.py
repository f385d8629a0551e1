"""Scoring with the reference through its store: the scorer's identity, and computing what the store lacks."""

import ast
import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
import xxhash
from torch import Tensor

from kto_lab.models.adapters import Policy
from kto_lab.models.logps import score, score_tokens
from kto_lab.models.quantization import contents
from kto_lab.models.ragged import owners, places
from kto_lab.models.scorer import Scorer
from kto_lab.models.sequences import Tokens, completion_lengths
from kto_lab.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from kto_lab.models.store import LogpCache

# The modules that compute a log-probability; what they import of kto_lab.models counts, too.
SCORING = ("kto_lab.models.logps", "kto_lab.models.number_format", "kto_lab.segment_sums")
# Keys of a configuration that say where a model was found, and not what it is.
FREE_OF_CONFIG = ("_name_or_path", "_commit_hash", "transformers_version")
# Micro-batches between two writes to the store: a killed job loses no more than those.
BATCHES_PER_PART = 32


def scorer_of(model: Policy, *, name: str, number_format: str, device: torch.device) -> Scorer:
    """The scorer of a reference that is a model as it was loaded, before an adapter or a step has changed it.

    Args:
        model: the reference.
        name: of the model, for people.
        number_format: Lightning's name of it, and whether its blocks are compiled.
        device: what it will compute on.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in FREE_OF_CONFIG}
    config["attention"] = model.config._attn_implementation
    return Scorer(
        model=name,
        weights=weights_hash(model),
        config=hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16).hexdigest(),
        number_format=number_format,
        device=_kind(device),
        software=f"torch {torch.__version__}, transformers {transformers.__version__}",
        code=scoring_code(),
    )


def weights_hash(model: Policy) -> str:
    """128 bits of the names, shapes, formats and bytes of all parameters (tied ones once) and buffers."""
    whole = xxhash.xxh3_128()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        for part in contents(tensor):
            whole.update(part.reshape(-1).contiguous().view(torch.uint8).cpu().numpy().data)
    return whole.hexdigest()


@functools.cache
def scoring_code() -> str:
    """A hash of the code behind `score`, without comments and layout."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tree in sorted(_modules(SCORING).items()):
        digest.update(f"{name} {ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def _modules(names: Sequence[str]) -> dict[str, ast.Module]:
    """Modules by name, with everything that they import of kto_lab.models."""
    found: dict[str, ast.Module] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        found[name] = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        imports = (node.module or "" for node in ast.walk(found[name]) if isinstance(node, ast.ImportFrom))
        waiting += [module for module in imports if module.startswith("kto_lab.models.")]
    return found


def _kind(device: torch.device) -> str:
    """The kind of a device, whose members compute alike: the GPU's model, or the CPU's instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def value_counts(sequences: Sequence[Tokens], *, per_token: bool = False) -> np.ndarray:
    """(N,) log-probabilities of each sequence: one, or one for each token of its completion."""
    return completion_lengths(sequences) if per_token else np.ones(len(sequences), dtype=np.int64)


def known(logp_cache: "LogpCache | None", sequences: Sequence[Tokens], *, per_token: bool = False) -> Tensor:
    """Float32 log-probabilities in nats on the CPU, NaN where the store has none.

    Args:
        logp_cache: where to look; None for no store.
        sequences: N of them.
        per_token: look for those of the completions' tokens.

    Returns:
        (N,) of the completions, or (T,) of their tokens, completion by completion.
    """
    if logp_cache is None:
        return torch.full((int(value_counts(sequences, per_token=per_token).sum()),), torch.nan)
    return torch.from_numpy(logp_cache.lookup_tokens(sequences) if per_token else logp_cache.lookup(sequences))


def prompt_groups(sequences: Sequence[Tokens]) -> list[list[int]]:
    """Indices of the sequences of each prompt, prompts with short sequences first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, sequence in enumerate(sequences):
        groups.setdefault(sequence.prompt, []).append(index)
    return sorted(groups.values(), key=lambda group: max(len(sequences[index]) for index in group))


def score_and_keep(
    model: Policy,
    sequences: Sequence[Tokens],
    logp_cache: "LogpCache | None",
    *,
    pad_id: int,
    token_budget: int,
    share_prompts: bool,
    advance: Callable[[int], None],
    per_token: bool = False,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Score sequences, and keep the results part by part.

    Args:
        model: the reference.
        sequences: what to score; most gain where prompts and lengths are alike.
        logp_cache: where it is kept; None where nothing is kept.
        pad_id: any valid token id.
        token_budget: tokens per micro-batch.
        share_prompts: completions of one prompt share its row.
        advance: told how many more are done.
        per_token: return the log-probabilities of the completions' tokens; the store keeps both forms then.
        ranks: share the work; the first keeps all, and all return the same.

    Returns:
        (N,) float32 log-probabilities in nats on the CPU, in the order of `sequences`; or (T,) of the tokens of their
        completions, completion by completion.
    """
    counts = value_counts(sequences, per_token=per_token)
    logps = torch.empty(int(counts.sum()))
    how: dict[str, Any] = {"pad_id": pad_id, "token_budget": token_budget, "share_prompts": share_prompts}
    how |= {"ranks": ranks, "advance": advance}
    for part in _parts(sequences, BATCHES_PER_PART * token_budget):
        chosen = [sequences[index] for index in part]
        if per_token:
            sums, values = score_tokens(model, chosen, **how)
        else:
            sums = values = score(model, chosen, **how)
        logps[torch.from_numpy(places(counts, part))] = values
        if logp_cache is not None and ranks.first:
            logp_cache.put(chosen, sums.numpy())
            if per_token:
                logp_cache.put_tokens(chosen, values.numpy())
    return logps


def _parts(sequences: Sequence[Tokens], most_tokens: int) -> Iterator[list[int]]:
    """Indices cut into parts of about so many tokens, of whole prompts and similar lengths."""
    part: list[int] = []
    tokens = 0
    for group in prompt_groups(sequences):
        part += group
        tokens += sum(len(sequences[index]) for index in group)
        if tokens >= most_tokens:
            yield part
            part, tokens = [], 0
    if part:
        yield part


def not_finite(logps: Tensor, counts: np.ndarray | None = None) -> np.ndarray:
    """Indices of sequences with a log-probability that is NaN or infinite.

    Args:
        logps: on the CPU, sequence by sequence.
        counts: (N,) log-probabilities of each sequence; one where None.
    """
    bad = (~torch.isfinite(logps)).numpy()
    return bad.nonzero()[0] if counts is None else np.unique(owners(counts)[bad])
