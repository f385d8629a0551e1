"""Whole runs on models whose tokenizers and templates are a folder's: what a run depends on, and what it saves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, PreTrainedTokenizerFast

from kto_lab.errors import LabError
from kto_lab.models.tiny import random_llama
from kto_lab.runs.command import train
from kto_lab.runs.identity import identify
from kto_lab.runs.record import RECORD, read_record
from tests.small_runs import composed, overrides, write_jsonl
from tests.small_tokenizers import dated, end_as_text, end_not_eos


def words(folder: Path, make: Callable[[], PreTrainedTokenizerFast], *more: str) -> list[str]:
    """The command line of a run of three steps on chat prompts, on a model in `folder`/model."""
    tokenizer = make()
    model = random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows: list[dict[str, Any]] = []
    for number in range(24):
        chat = [{"role": "user", "content": f"{number}?"}]
        for up in (True, False):
            said = f"{number} {up}" + ("<|im_end|>" if number == 0 else " <|pad|>!" if number == 1 else "")
            split = "test" if number % 4 == 3 else "train"
            rows.append({"prompt": chat, "completion": said, "label": up, "split": split})
    write_jsonl(folder / "thumbs.jsonl", rows)
    own = [word for word in overrides(folder) if not word.startswith("model")]
    return [*own, "model=hf", f"model.name={folder / 'model'}", "optimization.max_steps=12", *more]


@pytest.mark.parametrize(
    ("make", "ends", "stop_strings"), [(end_as_text, 0, ["<|im_end|>"]), (end_not_eos, [0, 2], None)]
)
def test_the_saved_policy_ends_where_training_did_and_the_record_says_what_was_done_to_the_texts(
    make: Callable[[], PreTrainedTokenizerFast], ends: int | list[int], stop_strings: list[str] | None, tmp_path: Path
) -> None:
    folder = train(composed(words(tmp_path, make, "adapter=lora", "adapter.rank=4")))
    settings = GenerationConfig.from_pretrained(folder / "policy")
    assert (settings.eos_token_id, settings.stop_strings) == (ends, stop_strings)
    training = read_record(folder)["training"]
    assert (training["end_in_text"], training["special_tokens_in_text"]) == (2, 2)
    assert training["special_tokens_in_prompt"] == 0


def test_a_template_or_tokenizer_that_was_edited_is_not_resumed_with(tmp_path: Path) -> None:
    line = words(tmp_path, dated)
    folder = train(composed(line))
    record = read_record(folder)
    (folder / RECORD).unlink()
    template = tmp_path / "model" / "chat_template.jinja"
    kept = template.read_text()
    identity = identify(composed(line)).run_id
    template.write_text(kept.replace("Today is", "It is"))
    assert identify(composed(line)).run_id != identity
    with pytest.raises(LabError, match=r"unfinished run with another chat template\. Put back what it began with"):
        train(composed(line))
    template.write_text(kept)
    core = tmp_path / "model" / "tokenizer.json"
    whole = core.read_text()
    changed = json.loads(whole)
    changed["normalizer"] = {"type": "Lowercase"}
    core.write_text(json.dumps(changed))
    with pytest.raises(LabError, match="unfinished run with another tokenizer"):
        train(composed(line))
    core.write_text(whole)
    again = read_record(train(composed(line)))
    assert again["run_id"] == record["run_id"] == identity
    assert again["model"]["chat_template"] == record["model"]["chat_template"]


def test_the_date_is_a_key_of_the_run(tmp_path: Path) -> None:
    line = words(tmp_path, dated)
    (train(composed(line)) / RECORD).unlink()
    with pytest.raises(LabError, match=r"another model\.template_date"):
        train(composed([*line, "model.template_date=2025-12-24"]))
    policy = (tmp_path / "run" / "policy" / "chat_template.jinja").read_text()
    assert policy == (tmp_path / "model" / "chat_template.jinja").read_text() and "strftime_now" in policy
