"""The rows of other tools, made from examples: what `kto-lab feedback export` writes, by format.

Each format has a function for a thumb, one for a pair, or both, and says what it cannot hold. `presets` reads them
back.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kto_lab.errors import LabError
from kto_lab.feedback import argilla

Example: TypeAlias = Mapping[str, Any]
Row: TypeAlias = dict[str, Any]
# Columns of the table that a row keeps beside a tool's own, where the tool lets it.
BESIDE = ("group", "checks", "rater", "score", "timestamp", "finished", "split")
_NAMES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
_GUIDELINES = "Is the response what a good rater would want? Up or down; the suggestion is the thumb that it has."


@dataclass(frozen=True)
class Format:
    """How a tool reads feedback.

    Attributes:
        suffix: of the file of a split.
        thumb: the row of an example; None: the tool has no such rows.
        pair: the row of a desirable and an undesirable example.
        beside: the rows keep `BESIDE`.
        chat: prompts are chat messages; a text becomes a user message.
        further: further files of a folder: from the file of each split and whether rows are pairs to name and content.
        write: how rows are written to a path; by default as lines or a list of JSON, by the suffix.
    """

    suffix: str
    thumb: Callable[[Example], Row] | None = None
    pair: Callable[[Example, Example], Row] | None = None
    beside: bool = False
    chat: bool = True
    further: Callable[[Mapping[str, str], bool], dict[str, Any]] | None = None
    write: Callable[[Path, Iterable[Row]], None] | None = None

    def write_rows(self, file: Path, rows: Iterable[Row]) -> None:
        """Write the rows of a split."""
        if self.write is not None:
            self.write(file, rows)
            return
        with file.open("w", encoding="utf-8") as handle:
            handle.writelines(_lines(rows) if self.suffix == ".jsonl" else _list(rows))


def kept_beside(columns: Mapping[str, list[Any]]) -> list[str]:
    """The columns of `BESIDE` that say something: not those that are empty, or true, throughout."""
    says = {name: any(value not in (None, "") for value in columns[name]) for name in BESIDE}
    return [name for name in BESIDE if says[name] and not (name == "finished" and all(columns[name]))]


def _lines(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        yield _json(row) + "\n"


def _list(rows: Iterable[Row]) -> Iterator[str]:
    before = "[\n"
    for row in rows:
        yield before + _json(row)
        before = ",\n"
    yield "\n]\n" if before == ",\n" else "[]\n"


def _json(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _trl_thumb(example: Example) -> Row:
    prompt = _asked(example)
    answer = example["completion"] if isinstance(prompt, str) else [_answer(example)]
    return {"prompt": prompt, "completion": answer, "label": example["desirable"], **_tools(example)}


def _trl_pair(chosen: Example, rejected: Example) -> Row:
    prompt = _asked(chosen)
    sides = {
        name: one["completion"] if isinstance(prompt, str) else [_answer(one)]
        for name, one in (("chosen", chosen), ("rejected", rejected))
    }
    return {"prompt": prompt, **sides, **_tools(chosen), **_scores(chosen, rejected)}


def _halos_thumb(example: Example) -> Row:
    return {
        "prompt_id": example["prompt_id"],
        "prompt": _texts(_asked(example), example, "halos"),
        "output": _texts([_answer(example)], example, "halos"),
        "label": int(example["desirable"]),
        "reward": _reward(example),
        "type": "binary_feedback",
        "split": example["split"],
    }


def _halos_pair(chosen: Example, rejected: Example) -> Row:
    good, bad = _reward(chosen), _reward(rejected)
    return {
        "prompt_id": chosen["prompt_id"],
        "prompt": _texts(_asked(chosen), chosen, "halos"),
        "output_A": _texts([_answer(chosen)], chosen, "halos"),
        "output_B": _texts([_answer(rejected)], rejected, "halos"),
        "label": 1,
        "reward_A": good,
        "reward_B": bad,
        "reward_difference": good - bad,
        "type": "pairwise_feedback",
        "split": chosen["split"],
    }


def _reward(example: Example) -> float:
    """HALOs asks for a reward of each answer."""
    return float(example["desirable"]) if example["score"] is None else float(example["score"])


def _sharegpt_thumb(example: Example) -> Row:
    messages = _texts([*_asked(example), _answer(example)], example, "llama_factory")
    return {"conversations": [_turn(message) for message in messages], "kto_tag": example["desirable"]}


def _sharegpt_pair(chosen: Example, rejected: Example) -> Row:
    return {
        "conversations": [_turn(message) for message in _texts(_asked(chosen), chosen, "llama_factory")],
        "chosen": _turn(*_texts([_answer(chosen)], chosen, "llama_factory")),
        "rejected": _turn(*_texts([_answer(rejected)], rejected, "llama_factory")),
        **_scores(chosen, rejected),
    }


def _turn(message: Mapping[str, Any]) -> Row:
    return {"from": _NAMES[message["role"]], "value": message["content"]}


def _dataset_info(files: Mapping[str, str], paired: bool) -> dict[str, Any]:
    """What LLaMA-Factory is told of its data sets, `train` and `test`."""
    columns = {"messages": "conversations"}
    columns |= {"chosen": "chosen", "rejected": "rejected"} if paired else {"kto_tag": "kto_tag"}
    entry = {"formatting": "sharegpt", **({"ranking": True} if paired else {}), "columns": columns}
    return {"dataset_info.json": {split: {"file_name": file, **entry} for split, file in files.items()}}


def _openai_pair(chosen: Example, rejected: Example) -> Row:
    return {
        "input": {"messages": _asked(chosen), "tools": [], "parallel_tool_calls": True, **_tools(chosen)},
        "preferred_output": [_answer(chosen)],
        "non_preferred_output": [_answer(rejected)],
    }


def _argilla_record(example: Example) -> Row:
    suggestion = {"value": "up" if example["desirable"] else "down", "score": None, "agent": example["rater"]}
    return {
        "id": example["example_id"],
        "fields": {
            "prompt": _texts(_asked(example), example, "argilla"),
            "response": _texts([_answer(example)], example, "argilla")[0]["content"],
        },
        "metadata": {"split": example["split"], "group": example["group"]},
        "suggestions": {"label": suggestion},
        "responses": {},
    }


def _argilla_dataset(folder: Path, rows: Iterable[Row]) -> None:
    argilla.write_dataset(
        folder,
        "kto-lab-thumbs",
        guidelines=_GUIDELINES,
        fields=[
            argilla.chat("prompt", "Prompt"),
            argilla.text("response", "Response"),
        ],
        questions=[argilla.choice("label", "Is it a good response?", {"up": "Thumbs up", "down": "Thumbs down"})],
        metadata=[
            argilla.metadata_of("split", "terms", visible=True),
            argilla.metadata_of("group", "terms", visible=True),
        ],
        records=rows,
    )


def _asked(example: Example) -> Any:
    """The prompt, with messages as tools read them: no key without a value, calls as lists."""
    prompt = example["prompt"]
    return prompt if isinstance(prompt, str) else [_message(message) for message in prompt]


def _answer(example: Example) -> Row:
    message = json.loads(example["message"]) if example.get("message") else {"content": example["completion"]}
    return _message({"role": "assistant", **message})


def _message(message: Mapping[str, Any]) -> Row:
    kept = {key: value for key, value in message.items() if value is not None and key != "tools"}
    return {**kept, "tool_calls": json.loads(kept["tool_calls"])} if kept.get("tool_calls") else kept


def _tools(example: Example) -> Row:
    """The tools that a conversation had."""
    prompt = example["prompt"]
    tools = None if isinstance(prompt, str) else prompt[0].get("tools")
    return {"tools": json.loads(tools)} if tools else {}


def _texts(messages: list[Row], example: Example, format: str) -> list[Row]:
    """Messages that are nothing but text.

    Raises:
        LabError: one holds more, which the tool has no place for.
    """
    for message in [*messages, _tools(example)]:
        if more := sorted(set(message) - {"role", "content"}):
            raise LabError(
                f"Example {example['example_id']} has a message with {more[0]!r}, and {format} has no place for it. "
                "Export with format=trl, or leave it out where the thumbs are read, such as "
                f"feedback.ignore=[{more[0]}]."
            )
    return messages


def _scores(chosen: Example, rejected: Example) -> Row:
    scores = {"score_chosen": chosen["score"], "score_rejected": rejected["score"]}
    return {name: score for name, score in scores.items() if score is not None}


FORMATS = {
    "trl": Format(".jsonl", _trl_thumb, _trl_pair, beside=True, chat=False),
    "halos": Format(".json", _halos_thumb, _halos_pair, beside=True),
    "llama_factory": Format(".json", _sharegpt_thumb, _sharegpt_pair, beside=True, further=_dataset_info),
    "openai": Format(".jsonl", pair=_openai_pair),
    "argilla": Format("", _argilla_record, write=_argilla_dataset),
}
