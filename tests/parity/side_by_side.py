"""The same models, tokens and batch through this package and through TRL.

TRL's trainers tokenise the text, collate the batch and compute the loss by themselves. This package gets the text, too;
that both see the same tokens is asserted. Losses of single examples come from TRL as the loss of a batch that is cut
down to one example; that their mean is the loss of the whole batch is asserted as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.losses import Pairs, Thumbs
from kto_lab.models.logps import completion_logps
from kto_lab.models.sequences import Tokens
from kto_lab.models.tokens import Encoder

Thumb: TypeAlias = tuple[str, str, bool]
"""Prompt, completion, and whether it is desirable."""
Pair: TypeAlias = tuple[str, str, str]
"""Prompt, chosen and rejected completion."""

TOLERANCE = 1e-5

# Short, since a sum over tokens of a hundred nats is itself rounded to 1e-5 in float32.
PAIRS: list[Pair] = [
    ("2+2=", "4", "four?"),
    ("Name a colour.", " Blue.", " No."),
    ("Say hi", "Hi there!", "Go away"),
    ("What is the capital of France?", " Paris", " It is Lyon"),
    ("Count to three", ": 1 2 3", ": 1"),
    ("Yes or no?", " Yes", " Who knows?"),
]
# One thumb a prompt, up and down in turn.
THUMBS: list[Thumb] = [
    (prompt, rejected if number % 2 else chosen, number % 2 == 0)
    for number, (prompt, chosen, rejected) in enumerate(PAIRS)
]
NO_SHIFT = torch.zeros(())


@dataclass(frozen=True)
class Outcome:
    """What one implementation makes of a batch.

    Attributes:
        losses: (N,) one for each thumb or pair.
        gradients: of the batch's loss, for every parameter of the policy.
    """

    losses: Tensor
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Bench:
    """Two models, and what is needed to put text through them in both ways."""

    policy: LlamaForCausalLM
    reference: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    encoder: Encoder
    folder: Path

    def swapped(self) -> "Bench":
        """The same with policy and reference in each other's place, which turns the sign of every log-ratio."""
        return Bench(self.reference, self.policy, self.tokenizer, self.encoder, self.folder)

    def encode(self, prompt: str, completion: str) -> Tokens:
        tokens = self.encoder.encode(prompt, completion)
        assert tokens is not None
        return tokens

    def encode_pairs(self, rows: Sequence[Pair]) -> tuple[list[Tokens], list[Tokens]]:
        """The chosen and the rejected sequences."""
        chosen = [self.encode(prompt, better) for prompt, better, _ in rows]
        return chosen, [self.encode(prompt, worse) for prompt, _, worse in rows]

    def logps(self, model: nn.Module, sequences: Sequence[Tokens]) -> Tensor:
        """(N,) log-probabilities of the completions, as training computes them."""
        return completion_logps(model, [[tokens] for tokens in sequences], pad_id=self.encoder.pad_id)

    def logratios(self, sequences: Sequence[Tokens]) -> Tensor:
        """(N,) r, without gradient."""
        with torch.no_grad():
            return self.logps(self.policy, sequences) - self.logps(self.reference, sequences)

    def thumbs(
        self, rows: Sequence[Thumb] = THUMBS, *, z0: Tensor = NO_SHIFT, weights: tuple[float, float] = (1.0, 1.0)
    ) -> Thumbs:
        """Thumbs as a loss gets them; `weights` are lambda_D and lambda_U."""
        sequences = [self.encode(prompt, completion) for prompt, completion, _ in rows]
        desirable = torch.tensor([up for _, _, up in rows])
        return Thumbs(
            policy=self.logps(self.policy, sequences),
            reference=self.logps(self.reference, sequences).detach(),
            desirable=desirable,
            lambda_desirable=weights[0],
            lambda_undesirable=weights[1],
            z0=z0,
        )

    def pairs(self, rows: Sequence[Pair] = PAIRS) -> Pairs:
        """Pairs as a loss gets them."""
        chosen, rejected = self.encode_pairs(rows)
        return Pairs(
            policy_chosen=self.logps(self.policy, chosen),
            policy_rejected=self.logps(self.policy, rejected),
            reference_chosen=self.logps(self.reference, chosen).detach(),
            reference_rejected=self.logps(self.reference, rejected).detach(),
            lengths_chosen=torch.tensor([len(tokens.completion) for tokens in chosen]),
            lengths_rejected=torch.tensor([len(tokens.completion) for tokens in rejected]),
        )

    def ours(self, losses: Tensor) -> Outcome:
        """The outcome of a step whose loss is the mean of these."""
        return Outcome(losses.detach(), gradients_of(losses.mean(), self.policy))

    def trainer(self, trainer: type, config: type, rows: list[dict[str, Any]], **options: Any) -> Any:
        """One of TRL's trainers over these rows, in float32 on the CPU, all rows in one batch."""
        plain = {
            "output_dir": str(self.folder / "trl"),
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "max_grad_norm": 0.0,
            "per_device_train_batch_size": len(rows),
            "max_steps": 1,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "max_length": self.encoder.lengths.max_length,
        }
        arguments = config(**(plain | options))
        models = {"model": self.policy}
        if "ref_model" in signature(trainer).parameters:
            models["ref_model"] = self.reference
        return trainer(**models, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=self.tokenizer)


def thumb_rows(rows: Sequence[Thumb] = THUMBS) -> list[dict[str, Any]]:
    """Thumbs in TRL's columns."""
    return [{"prompt": prompt, "completion": text, "label": desirable} for prompt, text, desirable in rows]


def pair_rows(rows: Sequence[Pair] = PAIRS) -> list[dict[str, Any]]:
    """Pairs in TRL's columns."""
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in rows]


def collate(trainer: Any, rows: Sequence[int] | None = None) -> dict[str, Any]:
    """TRL's batch of these of its rows, or of all; in their order, whatever order it trains in."""
    rows = range(len(trainer.train_dataset)) if rows is None else rows
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    assert isinstance(batch, dict)
    return batch


def cut(batch: dict[str, Any], rows: int, *, whole: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """A batch of TRL's cut down to each of its rows; keys that start as in `whole` stay as they are."""
    return [
        {key: value if key.startswith(whole) else value[row : row + 1] for key, value in batch.items()}
        for row in range(rows)
    ]


def real_tokens(input_ids: Tensor, attention_mask: Tensor, scored: Tensor) -> list[Tokens]:
    """What TRL's padded rows hold; `scored` is true on completion tokens."""
    rows = []
    for ids, seen, last in zip(input_ids, attention_mask.bool(), scored.bool(), strict=True):
        rows.append(Tokens(tuple(ids[seen & ~last].tolist()), tuple(ids[seen & last].tolist())))
    return rows


def theirs(
    trainer: Any,
    batch: dict[str, Any],
    examples: Sequence[dict[str, Any]],
    loss_of_one: Callable[[dict[str, Any]], Tensor] | None = None,
) -> Outcome:
    """TRL's outcome of a batch.

    Args:
        trainer: one of TRL's.
        batch: of that trainer.
        examples: the same batch cut down to one example each.
        loss_of_one: TRL's loss of one of these, where it isn't the trainer's of any batch.
    """
    loss = trainer.compute_loss(trainer.model, batch)
    loss_of_one = loss_of_one or partial(trainer.compute_loss, trainer.model)
    losses = torch.stack([loss_of_one(example).detach() for example in examples])
    assert abs(losses.mean() - loss.detach()) <= TOLERANCE * losses.abs().max()
    return Outcome(losses, gradients_of(loss, trainer.model))


def theirs_one_by_one(trainer: Any, examples: Sequence[dict[str, Any]]) -> Outcome:
    """TRL's outcome where each example is a batch of its own, and the loss is the mean of theirs."""
    losses = torch.stack([trainer.compute_loss(trainer.model, example) for example in examples])
    return Outcome(losses.detach(), gradients_of(losses.mean(), trainer.model))


def gradients_of(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """The gradient of a loss for every parameter, by name."""
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def assert_same(ours: Outcome, theirs: Outcome) -> None:
    """Losses agree to 1e-5, and gradients to 1e-5 of the largest entry of any."""
    assert theirs.losses.shape == ours.losses.shape and len(theirs.losses) > 1
    assert theirs.losses.std() > 1e-2, "losses that are all alike would show little"
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=0, atol=TOLERANCE)
    assert_same_gradients(ours.gradients, theirs.gradients)


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Every parameter's gradient agrees to 1e-5 of the largest entry of any."""
    assert ours.keys() == theirs.keys()
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    assert largest > 1e-2, "gradients of about zero would show little"
    for name, gradient in theirs.items():
        torch.testing.assert_close(
            ours[name], gradient, rtol=0, atol=TOLERANCE * largest, msg=partial("{} {}".format, name)
        )
