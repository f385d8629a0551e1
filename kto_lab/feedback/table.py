"""The table of examples: one shape for feedback from every source.

A source gives plain rows; `build_table` checks each of them, adds its identity and its split, and returns one Arrow
table. Nothing downstream depends on where a thumb came from.

| column            | type                               | meaning                                                     |
|-------------------|------------------------------------|-------------------------------------------------------------|
| `example_id`      | string                             | content hash, unique in the table                           |
| `prompt`          | string, or list of {role, content} | plain text to continue, or chat messages; these have more   |
|                   |                                    | keys where a row's have (calls, reasoning, tools; `whole`)  |
| `prompt_id`       | string                             | content hash of the prompt                                  |
| `completion`      | string                             | the answer that was judged, calls and reasoning included    |
| `message`         | string or null                     | JSON: the answer as a message, where it is more than text;  |
|                   |                                    | only in a table where one is                                |
| `finished`        | bool                               | the answer ended by itself (False: it was cut, so no        |
|                   |                                    | end-of-turn token may be taught)                            |
| `desirable`       | bool                               | thumbs-up: what the loss sees                               |
| `desirable_clean` | bool                               | the same before any noise: what evaluation sees             |
| `split`           | "train" or "test"                  | decided by hashing `prompt_id`, or by the source            |
| `group`           | string                             | what results are broken down by (constraint, source, ...)   |
| `checks`          | string                             | JSON for the checker of generated answers, "" where none    |
| `rater`           | string or null                     | who gave the thumb                                          |
| `score`           | float or null                      | the rating behind the thumb                                 |
| `ratings`         | list of floats, or null            | all raters' ratings of the completion, above 0 for good;    |
|                   |                                    | only in a table where a row has them (see `ratings_of`)     |
| `pair_id`         | string or null                     | the same for the two halves of a pair, as it was given;     |
|                   |                                    | only in a table where a row has one (see `pair_ids_of`)     |
| `timestamp`       | string or null                     | ISO 8601 in UTC                                             |
| `origin`          | string                             | how the completion came about ("human", "sampled", ...)     |
| `place`           | string or null                     | where the row was read, such as "thumbs.jsonl:12"; only     |
|                   |                                    | in a table where that is known                              |
"""

import functools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kto_lab.errors import LabError
from kto_lab.feedback.known import SPLITS, Known, held_out_of, split_of, texts_of
from kto_lab.feedback.on_disk import Record, Records, part_on_disk, table_on_disk
from kto_lab.feedback.plain_blocks import Thumbs
from kto_lab.feedback.row_values import check_completion, check_label, check_prompt
from kto_lab.feedback.whole import MORE, as_text
from kto_lab.hashing import content_hash, hashes_of_plain

# Imported where they are needed: they take seconds, and commands that need neither import this module.
if TYPE_CHECKING:
    from datasets import Dataset, Features

    from kto_lab.models.tokens import Prompt

# The columns that a table has only where one of its rows has a value.
OPTIONAL = ("message", "ratings", "pair_id", "place")


def features(chat: bool, optional: Collection[str] = (), message_keys: Collection[str] = ()) -> "Features":
    """The Arrow schema of a table.

    Args:
        chat: prompts are chat messages; else plain text.
        optional: those of `OPTIONAL` that it has.
        message_keys: what messages of prompts hold beside role and content, of `whole.MORE`.
    """
    from datasets import Features, List, Value

    more = {name: Value("string") for name in MORE if name in message_keys}
    messages = [{"role": Value("string"), "content": Value("string"), **more}]
    return Features(
        {
            "example_id": Value("string"),
            "prompt": messages if chat else Value("string"),
            "prompt_id": Value("string"),
            "completion": Value("string"),
            **({"message": Value("string")} if "message" in optional else {}),
            "finished": Value("bool"),
            "desirable": Value("bool"),
            "desirable_clean": Value("bool"),
            "split": Value("string"),
            "group": Value("string"),
            "checks": Value("string"),
            "rater": Value("string"),
            "score": Value("float64"),
            **({"ratings": List(Value("float64"))} if "ratings" in optional else {}),
            **({"pair_id": Value("string")} if "pair_id" in optional else {}),
            "timestamp": Value("string"),
            "origin": Value("string"),
            **({"place": Value("string")} if "place" in optional else {}),
        }
    )


def is_chat(table: "Dataset") -> bool:
    """Whether the table's prompts are chat messages (else plain text)."""
    from datasets import Value

    return table.features["prompt"] != Value("string")


def prompt_id(prompt: "Prompt") -> str:
    """The identity of a prompt."""
    # Arrow gives every message all keys that one of them has.
    plain = prompt if isinstance(prompt, str) else [_known(message) for message in prompt]
    return content_hash("prompt", plain)


def build_table(rows: Iterable[Mapping[str, Any] | Thumbs], *, source: str, held_out: float) -> "Dataset":
    """Check rows and make the table of examples.

    Args:
        rows: mappings with `prompt`, `completion`, `desirable`, and any of the optional columns: `desirable_clean`
            (default: `desirable`), `finished` (default True), `group` (default: `source`), `checks`, `rater`, `score`,
            `ratings`, `pair_id`, `timestamp`, `origin` (default "given"), `split` (default: by hash). `where` names the
            row's place (such as "thumbs.jsonl:12") in errors. Or many such rows by column.
        source: the name of the source, for errors.
        held_out: share of prompts held out, in [0, 1).

    Raises:
        LabError: a row is malformed, a prompt is in both splits or has different checks, or there is no row.
    """
    require_share(held_out, "feedback.held_out")
    columns = _Columns()
    records = columns.of(_records(rows, source=source, held_out=held_out), source)
    return table_on_disk(records, columns.widest, columns.settled)


@dataclass
class _Columns:
    """Which columns a table has, which its last record settles."""

    chat: bool = False
    optional: set[str] = field(default_factory=set)
    message_keys: set[str] = field(default_factory=set)

    def of(self, records: Iterable[Record | Records], source: str) -> Iterator[Record | Records]:
        """The records, looked at as they pass.

        Raises:
            LabError: there is none, or prompts are of two kinds.
        """
        number = 0
        for number, record in enumerate(records, start=1):
            chat = isinstance(record, dict) and isinstance(record["prompt"], list)
            if number == 1:
                self.chat = chat
            if chat is not self.chat:
                raise LabError(
                    f"{source}: some prompts are chat messages and some are plain text. Make them all one kind."
                )
            if chat:
                self.message_keys.update(key for message in record["prompt"] for key in message)
            for name in OPTIONAL:
                if record[name] is not None and name not in self.optional:
                    self.optional.add(name)
            yield record
        if not number:
            raise LabError(f"{source}: there is no example in it.")

    def widest(self) -> "Features":
        """Every column that there may be."""
        return features(self.chat, OPTIONAL, MORE)

    def settled(self) -> "Features":
        """Those that there are."""
        return features(self.chat, self.optional, self.message_keys)


def _records(rows: Iterable[Mapping[str, Any] | Thumbs], *, source: str, held_out: float) -> Iterator[Record | Records]:
    """The records of rows, each with an identity of its own."""
    known = Known()
    number = 0
    for row in rows:
        if isinstance(row, Thumbs):
            number += len(row)
            if len(row):
                yield _records_of(row, known, source=source, held_out=held_out)
            continue
        number += 1
        where = row.get("where", f"{source}, row {number}")
        record = _record(row, where=where, source=source, held_out=held_out)
        known.settle(record["prompt_id"], record["split"], record["checks"], where)
        record["example_id"] = known.own(record["example_id"])
        yield record


def _records_of(thumbs: Thumbs, known: Known, *, source: str, held_out: float) -> Records:
    """The records of many rows, by column; see `_record`."""
    encoded = thumbs.prompts.dictionary_encode()
    different, which = encoded.dictionary.to_pylist(), encoded.indices.to_pylist()
    hashes = hashes_of_plain(("prompt", prompt) for prompt in different)
    identities, tested = texts_of(hashes), held_out_of(hashes, held_out)
    if not known.settle_all(hashes, tested):
        names = identities.to_pylist()
        for place, where in zip(which, thumbs.places, strict=True):
            known.settle(names[place], SPLITS[tested[place]], "", where)
    raters = [None] * len(thumbs) if thumbs.raters is None else thumbs.raters
    told = zip(
        [different[place] for place in which], thumbs.completions.to_pylist(), raters, thumbs.desirable, strict=True
    )
    splits = pa.DictionaryArray.from_arrays(tested.astype("int32"), pa.array(SPLITS)).dictionary_decode()
    columns = {
        "example_id": known.own_of_all(hashes_of_plain(told)),
        "prompt": thumbs.prompts,
        "prompt_id": identities.take(encoded.indices),
        "completion": thumbs.completions,
        "message": None,
        "finished": True,
        "desirable": thumbs.desirable,
        "desirable_clean": thumbs.desirable,
        "split": splits.take(encoded.indices),
        "group": source if thumbs.groups is None else [group or source for group in thumbs.groups],
        "checks": "",
        "rater": thumbs.raters,
        "score": thumbs.scores,
        "ratings": None,
        "pair_id": None,
        "timestamp": thumbs.timestamps,
        "origin": "given",
        "place": thumbs.places,
    }
    return Records(len(thumbs), columns)


def _of_prompt(prompt: "Prompt", held_out: float) -> tuple[str, str]:
    """The identity of a prompt, and the split that it decides."""
    identity = prompt_id(prompt)
    return identity, split_of(identity, held_out)


# The rows of a prompt are often neighbours.
_of_text = functools.lru_cache(maxsize=1024)(_of_prompt)


def _known(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


def _record(row: Mapping[str, Any], *, where: str, source: str, held_out: float) -> dict[str, Any]:
    prompt = check_prompt(row.get("prompt"), where)
    answer = check_completion(row.get("completion"), where)
    desirable = check_label(row.get("desirable"), where)
    clean = desirable if row.get("desirable_clean") is None else check_label(row["desirable_clean"], where)
    identity, split = _of_text(prompt, held_out) if isinstance(prompt, str) else _of_prompt(prompt, held_out)
    split = row.get("split") or split
    if split not in ("train", "test"):
        raise LabError(f"{where}: the split is {split!r}; it must be 'train' or 'test'.")
    # The clean label is part of it, so that two raters who disagree keep their identities in any row order, and so is
    # the pair, since an answer that was compared with two others has a thumb from each comparison.
    told = [prompt, answer, row.get("rater"), clean]
    if row.get("pair_id") is not None:
        told.append(row["pair_id"])
    return {
        "example_id": content_hash(*told),
        "prompt": prompt,
        "prompt_id": identity,
        "completion": answer if isinstance(answer, str) else as_text(answer),
        "message": None if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False),
        "finished": bool(row.get("finished", True)),
        "desirable": desirable,
        "desirable_clean": clean,
        "split": split,
        "group": str(row.get("group") or source),
        "checks": row.get("checks") or "",
        "rater": row.get("rater"),
        "score": row.get("score"),
        "ratings": row.get("ratings"),
        "pair_id": row.get("pair_id"),
        "timestamp": row.get("timestamp"),
        "origin": row.get("origin") or "given",
        "place": row.get("where"),
    }


def require_share(held_out: float, key: str) -> None:
    """LabError where `key`, the share of prompts in the test split, is not in [0, 1)."""
    if not 0 <= held_out < 1:
        raise LabError(f"{key} is {held_out}: the held-out share must be at least 0 and below 1.")


def ratings_of(table: "Dataset") -> list[list[float] | None]:
    """All raters' ratings of each example; None where they are not known."""
    return table["ratings"][:] if "ratings" in table.column_names else [None] * len(table)


def pair_ids_of(table: "Dataset") -> list[str | None]:
    """The pair that each example is half of; None where it is not part of one."""
    return table["pair_id"][:] if "pair_id" in table.column_names else [None] * len(table)


def of_split(table: "Dataset", split: str) -> "Dataset":
    """The rows of one split, in the table's order."""
    return part_on_disk(table, "split", split)
