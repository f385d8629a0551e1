"""`kto-lab feedback collect`: thumbs from a model's own answers and a checker.

Answers are sampled in blocks of prompts; each finished block is one shard on disk, written atomically. Run again with
the same settings, a stopped collection resumes at the first missing shard and gives the same table, because every block
is seeded by its own number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from kto_lab.errors import LabError
from kto_lab.feedback.checkers import pass_or_fail, score_answer
from kto_lab.feedback.prompts import CheckedPrompt
from kto_lab.hashing import content_hash
from kto_lab.kinds import Seed
from kto_lab.memory import within_memory
from kto_lab.models.generate import Answer, generate
from kto_lab.models.tokens import Encoder, Prompt
from kto_lab.sealed import read_json, recover, write_json

SAMPLED, WORKED = "sampled", "sampled with a worked example"


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled.

    Attributes:
        samples: answers per prompt.
        worked_samples: further answers per prompt, sampled with the prompt's worked example shown, where it has one.
            The row holds the prompt and the answer without the example, and says so in `origin`.
        temperature: of the sampling.
        max_new_tokens: where an answer is cut.
        batch_tokens: tokens of prompts and answers held at once, padding included.
        block: prompts per shard.
        seed: of the sampling.
        threshold: a sentiment score above it is a thumbs-up (checks that pass or fail ignore it).
    """

    samples: int
    worked_samples: int
    temperature: float
    max_new_tokens: int
    batch_tokens: int
    block: int
    seed: Seed
    threshold: float

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        least = {"samples": 1, "worked_samples": 0, "max_new_tokens": 1, "batch_tokens": 1, "block": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise LabError(f"sampling.{name} is {getattr(self, name)}; it must be at least {bound}.")
        if self.temperature <= 0:
            raise LabError(f"sampling.temperature is {self.temperature}; it must be above 0.")


def collect(
    model: PreTrainedModel,
    encoder: Encoder,
    prompts: Sequence[CheckedPrompt],
    sampling: Sampling,
    folder: Path,
    *,
    provenance: Mapping[str, Any],
    advance: Callable[[int], None] = lambda prompts: None,
) -> list[dict[str, Any]]:
    """Sample answers, judge them, and return rows for `build_table`; see the module's docstring.

    Args:
        model: the policy that answers.
        encoder: its tokenizer's encoder.
        prompts: what to ask, and how to check the answers.
        sampling: how to sample.
        folder: where the shards are written. It may hold shards of an interrupted call with the same arguments.
        provenance: where the model's weights came from.
        advance: called with the number of prompts whenever some are done.

    Raises:
        LabError: the folder holds shards of a collection with a different model or different settings.
    """
    asked = [[item.prompt, item.checks, item.group, list(item.worked)] for item in prompts]
    _claim(folder, content_hash(vars(sampling), dict(provenance), encoder.hashes, asked))
    rows: list[dict[str, Any]] = []
    for number, start in enumerate(range(0, len(prompts), sampling.block)):
        block = prompts[start : start + sampling.block]
        shard = folder / f"shard-{number:05d}.json"
        found = recover(shard, read_json, "its answers are sampled again")
        if found is None:
            found = {"rows": _collect_block(model, encoder, block, sampling, seed=sampling.seed + number)}
            write_json(shard, found)
        rows += found["rows"]
        advance(len(block))
    return rows


def words(row: Mapping[str, Any]) -> str:
    """The words of a row's answer, without its reasoning."""
    said = row["completion"]
    return str(said if isinstance(said, str) else said["content"])


def _claim(folder: Path, identity: str) -> None:
    """Mark the folder as this collection's; LabError where it belongs to another."""
    marker = folder / "collection.json"
    if marker.exists():
        mend = f"What {folder} was begun with is not known any more: remove the folder, or choose another output."
        if read_json(marker, mend)["identity"] != identity:
            raise LabError(
                f"{folder} holds an unfinished collection with another model, tokenizer or chat template, other "
                "prompts or other settings. Give the same ones to go on with it, choose another output, or remove the "
                "folder."
            )
        return
    write_json(marker, {"identity": identity})


@within_memory("answers", "Lower sampling.batch_tokens, which changes no answer, or sampling.max_new_tokens.")
def _collect_block(
    model: PreTrainedModel, encoder: Encoder, block: Sequence[CheckedPrompt], sampling: Sampling, *, seed: int
) -> list[dict[str, Any]]:
    def draw(prompts: list[Prompt], samples: int, seed: int) -> list[list[Answer]]:
        return generate(
            model,
            encoder,
            prompts,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            samples=samples,
            batch_tokens=sampling.batch_tokens,
            seed=seed,
        )

    rows = []
    for item, answers in zip(block, draw([item.prompt for item in block], sampling.samples, 2 * seed), strict=True):
        rows += [_row(item, answer, sampling, SAMPLED) for answer in answers]
    worked = [item for item in block if item.worked] if sampling.worked_samples else []
    if worked:
        shown: list[Prompt] = [[*item.worked, *item.prompt] for item in worked]
        for item, answers in zip(worked, draw(shown, sampling.worked_samples, 2 * seed + 1), strict=True):
            rows += [_row(item, answer, sampling, WORKED) for answer in answers]
    return rows


def _row(item: CheckedPrompt, answer: Answer, sampling: Sampling, origin: str) -> dict[str, Any]:
    score = score_answer(item.checks, answer.text)
    passed = bool(score) if pass_or_fail(item.checks) else score > sampling.threshold
    thought = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
    return {
        "prompt": item.prompt,
        "completion": {"role": "assistant", "content": answer.text, **thought} if thought else answer.text,
        "finished": answer.finished,
        "desirable": passed,
        "score": float(score),
        "group": item.group,
        "checks": item.checks,
        "origin": origin,
    }
