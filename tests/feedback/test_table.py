import random
import re

import pytest
from datasets import Dataset

from kto_lab.errors import LabError
from kto_lab.feedback import table as tables
from kto_lab.feedback import table_numbers
from kto_lab.feedback.known import split_of
from kto_lab.feedback.table import build_table
from kto_lab.feedback.table_numbers import class_counts, fingerprint, require_both_classes
from kto_lab.hashing import content_hash

ROW = {"prompt": "Say hi.", "completion": "Hi.", "desirable": True}
CHAT = [{"role": "user", "content": "Say hi."}]


def build(*rows: dict, held_out: float = 0.0) -> Dataset:
    return build_table(rows, source="test", held_out=held_out)


def test_defaults_of_a_plain_row() -> None:
    row = build(ROW)[0]
    assert row["finished"] is True and row["desirable_clean"] is True
    assert (row["group"], row["checks"], row["origin"], row["split"]) == ("test", "", "given", "train")
    assert row["rater"] is None and row["score"] is None and row["timestamp"] is None


def test_ids_are_pure_functions_of_the_content() -> None:
    first = build(ROW)[0]
    assert first["example_id"] == build({**ROW, "group": "other", "score": 1.0})[0]["example_id"]
    assert first["example_id"] != build({**ROW, "completion": "Hello."})[0]["example_id"]
    assert first["prompt_id"] == build({**ROW, "completion": "Hello."})[0]["prompt_id"] == tables.prompt_id("Say hi.")
    assert first["prompt_id"] != build({**ROW, "prompt": CHAT})[0]["prompt_id"]


def test_identity_of_an_example_does_not_depend_on_label_noise() -> None:
    noisy = build({**ROW, "desirable": False, "desirable_clean": True})[0]
    assert noisy["example_id"] == build(ROW)[0]["example_id"]
    assert noisy["desirable"] is False


def test_repeated_rows_keep_distinct_ids() -> None:
    assert len(set(build(ROW, ROW, ROW)["example_id"])) == 3


def test_split_is_by_prompt_near_the_share_and_stable() -> None:
    rows = [{**ROW, "prompt": f"prompt {i // 2}", "completion": f"answer {i}"} for i in range(2000)]
    table = build(*rows, held_out=0.2)
    sides: dict[str, set[str]] = {}
    for prompt, split in zip(table["prompt_id"], table["split"], strict=True):
        sides.setdefault(prompt, set()).add(split)
    assert all(len(side) == 1 for side in sides.values())
    # 1,000 prompts: the share's standard error is 0.013.
    assert 0.15 < sum(side == {"test"} for side in sides.values()) / len(sides) < 0.25
    # The pinned value guards against a change of the hash, which would mix old and new held-out prompts.
    assert tables.prompt_id("Say hi.") == "27d119260f11b345"
    assert [split_of(f"{i:016x}", 0.5) for i in range(6)] == ["train", "train", "train", "test", "test", "train"]


def test_a_larger_share_holds_out_the_same_prompts_and_more() -> None:
    ids = [f"{i:016x}" for i in range(300)]
    small = {i for i in ids if split_of(i, 0.1) == "test"}
    large = {i for i in ids if split_of(i, 0.3) == "test"}
    assert small < large


def test_a_prompt_cannot_be_on_both_sides() -> None:
    with pytest.raises(LabError, match=r"data\.csv:3.*same split"):
        build({**ROW, "split": "train"}, {**ROW, "split": "test", "where": "data.csv:3"})


def test_fingerprint_ignores_row_order_and_sees_every_label() -> None:
    rows = [{**ROW, "prompt": f"p{i % 7}", "completion": f"c{i % 3}", "desirable": i % 2 == 0} for i in range(40)]
    shuffled = random.Random(0).sample(rows, len(rows))
    assert fingerprint(build(*rows)) == fingerprint(build(*shuffled))
    noisy = [{**rows[0], "desirable": False, "desirable_clean": True}, *rows[1:]]
    assert fingerprint(build(*rows)) != fingerprint(build(*noisy))


@pytest.mark.parametrize("at_once", [2, 16384])
def test_fingerprint_is_the_hash_of_the_sorted_hashes_of_rows(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(table_numbers, "_HASHED", at_once)
    table = build(*({**ROW, "completion": f"answer {i}", "score": None if i else 0.5} for i in range(5)))
    names = ["example_id", "finished", "desirable", "desirable_clean", "split", "group", "checks", "score"]
    rows = [content_hash(*(row[name] for name in names), None) for row in table.to_list()]
    assert fingerprint(table) == content_hash(sorted(rows))


def test_fingerprint_sees_what_a_corruption_can_read() -> None:
    rows = [{**ROW, "completion": f"c{i}", "score": float(i), "ratings": [1.0, float(i)]} for i in range(5)]
    whole = fingerprint(build(*rows))
    assert whole == fingerprint(build(*rows[::-1]))
    for change in ({"score": 9.0}, {"score": None}, {"ratings": [1.0]}, {"ratings": [0.0, 1.0]}, {"ratings": None}):
        assert fingerprint(build({**rows[0], **change}, *rows[1:])) != whole


def test_ratings_are_a_column_where_a_row_has_them() -> None:
    plain, rated = build(ROW), build({**ROW, "ratings": [2.0, -1.0]}, {**ROW, "completion": "No."})
    assert "ratings" not in plain.column_names and tables.ratings_of(plain) == [None]
    assert tables.ratings_of(rated) == rated["ratings"][:] == [[2.0, -1.0], None]
    assert {**rated.features, "ratings": None} == {**plain.features, "ratings": None}
    # A table without ratings is the same data whether it has the column or not.
    assert fingerprint(rated.select([1])) == fingerprint(build({**ROW, "completion": "No."}))


def test_class_counts_and_of_split() -> None:
    table = build(
        {**ROW, "split": "train"},
        {**ROW, "split": "train", "completion": "No.", "desirable": False, "desirable_clean": True},
        {**ROW, "split": "test", "prompt": "Bye."},
    )
    counts = class_counts(table)
    assert counts["train"] == {"examples": 2, "prompts": 1, "desirable": 1, "undesirable": 1, "flipped": 1}
    assert counts["test"] == {"examples": 1, "prompts": 1, "desirable": 1, "undesirable": 0, "flipped": 0}
    assert tables.of_split(table, "test")["prompt"] == ["Bye."]


def test_is_chat() -> None:
    assert tables.is_chat(build({**ROW, "prompt": CHAT}))
    assert not tables.is_chat(build(ROW))


def test_one_class_is_refused() -> None:
    require_both_classes(build(ROW, {**ROW, "desirable": False}))
    with pytest.raises(LabError, match="All 2 examples are desirable"):
        require_both_classes(build(ROW, ROW))
    with pytest.raises(LabError, match="All 1 examples are undesirable"):
        require_both_classes(build({**ROW, "desirable": False}))
    with pytest.raises(LabError, match="no example to train on"):
        require_both_classes(tables.of_split(build(ROW), "test"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": " \n"}, "completion is empty"),
        ({"completion": None}, "completion is empty"),
        ({"desirable": "yes"}, "label is 'yes', which is not a boolean"),
        ({"desirable": 1}, "not a boolean"),
        ({"desirable": None}, "not a boolean"),
        ({"desirable_clean": "no"}, "not a boolean"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": 3}, "must be text or a list"),
        ({"prompt": []}, "must be text or a list"),
        ({"prompt": [{"role": "human", "content": "Hi"}]}, "a chat message is"),
        ({"prompt": [{"role": "user", "content": None}]}, "a chat message is"),
        ({"prompt": [*CHAT, {"role": "assistant", "content": "Hi"}]}, "ends with the assistant's turn"),
        ({"split": "validation"}, "must be 'train' or 'test'"),
        ({"completion": "half \ud800"}, "half a character"),
        ({"prompt": [{"role": "user", "content": "half \ud800"}]}, "half a character"),
    ],
)
def test_bad_rows_are_named(change: dict, message: str) -> None:
    with pytest.raises(LabError, match=rf"^thumbs.jsonl:12: .*{re.escape(message)}"):
        build(ROW, {**ROW, "where": "thumbs.jsonl:12", **change})


def test_bad_tables() -> None:
    with pytest.raises(LabError, match="no example"):
        build()
    with pytest.raises(LabError, match="some prompts are chat messages"):
        build(ROW, {**ROW, "prompt": CHAT})
    with pytest.raises(LabError, match="held_out is 1"):
        build(ROW, held_out=1.0)


def test_all_rows_of_a_prompt_have_the_same_checks() -> None:
    checked = {**ROW, "checks": '{"checker": "sentiment"}'}
    assert len(build(checked, {**checked, "completion": "Hey."}, {**ROW, "prompt": "Say ho."})) == 3
    with pytest.raises(LabError, match=r"thumbs\.jsonl:2: this prompt has the checks none, and .*sentiment"):
        build(checked, {**ROW, "where": "thumbs.jsonl:2"})
