"""A reward model, any sequence classifier of transformers, and its scores of answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.judging.answer import Answer
from kto_lab.kinds import Dtype
from kto_lab.memory import within_memory
from kto_lab.models.chat_template import with_chat_template
from kto_lab.models.template_limit import within_limit
from kto_lab.models.tokenizer import dated, hashes
from kto_lab.models.turns import spoken

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Opened:
    """A reward model in memory.

    Attributes:
        tokenizer: the model's own.
        model: in eval mode, on the CPU.
        good: the number of the good class; None where the one output is the reward.
        chat: whether it reads the chat template over prompt and answer, else two texts.
        provenance: where its weights came from, and hashes of its tokenizer and chat template.
    """

    tokenizer: "PreTrainedTokenizerBase"
    model: "PreTrainedModel"
    good: int | None
    chat: bool
    provenance: dict[str, Any]


@dataclass(frozen=True)
class RewardModel:
    """Scores of answers by a sequence classifier.

    Attributes:
        model: a folder in Hugging Face format, or a hub name.
        revision: branch, tag or commit on the hub.
        base: where the model is an adapter, its base; None for the one that the adapter names.
        dtype: of the weights.
        template_date: what the chat template gets where it asks for the date.
        chat_template: in the place of the model's own; see `with_chat_template`.
        template_arguments: of the chat template; see `with_chat_template`.
        good: of a model with several classes, the name or the number of the good one; its log-odds are the score.
        layout: "chat" (the chat template over prompt and answer), "pair" (prompt and answer as two texts), or "auto":
            chat where the tokenizer has a template.
        max_tokens: of prompt and answer together.
        batch_tokens: tokens in one forward pass, padding included.
    """

    model: str
    revision: str | None
    base: str | None
    dtype: Dtype
    template_date: str
    chat_template: str | None
    # A mapping has no hash.
    template_arguments: Mapping[str, Any] | None = field(hash=False)
    good: str | int | None
    layout: Literal["auto", "chat", "pair"]
    max_tokens: int
    batch_tokens: int

    def open(self) -> Opened:
        """Load the model.

        Raises:
            LabError: it cannot be loaded, is no reward model, or does not fit the settings.
        """
        if self.layout not in ("auto", "chat", "pair"):
            raise LabError(f"labeler.layout is {self.layout!r}; it must be 'auto', 'chat' or 'pair'.")
        tokenizer, model, provenance = load(self.model, self.revision, self.dtype, self.base)
        tokenizer = with_chat_template(tokenizer, self.chat_template, self.template_arguments, node="labeler")
        tokenizer = dated(tokenizer, self.template_date)
        place = good_class(model, self.good)
        chat = bool(tokenizer.chat_template) if self.layout == "auto" else self.layout == "chat"
        if chat and not tokenizer.chat_template:
            raise LabError(
                f"The tokenizer of {self.model} has no chat template. Set labeler.chat_template, or use "
                "labeler.layout=pair."
            )
        return Opened(tokenizer, model, place, chat, {**provenance, **hashes(tokenizer)})

    @within_memory("the reward model's scores", "Lower labeler.batch_tokens, which changes no score but by rounding.")
    def scores(self, opened: Opened, answers: Sequence[Answer], device: "torch.device") -> list[float | None]:
        """(N,) the score of each answer: the reward, or the good class's log-odds in nats; None for one too long.

        Raises:
            LabError: a score is no finite number.
        """
        ids = [encode(opened.tokenizer, answer, chat=opened.chat) for answer in answers]
        read = [row for row, tokens in enumerate(ids) if len(tokens["input_ids"]) <= self.max_tokens]
        opened.model.to(device)  # type: ignore[arg-type]
        with narration.progress("answers judged", len(read)) as advance:
            found = score(
                opened.model,
                opened.tokenizer,
                [ids[row] for row in read],
                opened.good,
                self.batch_tokens,
                advance=advance,
            )
        known = dict(zip(read, found, strict=True))
        return [known.get(row) for row in range(len(answers))]


def load(
    name: str, revision: str | None, dtype: Dtype, base: str | None
) -> tuple["PreTrainedTokenizerBase", "PreTrainedModel", dict[str, Any]]:
    """A sequence classifier, its tokenizer and its provenance; remote code stays off.

    Raises:
        LabError: it cannot be loaded, or the weights lack a part, such as a language model's lack a classifier's head.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, PreTrainedModel

    from kto_lab.models.reading import Reader

    weights = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(dtype)
    if weights is None:
        raise LabError(f"labeler.dtype is {dtype!r}; use float32, bfloat16 or float16.")
    read = Reader(AutoModelForSequenceClassification, "SEQ_CLS", {"dtype": weights}, "labeler").read(
        name, revision, base=base
    )
    if read.missing:
        raise LabError(
            f"{name} is no trained sequence classifier: its weights lack {', '.join(read.missing)}, which would be "
            "random. Name a reward model; for a language model as judge use labeler=constitution."
        )
    model, tokenizer = read.model, read.tokenizer
    assert isinstance(model, PreTrainedModel) and tokenizer is not None
    if model.config.pad_token_id is None:
        # Decoders look for the last token that is no padding.
        model.config.pad_token_id = pad_id(tokenizer)
    return tokenizer, model.eval(), read.provenance


def pad_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The id that fills padding: the tokenizer's own, else that of the end of the sequence."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0


def good_class(model: "PreTrainedModel", good: str | int | None) -> int | None:
    """The number of the class that is good; None where the model has one output, which is the reward itself.

    Raises:
        LabError: there are several and `good` names none of them.
    """
    names = {int(number): str(name) for number, name in (model.config.id2label or {}).items()}
    if model.config.num_labels == 1:
        if good is not None:
            raise LabError("labeler.good names a class, but this model has one output, a reward. Leave it null.")
        return None
    for number, name in names.items():
        if good is not None and str(good) in (name, str(number)):
            return number
    said = "is not set" if good is None else f"is {good!r}"
    raise LabError(f"labeler.good {said}. Which class is the good one? This model has {', '.join(names.values())}.")


def encode(tokenizer: "PreTrainedTokenizerBase", answer: Answer, *, chat: bool) -> dict[str, list[int]]:
    """What the model reads of one answer, by the names that it knows, uncut."""
    if not chat:
        return dict(tokenizer(answer.prompt_text, answer.words))
    plain = isinstance(answer.prompt, str)
    prompt: Any = [{"role": "user", "content": answer.prompt}] if plain else answer.prompt
    said = answer.said
    messages, tools = spoken([*prompt, {"role": "assistant", "content": said} if isinstance(said, str) else said])
    with within_limit(tokenizer):
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    return dict(tokenizer(text, add_special_tokens=False))


def score(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, list[int]]],
    place: int | None,
    batch_tokens: int,
    *,
    advance: narration.Advance,
) -> list[float]:
    """Scores of many rows in their order: the one output, or the log-odds (nats) of class `place`.

    Raises:
        LabError: a score is no finite number.
    """
    import torch

    lengths = [len(row["input_ids"]) for row in rows]
    found = torch.empty(len(rows))
    filling = {"input_ids": pad_id(tokenizer), "attention_mask": 0, "token_type_ids": 0}
    for batch in _batches(lengths, batch_tokens):
        width = max(lengths[row] for row in batch)
        inputs = {
            name: torch.tensor([rows[row][name] + [fill] * (width - lengths[row]) for row in batch])
            for name, fill in filling.items()
            if name in rows[batch[0]]
        }
        with torch.no_grad():
            logits = model(**{name: value.to(model.device) for name, value in inputs.items()}).logits.float().cpu()
        if place is None:
            found[batch] = logits[:, 0]
        else:
            others = [number for number in range(logits.shape[1]) if number != place]
            found[batch] = logits[:, place] - logits[:, others].logsumexp(dim=1)
        advance(len(batch))
    if not torch.isfinite(found).all():
        raise LabError("The reward model gives scores that are no finite numbers. Try labeler.dtype=float32.")
    return [float(value) for value in found.tolist()]


def _batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Rows of similar length together, no batch of several above so many tokens with its padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
