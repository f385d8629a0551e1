"""lm-eval's task of the held-out checks, with chat templates that put something before an answer's words."""

import json
from pathlib import Path

import pytest

from kto_lab.evaluation.lm_eval import write_tasks
from kto_lab.evaluation.lm_eval_tasks import why_not_checks
from kto_lab.evaluation.tasks.task_functions import score
from kto_lab.feedback.checkers import arithmetic_checks
from kto_lab.feedback.table import build_table
from kto_lab.models.tokens import Encoder
from tests.chat_shapes import shaped

ASKED = {"role": "user", "content": "3+3="}
ROW = {"completion": "6", "desirable": True, "split": "test", "checks": arithmetic_checks("6")}


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("turn tokens", ["6"]),
        ("empty thinking written into the last turn", ["<think>\n\n</think>\n\n6", "<think>\n3?\n</think>\n\n6", "6"]),
        ("thinking begun by the generation prompt", ["\n</think>\n\n6", "3?\n</think>\n\n6"]),
        # As lm-eval reads it, without special tokens.
        ("channels", ["final6", "analysis3 or 4?assistantfinal6"]),
    ],
)
def test_what_a_template_puts_before_an_answer_is_not_judged(shape: str, said: list[str], tmp_path: Path) -> None:
    table = build_table([{**ROW, "prompt": [ASKED]}], source="test", held_out=0)
    write_tasks(tmp_path / "tasks", Encoder(shaped(shape)), table, max_new_tokens=4, limit=None)
    (line,) = (tmp_path / "tasks" / "checks.jsonl").read_text().splitlines()
    for text in said:
        judged, plain = score(json.loads(line), [text]), score({"checks": ROW["checks"]}, ["6"])
        assert judged == plain and judged["answer_words"] == 1.0


def test_prompts_with_tools_are_not_handed_to_lm_eval() -> None:
    asked = {**ASKED, "tools": '[{"name": "sum"}]'}
    assert "tools" in why_not_checks(build_table([{**ROW, "prompt": [asked]}], source="test", held_out=0), None)
    assert not why_not_checks(build_table([{**ROW, "prompt": [ASKED]}], source="test", held_out=0), None)
