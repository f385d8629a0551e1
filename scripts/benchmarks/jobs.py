"""What a contestant is told: where the model and the data are, and how to train. It travels as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

MAX_LENGTH = 512
LORA: dict[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}
LEARNING_RATE = 1e-6

FLOOR, OURS = "floor", "kto-lab"
TRL, TRL_DEFAULT, TRL_PRECOMPUTED = "trl", "trl-checkpointing", "trl-precomputed"
CONTESTANTS = (FLOOR, OURS, TRL, TRL_DEFAULT, TRL_PRECOMPUTED)
ABOUT = {
    FLOOR: "the policy's own forward and backward on the real tokens, nothing else",
    OURS: "`kto-lab train`, reference log-probs from the store",
    TRL: "TRL's trainer, without activation checkpointing",
    TRL_DEFAULT: "TRL's trainer as it comes: with activation checkpointing",
    TRL_PRECOMPUTED: "TRL's trainer with precompute_ref_log_probs, without activation checkpointing",
}

# An example has text, thumb and token ids; a unit one of them, or the chosen and the rejected one; a step has units.
Example: TypeAlias = dict[str, Any]
Step: TypeAlias = list[list[Example]]


@dataclass(frozen=True)
class Job:
    """One contestant's task.

    Attributes:
        contestant: one of `CONTESTANTS`.
        folder: its own, for whatever it writes.
        model: a folder in Hugging Face format, float32.
        thumbs: a JSONL file of thumbs, as `kto-lab train feedback=file` takes it.
        steps: a JSON file with the same examples in the order that every contestant takes them.
        loss: "kto" or "dpo".
        adapter: "none" or "lora".
        precision: "float32" or "bf16".
        threads: of torch.
        batch: units a step: thumbs, or pairs.
        max_length: of prompt and completion together, tokens.
        warmup: steps that are not measured.
        overrides: more words for `kto-lab train`.
        forgets: the peak of its memory begins anew after the warm-up.
    """

    contestant: str
    folder: str
    model: str
    thumbs: str
    steps: str
    loss: str
    adapter: str
    precision: str
    threads: int
    batch: int
    max_length: int
    warmup: int
    overrides: tuple[str, ...] = ()
    forgets: bool = False

    def as_json(self) -> str:
        """The job as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job of a line."""
        values = json.loads(text)
        return cls(**{**values, "overrides": tuple(values["overrides"])})

    def read_steps(self) -> list[Step]:
        """The steps that everybody takes; see `data.write_steps`."""
        steps: list[Step] = json.loads(Path(self.steps).read_text(encoding="utf-8"))
        return steps
