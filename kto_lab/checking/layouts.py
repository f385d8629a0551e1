"""Checks of packed rows: against padded ones, and that no sequence of a row sees another, for each architecture."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from kto_lab.checking import families
from kto_lab.checking.comparing import difference, largest, within
from kto_lab.checking.policies import VOCABULARY, device, logps, plain_logps, sequences
from kto_lab.checking.row import Row
from kto_lab.checking.settings import Limits, Size
from kto_lab.models.sequences import Tokens

MEND = "Rows of this architecture are not laid out as on the lab's own machines: report the versions above."


def architectures(size: Size, limits: Limits) -> list[Row]:
    """A row per architecture: how far log-probabilities move by packing, by sharing prompts and by other neighbours."""
    tokens = sequences(size)
    return [_row(name, families.model(name, size), tokens, limits) for name in families.CONFIGS]


@torch.no_grad()
def _row(name: str, model: PreTrainedModel, tokens: Sequence[Tokens], limits: Limits) -> Row:
    torch.nn.Module.to(model, device())
    plain, packed = plain_logps(model, tokens), logps(model, tokens, packed=True)
    errors = {
        "padded": difference(logps(model, tokens), plain),
        "packed": difference(packed, plain),
        "prompts shared": difference(logps(model, tokens, packed=True, share_prompts=True), plain),
        "other neighbours": moved_by_neighbours(model, tokens),
    }
    worst = largest(list(errors.values()))
    where = next(what for what, error in errors.items() if not error < worst)
    return within(f"rows of {name}", worst, limits.packed, where=where, mend=MEND)


def moved_by_neighbours(model: PreTrainedModel, tokens: Sequence[Tokens]) -> float:
    """How far the log-probabilities of a packed row's even sequences move when the odd ones are others, and back."""
    before, errors = logps(model, tokens, packed=True), []
    for parity in (0, 1):
        others = [one if number % 2 == parity else _other(one) for number, one in enumerate(tokens)]
        after = logps(model, others, packed=True)
        errors.append(difference(after[parity::2], before[parity::2]))
    return largest(errors)


def _other(sequence: Tokens) -> Tokens:
    """A sequence of the same lengths, of which each token is another."""
    return Tokens(
        *(tuple((token + 41) % VOCABULARY for token in part) for part in (sequence.prompt, sequence.completion))
    )
