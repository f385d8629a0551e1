"""Log-probabilities of completions: the one place where policy and reference are run on training data.

`completion_logps` feeds rows as `rows.py` lays them out, runs the language-model head on completion positions only, and
sums in float32. Policy and reference go through the same function, so that what differs between them is their weights.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from kto_lab.errors import LabError
from kto_lab.models.rows import Unit, cut_micro_batches, make_rows
from kto_lab.models.tokens import Tokens

HEAD_CHUNK = 1024


@dataclass(frozen=True)
class Layout:
    """A padded batch of rows and where in it each completion token is predicted.

    Attributes:
        input_ids: (rows, width) token ids, padded on the right.
        position_ids: (rows, width) positions; a completion starts where its prompt ends.
        mask: (rows, width) bool of real tokens, or (rows, 1, width, width) bool of who sees whom in shared rows.
        predict_at: (tokens,) index into the flattened (rows * width) positions, one for each completion token.
        targets: (tokens,) the token predicted there.
        counts: tokens of each completion, in the order of the sequences.
        real: tokens that are not padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    predict_at: Tensor
    targets: Tensor
    counts: list[int]
    real: int


def layout(units: Sequence[Unit], *, pad_id: int, share_prompts: bool) -> Layout:
    """Lay units out as one padded batch; the sequences of the units, in order, are what `counts` speaks of."""
    rows = make_rows(units, token_budget=2**62, share_prompts=share_prompts)
    if not share_prompts and any(len(unit) > 1 for unit in units):
        raise ValueError("a unit of several completions needs a shared row; pass its sequences one by one instead")
    width = max(row.length for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    position_ids = torch.zeros((len(rows), width), dtype=torch.long)
    segment = torch.full((len(rows), width), -1)  # -1 padding, 0 prompt, 1.. the completions
    spans: dict[tuple[int, int], list[int]] = {}
    for number, row in enumerate(rows):
        prompt = units[row.units[0]][0].prompt
        at = len(prompt)
        input_ids[number, :at] = torch.tensor(prompt)
        position_ids[number, :at] = torch.arange(at)
        segment[number, :at] = 0
        members = [(unit, place) for unit in row.units for place in range(len(units[unit]))]
        for part, (unit, place) in enumerate(members, start=1):
            fed = units[unit][place].completion[:-1]
            end = at + len(fed)
            input_ids[number, at:end] = torch.tensor(fed, dtype=torch.long)
            position_ids[number, at:end] = torch.arange(len(prompt), len(prompt) + len(fed))
            segment[number, at:end] = part
            first = number * width + len(prompt) - 1
            spans[unit, place] = [first, *range(number * width + at, number * width + end)]
            at = end
    order = [(unit, place) for unit in range(len(units)) for place in range(len(units[unit]))]
    return Layout(
        input_ids=input_ids,
        position_ids=position_ids,
        mask=_shared_mask(segment) if share_prompts else segment >= 0,
        predict_at=torch.tensor([index for key in order for index in spans[key]]),
        targets=torch.tensor([token for unit, place in order for token in units[unit][place].completion]),
        counts=[len(units[unit][place].completion) for unit, place in order],
        real=int((segment >= 0).sum()),
    )


def _shared_mask(segment: Tensor) -> Tensor:
    """Who sees whom, (rows, 1, width, width) bool: earlier tokens of the own completion, and the prompt."""
    width = segment.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    own = segment[:, :, None] == segment[:, None, :]
    to_prompt = (segment[:, None, :] == 0) & (segment[:, :, None] >= 0)
    # A padding token sees itself: a row of the softmax without any entry would be NaN.
    return ((own | to_prompt) & causal)[:, None]


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
    def sums(self) -> Tensor:
        """(N,) log-probability of each completion, nats."""
        return torch.stack([part.sum() for part in self.values.split(self.lengths)])


def completion_logps(
    model: PreTrainedModel | nn.Module, units: Sequence[Unit], *, pad_id: int, share_prompts: bool = False
) -> Tensor:
    """(N,) float32 log-probability of each completion given its prompt, nats; see `completion_token_logps`."""
    return completion_token_logps(model, units, pad_id=pad_id, share_prompts=share_prompts).sums


def completion_token_logps(
    model: PreTrainedModel | nn.Module, units: Sequence[Unit], *, pad_id: int, share_prompts: bool = False
) -> TokenLogps:
    """Log-probabilities of the tokens of each completion, given its prompt and the tokens before.

    Args:
        model: a causal language model of transformers, or a peft model around one.
        units: the sequences, in units; (N sequences in all).
        pad_id: any valid token id.
        share_prompts: run a prompt once for all its completions (see `sharing_is_exact`).

    Returns:
        The log-probabilities in the order of the sequences. Differentiable where gradients are on.
    """
    if not share_prompts:
        units = [[sequence] for unit in units for sequence in unit]
    batch = layout(units, pad_id=pad_id, share_prompts=share_prompts)
    backbone, head = _parts(model)
    device = next(head.parameters()).device
    hidden = backbone(
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.mask.to(device),
        position_ids=batch.position_ids.to(device),
        use_cache=False,
    ).last_hidden_state
    states = hidden.flatten(0, 1)[batch.predict_at.to(device)]
    targets = batch.targets.to(device)
    token_logps = torch.cat(
        [
            -F.cross_entropy(head(part).float(), wanted, reduction="none")
            for part, wanted in zip(states.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)
        ]
    )
    return TokenLogps(token_logps, batch.counts)


@torch.no_grad()
def score(
    model: PreTrainedModel | nn.Module,
    sequences: Sequence[Tokens],
    *,
    pad_id: int,
    token_budget: int,
    share_prompts: bool = False,
    advance: Callable[[int], None] = lambda sequences: None,
) -> Tensor:
    """Log-probabilities of many completions without gradient, in large batches of similar length.

    Returns:
        (N,) float32 on the CPU, in nats, in the order of `sequences`.
    """
    units = [[sequence] for sequence in sequences]
    logps = torch.empty(len(sequences))
    if not units:
        return logps
    with evaluating(model):
        for rows in cut_micro_batches(units, token_budget=token_budget, share_prompts=share_prompts):
            chosen = [units[index] for index in rows]
            logps[rows] = completion_logps(model, chosen, pad_id=pad_id, share_prompts=share_prompts).cpu()
            advance(len(rows))
    return logps


def _parts(model: PreTrainedModel | nn.Module) -> tuple[nn.Module, nn.Module]:
    """The stack that makes hidden states, and the head that makes logits of them."""
    # Not by an attribute of peft's: it leaves some on the model inside, too.
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(inner, PreTrainedModel)
    head = inner.get_output_embeddings()
    assert isinstance(head, nn.Module)
    return getattr(inner, inner.base_model_prefix), head


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not its head applied to its hidden states (for example, soft-capped ones).

    Raises LabError naming the architecture.
    """
    ids = torch.arange(8, device=model.device)[None] % model.config.vocab_size
    backbone, head = _parts(model)
    with evaluating(model):
        ours = head(backbone(input_ids=ids, use_cache=False).last_hidden_state)
        whole = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(ours.float(), whole.float(), rtol=1e-3, atol=1e-3):
        raise LabError(
            f"{type(model).__name__} changes its logits after the language-model head (scaling or soft-capping), which "
            "kto-lab does not reproduce. Use another architecture."
        )


@torch.no_grad()
def sharing_is_exact(model: PreTrainedModel) -> bool:
    """Whether this architecture gives the same log-probabilities when completions share their prompt's row.

    Tried on the model itself: an architecture that ignores or rejects the mask of shared rows fails here, and is then
    run the plain way.
    """
    size = model.config.vocab_size
    prompt = tuple(i % size for i in range(1, 8))
    sequences = [Tokens(prompt, tuple((7 * i + k) % size for i in range(4 + k))) for k in range(3)]
    units = [[sequence] for sequence in sequences]
    try:
        with evaluating(model):
            plain = completion_logps(model, units, pad_id=0)
            shared = completion_logps(model, units, pad_id=0, share_prompts=True)
    except (RuntimeError, ValueError, TypeError):
        return False
    rough = plain.abs().max() * (1e-5 if next(model.parameters()).dtype == torch.float32 else 2e-2)
    return bool((plain - shared).abs().max() <= rough)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a block, and afterwards the mode that was before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
