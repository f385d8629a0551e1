"""Data for the benchmark: English text, log-normal lengths, the same examples in the same order for everybody.

Prompts have 20 to 201 tokens (median 59), completions 22 to 300 (median 112), as in many logs of chats. The text is
that of the answers which this package ships, cut into pieces of whole words that fit; what it says does not matter for
speed. Half of the thumbs are up.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from benchmarks.jobs import LEARNING_RATE
from kto_lab import cli
from kto_lab.feedback.corruption import Corrupted
from kto_lab.feedback.table import of_split
from kto_lab.files import write_json, write_text
from kto_lab.models.tokens import Encoder
from kto_lab.training.data import TrainingData, prepare

SEED = 0
STORE_KEY = "reference_store"
MODELS = {"smollm2": ["model=smollm2-135m", "model.source=registry"], "tiny": ["model=tiny"]}
TEXT = Path(cli.__file__).parent / "feedback" / "data" / "instruction_checks.parquet"


@dataclass(frozen=True)
class Lengths:
    """A log-normal distribution of lengths in tokens, cut at both ends."""

    low: int
    median: float
    high: int
    sigma: float

    def draw(self, rng: np.random.Generator) -> int:
        """One length; what falls outside is drawn again."""
        while True:
            length = round(float(rng.lognormal(np.log(self.median), self.sigma)))
            if self.low <= length <= self.high:
                return length

    def scaled(self, factor: float) -> "Lengths":
        """The same distribution for longer or shorter texts."""
        return replace(
            self, low=max(2, round(self.low * factor)), median=self.median * factor, high=round(self.high * factor)
        )


PROMPTS = Lengths(20, 59, 201, 0.53)
COMPLETIONS = Lengths(22, 112, 300, 0.52)


class Words:
    """Shipped English text as words, dealt out one piece after another; from the start again at its end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Count the tokens of each word."""
        self.words = " ".join(pd.read_parquet(TEXT, columns=["completion"])["completion"]).split()
        ids = tokenizer([" " + word for word in self.words], add_special_tokens=False)["input_ids"]
        self.tokens = [len(one) for one in ids]
        self.at = 0

    def piece(self, length: int) -> str:
        """The next words, of at most this many tokens but for the first; each has a space before it."""
        taken: list[str] = []
        count = 0
        while not taken or count + self.tokens[self.at] <= length:
            taken.append(self.words[self.at])
            count += self.tokens[self.at]
            self.at = (self.at + 1) % len(self.words)
        return " " + " ".join(taken)


def write_thumbs(
    file: Path, tokenizer: PreTrainedTokenizerBase, *, prompts: int, completions: int, scale: float = 1.0
) -> None:
    """Write thumbs for `feedback=file`, and one held-out prompt, without which there is no run.

    Args:
        file: to write, JSONL.
        tokenizer: lengths are in its tokens.
        prompts: how many there are.
        completions: of each prompt, up and down in turn.
        scale: of all lengths.
    """
    rng, words = np.random.default_rng(SEED), Words(tokenizer)
    asked, answered = PROMPTS.scaled(scale), COMPLETIONS.scaled(scale)
    rows = []
    for number in range(prompts):
        # A prompt must be no other's: their examples would be taken for answers to one prompt.
        prompt = f"{number}." + words.piece(asked.draw(rng))
        for place in range(completions):
            text = words.piece(answered.draw(rng))
            up = (number * completions + place) % 2 == 0
            rows.append({"prompt": prompt, "completion": text, "label": up, "split": "train"})
    rows.append({"prompt": "Held out.", "completion": " Yes.", "label": True, "split": "test"})
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


def overrides(
    *, model: Path, thumbs: Path, run_dir: Path, loss: str, adapter: str, batch: int, steps: int, max_length: int
) -> list[str]:
    """The words that make `kto-lab train` take these steps on these thumbs, and do nothing else."""
    return [
        "model=hf",
        f"model.name={model}",
        "feedback=file",
        f"feedback.path={thumbs}",
        "feedback.columns.split=split",
        f"loss={loss}",
        f"adapter={adapter}",
        "evaluation=none",
        f"run_dir={run_dir}",
        f"lengths.max_length={max_length}",
        f"optimization.batch_size={batch}",
        f"optimization.max_steps={steps}",
        f"optimization.learning_rate={LEARNING_RATE}",
        "optimization.checkpoint_every=1000000",
    ]


def composed(words: Sequence[str]) -> DictConfig:
    """The configuration of `kto-lab train` with these words."""
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        return compose("train", list(words))


def write_steps(file: Path, cfg: DictConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Write the order that `kto-lab train` takes its thumbs in, for the others to take the same.

    The file holds a list of steps; a step is a list of units, a unit a list of examples (one, or the chosen and the
    rejected one) with their text, thumb and token ids.

    Returns:
        What the data are, in numbers.
    """
    table = of_split(instantiate(cfg.feedback), "train")
    objective, optimization = instantiate(cfg.loss), instantiate(cfg.optimization)
    data = prepare(Corrupted(table, ()), Encoder(tokenizer, instantiate(cfg.lengths)), objective, optimization, seed=0)
    prompts, completions = table["prompt"][:], table["completion"][:]

    def example(row: int) -> dict[str, Any]:
        tokens = data.tokens[row]
        return {
            "prompt": prompts[row],
            "completion": completions[row],
            "label": data.desirable[row],
            "prompt_ids": list(tokens.prompt),
            "completion_ids": list(tokens.completion),
        }

    steps = [[[example(row) for row in data.plan.units[unit]] for unit in step] for step in data.plan.steps.tolist()]
    write_json(file, steps)
    return described(data, steps)


def described(data: TrainingData, steps: list[list[list[dict[str, Any]]]]) -> dict[str, Any]:
    """The data in numbers."""
    if data.cut or data.dropped:
        raise ValueError(f"{data.cut} completions are cut and {data.dropped} dropped: the contestants might not agree")
    examples = [example for step in steps for unit in step for example in unit]
    asked = [len(example["prompt_ids"]) for example in examples]
    answered = [len(example["completion_ids"]) for example in examples]
    padded = [
        len(rows) * max(len(e["prompt_ids"]) + len(e["completion_ids"]) for e in rows)
        for rows in ([example for unit in step for example in unit] for step in steps)
    ]
    return {
        "steps": len(steps),
        "examples_a_step": len(examples) // len(steps),
        "tokens_a_step": (sum(asked) + sum(answered)) / len(steps),
        "completion_tokens_a_step": sum(answered) / len(steps),
        "prompt_tokens": [min(asked), median(asked), max(asked)],
        "completion_tokens": [min(answered), median(answered), max(answered)],
        "padding_of_a_padded_batch": 1 - (sum(asked) + sum(answered)) / sum(padded),
    }


def save_model(name: str, folder: Path) -> PreTrainedTokenizerBase:
    """Write a model's float32 weights and tokenizer into a folder that everybody loads from."""
    loaded = instantiate(composed(MODELS[name]).model)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    tokenizer: PreTrainedTokenizerBase = loaded.tokenizer
    return tokenizer


def has_store() -> bool:
    """Whether kto-lab keeps the reference's log-probs from run to run."""
    return STORE_KEY in composed([])
