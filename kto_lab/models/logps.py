"""Log-probabilities of completions: the one place where policy and reference are run on training data.

`completion_logps` feeds tokens as `layout.py` lays them out, runs the language-model head on completion positions only,
and sums in float32. Policy and reference go through the same function, so that what differs between them is their
weights.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kto_lab.errors import LabError
from kto_lab.models.adapted import is_adapted
from kto_lab.models.attention import packs
from kto_lab.models.head import CAPS, DIVISORS, FACTORS, LogitMap, token_logps
from kto_lab.models.layout import Layout, continued, packed, padded
from kto_lab.models.placing import placed
from kto_lab.models.ragged import places
from kto_lab.models.rows import cut_micro_batches
from kto_lab.models.segments import Kept, Segments, Span
from kto_lab.models.sequences import Tokens, Unit, completion_lengths
from kto_lab.models.through import through, together
from kto_lab.ranks import ALONE, Ranks
from kto_lab.segment_sums import segment_sums

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class TokenLogps:
    """Log-probabilities of the tokens of N completions.

    Attributes:
        values: (T,) float32, in nats, completion by completion, end-of-turn tokens included.
        lengths: (N,) tokens of each completion.
    """

    values: Tensor
    lengths: list[int]

    @cached_property
    def counts(self) -> Tensor:
        """(N,) the lengths, on the device of the values."""
        return placed(torch.tensor(self.lengths), self.values.device)

    @cached_property
    def sums(self) -> Tensor:
        """(N,) log-probability of each completion, nats."""
        return segment_sums(self.values, self.counts)


def completion_logps(
    model: PreTrainedModel | nn.Module, units: Sequence[Unit], *, pad_id: int, share_prompts: bool = False
) -> Tensor:
    """(N,) float32 log-probability of each completion given its prompt, nats; see `completion_token_logps`."""
    return completion_token_logps(model, units, pad_id=pad_id, share_prompts=share_prompts).sums


@dataclass
class KeptPrompts:
    """The prompts of a packed row as a pass computed them, without graph, for `continuation_logps`.

    Attributes:
        keys: keys and values of the whole row.
        spans: where in the row the prompt of each sequence stands.
        states: (sequences, hidden) hidden states at the prompts' last tokens.
        width: tokens of the row.
    """

    keys: Kept = field(default_factory=Kept)
    spans: list[Span] = field(default_factory=list)
    states: Tensor = field(default_factory=lambda: torch.empty(0))
    width: int = 0


def completion_token_logps(
    model: PreTrainedModel | nn.Module,
    units: Sequence[Unit],
    *,
    pad_id: int,
    share_prompts: bool = False,
    keep: KeptPrompts | None = None,
) -> TokenLogps:
    """Log-probabilities of the tokens of each completion, given its prompt and the tokens before.

    Args:
        model: a causal language model of transformers, or a peft model around one.
        units: the sequences, in units; (N sequences in all).
        pad_id: any valid token id.
        share_prompts: run a prompt once for all its completions (see `find_exact_rows`).
        keep: filled with what other continuations of the prompts need; for a model whose rows are packed.

    Returns:
        The log-probabilities in the order of the sequences. Differentiable where gradients are on.
    """
    if not share_prompts:
        units = [[sequence] for unit in units for sequence in unit]
    backbone, head, logit_map = _parts(model)
    if packs_rows(model):
        batch = packed(units, share_prompts=share_prompts)
    else:
        batch = padded(units, pad_id=pad_id, share_prompts=share_prompts)
    device = next(head.parameters()).device
    segments = Segments(batch.segments, keep=keep.keys if keep else None, device=device)

    def run() -> Tensor:
        hidden = _hidden_states(backbone, batch, segments)
        if keep is not None:
            keep.spans, keep.width = batch.prompts, batch.real
            ends = torch.tensor([span.end - 1 for span in batch.prompts])
            keep.states = hidden.detach().index_select(0, placed(ends, hidden.device))
        return _predicted(head, hidden, batch, logit_map)

    return TokenLogps(through(model, run), batch.counts)


@torch.no_grad()
def continuation_logps(
    model: PreTrainedModel | nn.Module, prompts: KeptPrompts, completions: Sequence[tuple[int, ...]]
) -> Tensor:
    """Log-probabilities of other completions of the prompts of an earlier pass, which are not run again.

    Args:
        model: as it was in that pass.
        prompts: filled by that pass.
        completions: token ids, one for each of its sequences.

    Returns:
        (N,) float32, in nats, without a graph.
    """
    backbone, head, logit_map = _parts(model)
    device = prompts.states.device
    batch = continued(prompts.spans, completions)
    states = prompts.states
    if batch.real:
        segments = Segments(batch.segments, seen=prompts.keys, seen_width=prompts.width, device=device)
        states = torch.cat([states, _hidden_states(backbone, batch, segments)])
    return TokenLogps(_predicted(head, states, batch, logit_map), batch.counts).sums


def _hidden_states(backbone: nn.Module, batch: Layout, segments: Segments) -> Tensor:
    """(rows * width, hidden) of a forward pass on the segments' device."""
    more = {"segments": segments} if segments.parts else {}
    hidden: Tensor = backbone(
        input_ids=placed(batch.input_ids, segments.device),
        attention_mask=placed(batch.mask, segments.device),
        position_ids=placed(batch.position_ids, segments.device),
        use_cache=False,
        **more,
    ).last_hidden_state
    return hidden.flatten(0, 1)


def _predicted(head: nn.Module, states: Tensor, batch: Layout, logit_map: LogitMap) -> Tensor:
    """(tokens,) log-probabilities of a layout's targets from the hidden states that it counts."""
    # Not by indexing, whose gradient would sort the places.
    at = states.index_select(0, placed(batch.predict_at, states.device))
    return token_logps(head, at, placed(batch.targets, states.device), logit_map)


@torch.no_grad()
def score(
    model: PreTrainedModel | nn.Module,
    sequences: Sequence[Tokens],
    *,
    pad_id: int,
    token_budget: int,
    share_prompts: bool = False,
    advance: Callable[[int], None] = lambda sequences: None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Log-probabilities of many completions without gradient, in large batches of similar length.

    Batches are dealt to `ranks`, each as it is for one process, so the values are the same; all processes return them.

    Returns:
        (N,) float32 on the CPU, in nats, in the order of `sequences`.
    """
    return score_tokens(
        model,
        sequences,
        pad_id=pad_id,
        token_budget=token_budget,
        share_prompts=share_prompts,
        advance=advance,
        ranks=ranks,
    )[0]


@torch.no_grad()
def score_tokens(
    model: PreTrainedModel | nn.Module,
    sequences: Sequence[Tokens],
    *,
    pad_id: int,
    token_budget: int,
    share_prompts: bool = False,
    advance: Callable[[int], None] = lambda sequences: None,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of many completions and of their tokens, without gradient; see `score`.

    Returns:
        (N,) of the completions, and (T,) of their tokens, completion by completion: float32 on the CPU, in nats, in the
        order of `sequences`.
    """
    units = [[sequence] for sequence in sequences]
    counts = completion_lengths(sequences)
    sums, values = torch.zeros(len(units)), torch.zeros(int(counts.sum()))
    if not units:
        return sums, values
    with evaluating(model), together(model):
        packing = packs_rows(model)
        done = 0
        cut = cut_micro_batches(units, token_budget=token_budget, share_prompts=share_prompts, packed=packing)
        for rows in ranks.share(cut):
            chosen = [units[index] for index in rows]
            logps = completion_token_logps(model, chosen, pad_id=pad_id, share_prompts=share_prompts)
            sums[rows] = logps.sums.cpu()
            values[torch.from_numpy(places(counts, rows))] = logps.values.cpu()
            done += len(rows)
            advance(len(rows))
    sums, values = ranks.total(sums), ranks.total(values)
    if done < len(units):
        advance(len(units) - done)
    return sums, values


def _parts(model: PreTrainedModel | nn.Module) -> tuple[nn.Module, nn.Module, LogitMap]:
    """The backbone, which computes hidden states, the head on them, and what makes logits of the head's output."""
    inner = _inner(model)
    head = inner.get_output_embeddings()
    assert isinstance(head, nn.Module)
    return getattr(inner, inner.base_model_prefix), head, LogitMap.of(inner.config)


def _inner(model: PreTrainedModel | nn.Module) -> PreTrainedModel:
    """The model of transformers."""
    # Not by an attribute of peft's: it leaves some on the model inside, too.
    inner = model.get_base_model() if is_adapted(model) else model
    assert isinstance(inner, PreTrainedModel)
    return inner


def packs_rows(model: PreTrainedModel | nn.Module) -> bool:
    """Whether the model's rows are packed, without padding."""
    return packs(_inner(model))


@torch.no_grad()
def check_head(model: "PreTrainedModel | PeftModel") -> None:
    """Refuse a model whose logits are not its head applied to its hidden states, scaled and capped as `LogitMap` does.

    Raises LabError naming the architecture; also where it reads more than text, or has its parts elsewhere than others.
    """
    inner = _inner(model)
    name = type(inner).__name__
    if inner.config.get_text_config() is not inner.config:
        raise LabError(
            f"{name} is multimodal, and kto-lab trains models of text alone. Use a model of text, or save this one's "
            "language model as a folder of its own."
        )
    if not isinstance(getattr(inner, inner.base_model_prefix, None), nn.Module):
        raise LabError(
            f"{name} has no part {inner.base_model_prefix!r} that computes its hidden states, so its log-probs cannot "
            "be computed here. Use another architecture."
        )
    ids = torch.arange(8, device=model.device)[None] % model.config.vocab_size
    backbone, head, logit_map = _parts(model)
    with evaluating(model):
        ours = logit_map(head(backbone(input_ids=ids, use_cache=False).last_hidden_state))
        whole = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(ours.float(), whole.float(), rtol=1e-3, atol=1e-3):
        raise LabError(
            f"{name} changes the output of its language-model head in a way that kto-lab does not reproduce (it knows "
            f"{', '.join((*FACTORS, *DIVISORS, *CAPS))} of the configuration). Use another architecture."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a block, and afterwards each module's mode that was before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
