"""`benchmark.py generation`: greedy answers of kto-lab beside those of transformers' `generate`, from texts to tokens.

Both answer the same prompts with the same weights in one process, in turns. kto-lab's answers leave the batch when they
end, and are made texts; transformers pads every one to the longest. Where answers differ, rounding has tipped a token.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from transformers import PreTrainedModel

from benchmarks import data, machine, showing
from benchmarks.steps import spread
from kto_lab.feedback.prompts import arithmetic, instruction_checks
from kto_lab.files import write_json
from kto_lab.models.generate import generate
from kto_lab.models.tokens import Encoder, Prompt

# Tokens of a batch that holds any prompts: transformers has them all in one, too.
ALL = 2**40
OURS, THEIRS = "kto-lab", "transformers"


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: "smollm2" (chat prompts of `instruction_checks`) or "tiny" (sums).
        prompts: how many, all in one batch.
        tokens: the most an answer has.
        rounds: how often each answers; a round before that is not counted.
        threads: of torch.
    """

    model: str
    prompts: int
    tokens: int
    rounds: int
    threads: int


def main(settings: Settings, target: Path) -> Path:
    """Measure, print a table, and save it."""
    described = machine.described()
    rows = measure(settings)
    asked = vars(settings)
    showing.show_rows(f"{settings.prompts} greedy answers of at most {settings.tokens} tokens, {settings.model}", rows)
    file = target / f"generation-{settings.model}-{settings.prompts}prompts-{settings.tokens}tokens.json"
    write_json(file, {"kind": "generation", "machine": described, "settings": asked, "generation": rows})
    return file


def measure(settings: Settings) -> list[dict[str, Any]]:
    """One row each way: tokens per second, and that over transformers' in the same round."""
    torch.set_num_threads(settings.threads)
    cfg = data.composed(data.MODELS[settings.model])
    loaded = instantiate(cfg.model)
    encoder = Encoder.of(loaded, instantiate(cfg.lengths))
    checked = arithmetic(settings.prompts, 99, data.SEED) if settings.model == "tiny" else instruction_checks()
    prompts = [one.prompt for one in checked[: settings.prompts]]
    ways: dict[str, Callable[[], list[list[int]]]] = {
        OURS: lambda: ours(loaded.model, encoder, prompts, settings.tokens),
        THEIRS: lambda: theirs(loaded.model, encoder, prompts, settings.tokens),
    }
    answers = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(settings.rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            begun = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - begun)
    same = sum(one == other for one, other in zip(*answers.values(), strict=True))
    count = {name: sum(map(len, found)) for name, found in answers.items()}
    speeds = {name: [count[name] / one for one in seconds[name]] for name in ways}
    over = {name: [one / base for one, base in zip(speeds[name], speeds[THEIRS], strict=True)] for name in ways}
    return [
        {
            "": name,
            "tokens per second": showing.ranged(spread(speeds[name])),
            "times transformers'": showing.ranged(spread(over[name])),
            "tokens": count[name],
            "answers that are the same": f"{same} of {settings.prompts}",
        }
        for name in ways
    ]


def ours(model: PreTrainedModel, encoder: Encoder, prompts: Sequence[Prompt], most: int) -> list[list[int]]:
    """Token ids of kto-lab's answers."""
    found = generate(model, encoder, prompts, max_new_tokens=most, batch_tokens=ALL)
    return [list(answer.tokens) for (answer,) in found]


@torch.inference_mode()
def theirs(model: PreTrainedModel, encoder: Encoder, prompts: Sequence[Prompt], most: int) -> list[list[int]]:
    """Token ids of transformers' answers, up to the token that ends them."""
    ids = [encoder.prompt(prompt) for prompt in prompts]
    width, pad = max(map(len, ids)), encoder.pad_id
    stop = encoder.ending(chat=not isinstance(prompts[0], str)).stop_ids
    inputs = torch.tensor([[pad] * (width - len(one)) + list(one) for one in ids])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids])
    model.eval()
    found = model.generate(  # type: ignore[operator]
        inputs,
        attention_mask=mask,
        max_new_tokens=most,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=list(stop),
        pad_token_id=pad,
    )
    return [until(answer, stop) for answer in found[:, width:].tolist()]


def until(tokens: Sequence[int], stop: Sequence[int]) -> list[int]:
    """Tokens up to the first that ends an answer, with it."""
    end = next((place + 1 for place, token in enumerate(tokens) if token in stop), len(tokens))
    return list(tokens[:end])
