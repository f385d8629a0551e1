"""Writes the Open WebUI export that the guide's worked example imports: thumbs on sums, as users would have left them.

python scripts/make_example_export.py

Prompts and answers are those of the shipped table `arithmetic`; a thumb says whether the sum is right. The users, the
times and the flaws are made up, by one seed: the file is the same wherever it is written. The flaws are those that
exports have: wrong thumbs, missing ones, changed minds, an export put together from two that overlap, answers written
anew, a deleted answer, a turn with a file, a thumb of a plugin's.
"""

import json
import random
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kto_lab.files import write_text

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "kto_lab" / "feedback" / "data" / "arithmetic.parquet"
TARGET = ROOT / "kto_lab" / "importing" / "data" / "open_webui_sums.json"

SEED = 0
# Four answers to each.
PROMPTS = 116
USERS = 14
MODEL = "tiny-sums:latest"
BEGIN = 1772438400  # 2 March 2026, in seconds since 1970
DAYS = 42
WRONG = 0.06  # share of thumbs that say the opposite of what the sum does
# Shares of the thumbs, one after another.
FLAWS = {
    "missing": 0.03,
    "twice": 0.03,
    "changed": 0.03,
    "regenerated": 0.06,
    "deleted": 0.02,
    "file": 0.01,
    "plugin": 0.01,
}
REASONS = {1: "accurate_information", -1: "not_factually_correct"}


def main() -> None:
    """Write the export."""
    rows = export()
    write_text(TARGET, json.dumps(rows, separators=(",", ":")) + "\n")
    print(f"{TARGET.relative_to(ROOT)}: {len(rows)} feedbacks, {TARGET.stat().st_size / 1000:.0f} kB")


def export() -> list[dict[str, Any]]:
    """The feedbacks, the newest first, as Open WebUI writes them."""
    dice = random.Random(SEED)
    users = [_uuid(dice) for _ in range(USERS)]
    rows: list[dict[str, Any]] = []
    for answers in _sums():
        for prompt, completion, right in answers:
            flaw = _flaw(dice)
            rating = 1 if right != (dice.random() < WRONG) else -1
            row = _feedback(dice, dice.choice(users), prompt, completion, rating)
            _damage(dice, row, flaw, [other for _, other, _ in answers if other != completion])
            rows.append(row)
            rows += _again(dice, row, flaw)
    return sorted(rows, key=lambda row: -row["updated_at"])


def _sums() -> list[list[tuple[str, str, bool]]]:
    """Prompt, answer and whether it is right, of the first prompts in the order of their identities."""
    table = pq.read_table(SOURCE, columns=["prompt_id", "prompt", "completion", "desirable"]).to_pylist()
    groups: dict[str, list[tuple[str, str, bool]]] = {}
    for row in table:
        groups.setdefault(row["prompt_id"], []).append((row["prompt"], row["completion"], row["desirable"]))
    return [groups[identity] for identity in sorted(groups)[:PROMPTS]]


def _flaw(dice: random.Random) -> str:
    point = dice.random()
    for name, share in FLAWS.items():
        if point < share:
            return name
        point -= share
    return "none"


def _uuid(dice: random.Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))


def _feedback(dice: random.Random, user: str, prompt: str, completion: str, rating: int) -> dict[str, Any]:
    """One feedback and its chat; the field names are those of kto_lab/importing/exports/open_webui.py."""
    when = BEGIN + dice.randrange(DAYS * 86400)
    chat, asked, answered = (_uuid(dice) for _ in range(3))
    question = {"id": asked, "parentId": None, "childrenIds": [answered], "role": "user", "content": prompt}
    answer = _answer(answered, asked, completion, when + 2)
    answer["annotation"] = {"rating": rating}
    return {
        "id": _uuid(dice),
        "user_id": user,
        "version": 0,
        "type": "rating",
        "data": {
            "rating": rating,
            "model_id": MODEL,
            "sibling_model_ids": None,
            "reason": REASONS[rating] if dice.random() < 0.4 else None,
            "comment": "",
            "tags": ["Mathematics"],
            "details": {"rating": dice.randint(6, 10) if rating > 0 else dice.randint(1, 5)},
        },
        "meta": {
            "arena": False,
            "chat_id": chat,
            "message_id": answered,
            "message_index": 2,
            "model_id": MODEL,
            "base_models": {MODEL: None},
        },
        "snapshot": {
            "chat": {
                "id": chat,
                "user_id": user,
                "title": "Sums",
                "chat": {
                    "title": "Sums",
                    "models": [MODEL],
                    "params": {},
                    "history": {
                        "messages": {asked: {**question, "timestamp": when, "models": [MODEL]}, answered: answer},
                        "currentId": answered,
                    },
                },
                "created_at": when,
                "updated_at": when + 2,
            }
        },
        "created_at": when + 20,
        "updated_at": when + 20,
    }


def _answer(identity: str, parent: str, completion: str, when: int) -> dict[str, Any]:
    return {
        "id": identity,
        "parentId": parent,
        "childrenIds": [],
        "role": "assistant",
        "content": completion,
        "model": MODEL,
        "modelIdx": 0,
        "timestamp": when,
        "done": True,
    }


def _damage(dice: random.Random, row: dict[str, Any], flaw: str, others: list[str]) -> None:
    """Put a flaw into a feedback."""
    messages = row["snapshot"]["chat"]["chat"]["history"]["messages"]
    answered = row["meta"]["message_id"]
    asked = messages[answered]["parentId"]
    if flaw == "missing":
        row["data"]["rating"] = None
        del messages[answered]["annotation"]
    elif flaw == "deleted":
        del messages[answered]
        messages[asked]["childrenIds"] = []
    elif flaw == "file":
        messages[asked]["files"] = [{"type": "file", "id": _uuid(dice), "name": "homework.pdf"}]
    elif flaw == "plugin":
        row["type"] = "survey"
    elif flaw == "regenerated" and others:
        old = _uuid(dice)
        messages[old] = _answer(old, asked, dice.choice(others), messages[asked]["timestamp"] + 1)
        messages[asked]["childrenIds"] = [old, answered]
        row["data"]["sibling_model_ids"] = [MODEL]


def _again(dice: random.Random, row: dict[str, Any], flaw: str) -> list[dict[str, Any]]:
    """The same feedback as a later export holds it, too: as it was, or with the other thumb."""
    if flaw == "twice":
        return [row]
    if flaw != "changed":
        return []
    later = {**row, "updated_at": row["updated_at"] + dice.randint(60, 86400)}
    later["data"] = {**row["data"], "rating": -row["data"]["rating"], "reason": None}
    return [later]


if __name__ == "__main__":
    main()
