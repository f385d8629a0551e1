"""TRL as a contestant: its real trainers and their loop, held up after each step by a callback.

TRL's defaults are kept but for what is asked for: the batch, the precision, activation checkpointing (on by default),
and nothing saved or reported. Its order of the data is the order of the file, as its KTO demands.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.gate import Gate
from benchmarks.jobs import LEARNING_RATE, LORA, TRL_DEFAULT, TRL_PRECOMPUTED, Example, Job

TRAINERS = {"kto": (trl.KTOConfig, trl.KTOTrainer), "dpo": (trl.DPOConfig, trl.DPOTrainer)}


def main(job: Job) -> None:
    """Take the steps of a job."""
    gate = Gate()
    torch.set_num_threads(job.threads)
    steps = job.read_steps()
    config, kind = TRAINERS[job.loss]
    tokenizer = AutoTokenizer.from_pretrained(job.model, trust_remote_code=False)
    trainer: Any = kind(
        model=job.model,
        args=config(**options(job, len(steps))),
        train_dataset=Dataset.from_list([row(unit) for step in steps for unit in step]),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA) if job.adapter == "lora" else None,
    )
    trainer.data_collator = Counted(trainer.data_collator)
    for model in (trainer.model, trainer.ref_model):
        if model is not None:
            gate.watch(model, pad_id=tokenizer.pad_token_id, feeds_end=tokenizer.pad_token == tokenizer.eos_token)
    trainer.add_callback(Hold(gate, trainer.data_collator))
    trainer.train()


def options(job: Job, steps: int) -> dict[str, Any]:
    """The options of TRL's configuration that a job asks for."""
    return {
        "output_dir": str(Path(job.folder) / "trl"),
        "use_cpu": not torch.cuda.is_available(),
        "per_device_train_batch_size": job.batch,
        "max_length": job.max_length,
        "max_steps": steps,
        "learning_rate": LEARNING_RATE,
        "train_sampling_strategy": "sequential",
        "bf16": job.precision == "bf16",
        "gradient_checkpointing": job.contestant == TRL_DEFAULT,
        "precompute_ref_log_probs": job.contestant == TRL_PRECOMPUTED,
        "model_init_kwargs": {"dtype": "float32"},
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def row(unit: list[Example]) -> dict[str, Any]:
    """A unit in TRL's columns."""
    first = unit[0]
    if len(unit) == 2:
        return {"prompt": first["prompt"], "chosen": first["completion"], "rejected": unit[1]["completion"]}
    return {"prompt": first["prompt"], "completion": first["completion"], "label": first["label"]}


class Counted:
    """A collator that remembers the real tokens of its batches, which are made one step ahead."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        """Count what this one makes."""
        self.collate = collate
        self.tokens: deque[int] = deque()

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch."""
        batch = self.collate(examples)
        self.tokens.append(int(batch["attention_mask"].sum()))
        return batch


class Hold(TrainerCallback):
    """Holds the trainer up after each step, until the next is wanted."""

    def __init__(self, gate: Gate, counted: Counted) -> None:
        """Wait at this gate."""
        self.gate, self.counted = gate, counted

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The first step can be taken."""
        self.gate.ready(device=next(kwargs["model"].parameters()).device.type)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A step is done."""
        self.gate.done(tokens=self.counted.tokens.popleft())
