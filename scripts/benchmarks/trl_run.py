"""One run of TRL's KTO from a file of thumbs to a saved policy, as a script of a person's own would be."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import KTOConfig, KTOTrainer


def main(spec: dict[str, Any]) -> None:
    """Load, tokenise, train, save; `sweeps.theirs` says what a specification holds."""
    rows = [json.loads(line) for line in Path(spec["rows"]).read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(spec["model"], trust_remote_code=False)
    own = {"model_init_kwargs": {"dtype": "float32"}, "output_dir": spec["folder"]}
    trainer = KTOTrainer(
        model=spec["model"],
        args=KTOConfig(**own, **spec["options"]),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(spec["folder"])
