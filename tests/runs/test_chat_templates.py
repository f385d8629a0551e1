"""Runs with a chat template of one's own: its place in the identity, in what is trained, and in the saved policy."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from kto_lab.errors import LabError
from kto_lab.runs.identity import identify
from tests.chat_shapes import SHAPES
from tests.small_runs import configuration, run, write_jsonl

# Over the tokens that the tiny policy has: the generation prompt begins what no turn has.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{{ '' if thinking is defined and not thinking else '<think>\n' }}{% endif %}"
)


def chats(folder: Path) -> None:
    """The thumbs of a small run as conversations."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{number}+{number}="}],
            "completion": answer,
            "label": up,
            "split": "test" if number % 4 == 3 else "train",
        }
        for number in range(16)
        for answer, up in ((str(2 * number), True), ("no", False))
    ]
    write_jsonl(folder / "thumbs.jsonl", rows)


def test_a_template_and_its_arguments_are_part_of_the_identity(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(THINKING)
    named = [f"model.chat_template={file}"]
    ids = [
        identify(configuration(tmp_path, *more)).run_id
        for more in ([], ["model.chat_template=chatml"], named, [*named, "model.template_arguments={thinking: false}"])
    ]
    file.write_text(THINKING + " ")
    ids.append(identify(configuration(tmp_path, *named)).run_id)
    assert len(set(ids)) == 5
    # A copy elsewhere is the same template.
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "own.jinja").write_text(THINKING + " ")
    again = identify(configuration(tmp_path, f"model.chat_template={tmp_path / 'copy' / 'own.jinja'}"))
    assert again.run_id == ids[-1]


def test_a_run_trains_and_saves_the_template_that_it_was_given(tmp_path: Path) -> None:
    chats(tmp_path)
    (tmp_path / "own.jinja").write_text(THINKING)
    more = [f"model.chat_template={tmp_path / 'own.jinja'}", "optimization.max_steps=2", "evaluation=quick"]
    more += ["evaluation.prompts=2", "evaluation.max_new_tokens=4", "evaluation.lm_eval=[]"]
    folder = run(tmp_path, *more, "model.template_arguments={thinking: false}")
    record = json.loads((folder / "record.json").read_text())
    assert record["model"]["chat_template"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    thinking = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True, thinking=True
    )
    assert thinking == asked + "<think>\n"
    assert AutoModelForCausalLM.from_pretrained(folder / "policy").config.vocab_size == len(tokenizer)


def test_conversations_that_a_template_refuses_stop_a_run_or_are_left_out_and_counted(tmp_path: Path) -> None:
    chats(tmp_path)
    file = tmp_path / "thumbs.jsonl"
    lines = file.read_text().splitlines()
    for number in (2, 7):
        row = json.loads(lines[number])
        lines[number] = json.dumps({**row, "prompt": [{"role": "system", "content": "brief"}, *row["prompt"]]})
    file.write_text("".join(f"{line}\n" for line in lines))
    template = SHAPES["turns that alternate"].template.replace("<|end|>", "<|im_end|>").replace("{{ bos_token }}", "")
    (tmp_path / "alternating.jinja").write_text(template)
    # Every example is used: others are not read.
    more = [f"model.chat_template={tmp_path / 'alternating.jinja'}", "optimization.epochs=1"]
    more += ["evaluation=quick", "evaluation.prompts=4", "evaluation.max_new_tokens=4", "evaluation.lm_eval=[]"]
    with pytest.raises(LabError, match=r"thumbs\.jsonl:3: .*System role not supported.*lengths\.refused_by_template"):
        run(tmp_path, *more)
    folder = run(tmp_path, *more, "lengths.refused_by_template=drop", f"run_dir={tmp_path / 'dropping'}")
    assert json.loads((folder / "record.json").read_text())["training"]["refused"] == 1
