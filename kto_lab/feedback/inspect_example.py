"""One example as a model reads it: what it is asked, and which tokens it would be trained on."""

import textwrap
from dataclasses import dataclass
from itertools import groupby

from datasets import Dataset
from rich.text import Text

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.models.ending import control_tokens, read
from kto_lab.models.load import Loaded
from kto_lab.models.sequences import completions_of, places_of
from kto_lab.models.tokens import Encoder, Lengths

# Longer than any prompt: nothing is cut here.
_NO_LIMIT = 2**31
_BEGIN, _END = "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}", "\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}"
_NEW_LINE = "\N{RETURN SYMBOL}\n"
_MOST = 3000
_STYLES = {"prompt": "cyan", "trained": "bold green"}


@dataclass(frozen=True)
class ReadExample:
    """An example as a model reads it.

    Attributes:
        place: where it was read, or its identity.
        desirable: its thumb.
        prompt: text of the prompt, special tokens included.
        trained: text of what is trained, special tokens included.
        prompt_ids: tokens of the prompt.
        trained_ids: tokens that are trained: of the completion, with its end.
        notes: what the chat template does that is not plain from the text.
    """

    place: str
    desirable: bool
    prompt: str
    trained: str
    prompt_ids: tuple[int, ...]
    trained_ids: tuple[int, ...]
    notes: tuple[str, ...]


def read_example(loaded: Loaded, train: Dataset, number: int) -> ReadExample:
    """A row of the training split, as a model reads it.

    Raises:
        LabError: there is no such row, or the model cannot read it.
    """
    if not 0 <= number < len(train):
        raise LabError(f"example is {number}; the training split has the examples 0 to {len(train) - 1}.")
    encoder = Encoder.of(loaded, Lengths(max_length=_NO_LIMIT))
    row = train.select([number])
    prompt, (completion,), (place,) = row["prompt"][0], completions_of(row), places_of(row)
    tokens = encoder.encode(prompt, completion, finished=row["finished"][0], where=place)
    assert tokens is not None
    return ReadExample(
        place,
        row["desirable"][0],
        read(encoder.tokenizer, tokens.prompt),
        read(encoder.tokenizer, tokens.completion),
        tokens.prompt,
        tokens.completion,
        encoder.notes(chat=not isinstance(prompt, str)),
    )


def show_example(loaded: Loaded, example: ReadExample) -> None:
    """Show it: the prompt and what is trained in colours of their own, special tokens reversed."""
    controls = control_tokens(loaded.tokenizer)
    shown = Text()
    for name, ids in (("prompt", example.prompt_ids), ("trained", example.trained_ids)):
        shown.append(_BEGIN if name == "trained" else "", "bold")
        for special, run in groupby(ids, controls.__contains__):
            # Ordinary tokens together: one may hold part of a character.
            text = _printable(read(loaded.tokenizer, list(run)))
            shown.append(text, f"{_STYLES[name]} reverse" if special else _STYLES[name])
    shown.append(_END, "bold")
    thumb = "desirable" if example.desirable else "undesirable"
    console.say(
        f"    {example.place}, {thumb}: {len(example.prompt_ids)} tokens of prompt, "
        f"{len(example.trained_ids)} tokens trained"
    )
    for note in example.notes:
        for line in textwrap.wrap(note, 76):
            console.say(f"    {line}")
    console.console().print()
    console.console().print(_middle(shown), soft_wrap=True)
    console.console().print()
    legend = Text("    ")
    legend.append("prompt", _STYLES["prompt"])
    legend.append(f"  {_BEGIN}", "bold").append("trained", _STYLES["trained"]).append(_END, "bold")
    console.console().print(legend.append("  ").append("special token", "reverse"))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else _NEW_LINE if c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _middle(shown: Text) -> Text:
    """A long example without its middle."""
    if len(shown) <= _MOST:
        return shown
    left_out = f"\n[... {len(shown) - _MOST} characters ...]\n"
    return Text.assemble(shown[: _MOST // 2], (left_out, "dim"), shown[-_MOST // 2 :])
