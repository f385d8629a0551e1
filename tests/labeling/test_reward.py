from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from kto_lab.errors import LabError
from kto_lab.judging.answer import Answer
from kto_lab.labeling.labels import Label, NoLabel
from kto_lab.labeling.reward import TOO_LONG, Reward
from kto_lab.labeling.threshold import NEAR, Threshold
from tests.labeling.labeling_cases import CPU

ANSWERS = [
    Answer("Say hi.", "Hi.", "a"),
    Answer([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}], "Good day to you.", "b"),
    Answer("2+2=", "4", "c"),
    Answer("Tell me.", "No." * 20, "d"),
]


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast, **more: Any) -> str:
    """A small random classifier in a folder."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **{"num_labels": 1, "pad_token_id": 2, **more},
    )
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    # The usual start is so small that all scores are alike.
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def reward(model: str, **changes: Any) -> Reward:
    given: dict[str, Any] = {
        "revision": None,
        "base": None,
        "dtype": "float32",
        "good": None,
        "template_date": "2024-07-26",
        "chat_template": None,
        "template_arguments": None,
        "layout": "auto",
        "max_tokens": 200,
    }
    given |= {"batch_tokens": 4096, "threshold": Threshold("quantile", 0.5, 0.0)}
    return Reward(model, **{**given, **changes})


def by_hand(folder: str, tokenizer: PreTrainedTokenizerFast, answer: Answer, *, chat: bool) -> torch.Tensor:
    """The model's outputs for one answer alone, without padding."""
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    if chat:
        prompt = [{"role": "user", "content": answer.prompt}] if isinstance(answer.prompt, str) else answer.prompt
        messages = [*prompt, {"role": "assistant", "content": answer.completion}]
        ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"]
    else:
        ids = tokenizer(answer.prompt_text, answer.completion)["input_ids"]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("layout", ["chat", "pair"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_scores_are_the_models_own_however_they_are_batched(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, layout: str, batch_tokens: int
) -> None:
    folder = saved(tmp_path, tokenizer)
    found = reward(folder, layout=layout, batch_tokens=batch_tokens).label(ANSWERS, [], CPU)
    scores = []
    for answer, label in zip(ANSWERS, found.verdicts, strict=True):
        assert isinstance(label, Label) and label.by == "reward"
        assert label.score == pytest.approx(float(by_hand(folder, tokenizer, answer, chat=layout == "chat")), abs=1e-4)
        scores.append(label.score)
    ups = [label.desirable for label in found.verdicts if isinstance(label, Label)]
    assert sum(ups) == 2 and max(s for s, up in zip(scores, ups, strict=True) if not up) < found.numbers["line"]


def test_of_several_classes_one_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    classes = {"id2label": {0: "bad", 1: "meh", 2: "good"}, "label2id": {"bad": 0, "meh": 1, "good": 2}}
    folder = saved(tmp_path, tokenizer, num_labels=3, **classes)
    for name in ("good", 2):
        (label,) = reward(folder, good=name).label(ANSWERS[:1], [], CPU).verdicts
        chances = by_hand(folder, tokenizer, ANSWERS[0], chat=True).softmax(-1)
        assert isinstance(label, Label) and label.score is not None
        assert label.score == pytest.approx(float(torch.logit(chances[2])), abs=1e-4)
    for name, said in ((None, "is not set"), ("great", "is 'great'")):
        with pytest.raises(LabError, match=f"labeler.good {said}.*bad, meh, good"):
            reward(folder, good=name).label(ANSWERS[:1], [], CPU)


def test_long_answers_and_scores_near_the_line_get_no_thumb(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = saved(tmp_path, tokenizer)
    found = reward(folder, max_tokens=85, threshold=Threshold("value", 0, 1e9)).label(ANSWERS, [], CPU)
    assert found.verdicts == [NoLabel(NEAR)] * 3 + [NoLabel(TOO_LONG)]


def test_a_language_model_is_no_reward_model(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LabError, match=r"no trained sequence classifier: its weights lack score\.weight"):
        reward(str(tmp_path)).label(ANSWERS, [], CPU)


def test_scores_that_are_no_numbers(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = saved(tmp_path, tokenizer)
    model = LlamaForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(LabError, match="no finite numbers"):
        reward(folder).label(ANSWERS, [], CPU)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "text"}, "layout is 'text'"),
        ({"dtype": "int4"}, "dtype is 'int4'"),
        ({"good": "yes"}, "has one output"),
        ({"model": "nowhere/at-all"}, "is not in the cache"),
    ],
)
def test_settings_that_mean_nothing(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(LabError, match=said):
        reward(**{"model": saved(tmp_path, tokenizer), **changes}).label(ANSWERS, [], CPU)


def test_a_tokenizer_without_a_template_reads_pairs(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = saved(tmp_path, tokenizer)
    bare = PreTrainedTokenizerFast.from_pretrained(folder)
    bare.chat_template = None
    for file in tmp_path.glob("*.jinja"):
        file.unlink()
    bare.save_pretrained(folder)
    assert reward(folder).label(ANSWERS, [], CPU).numbers["layout"] == "pair"
    with pytest.raises(LabError, match=r"no chat template\. Set labeler\.chat_template, or use labeler\.layout=pair"):
        reward(folder, layout="chat").label(ANSWERS, [], CPU)
    assert reward(folder, chat_template="chatml").label(ANSWERS, [], CPU).numbers["layout"] == "chat"


def test_a_reward_model_reads_by_the_template_that_is_given(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = saved(tmp_path, tokenizer)
    template = "{% for one in messages %}{{ '<' + one.role + mark + '>' + one.content }}{% endfor %}"
    given = {"chat_template": template, "template_arguments": {"mark": "!"}}
    found = reward(folder, **given).label(ANSWERS, [], CPU)
    own = PreTrainedTokenizerFast.from_pretrained(folder)
    own.chat_template = template.replace("mark", "'!'")
    for answer, verdict in zip(ANSWERS, found.verdicts, strict=True):
        assert isinstance(verdict, Label) and verdict.score is not None
        assert verdict.score == pytest.approx(float(by_hand(folder, own, answer, chat=True)[0]), abs=1e-4)
    plain = reward(folder).label(ANSWERS, [], CPU)
    hashed = [one.numbers["provenance"]["chat_template"] for one in (plain, found)]
    assert hashed[0] != hashed[1]
    with pytest.raises(LabError, match=r"labeler\.template_arguments sets 'thinking'"):
        reward(folder, template_arguments={"thinking": False}).label(ANSWERS, [], CPU)


@pytest.mark.parametrize("outputs", [1, 3])
def test_an_adapter_is_the_reward_model_that_it_stands_for(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, outputs: int
) -> None:
    model.save_pretrained(tmp_path / "base")
    under = LlamaForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=outputs, pad_token_id=2)
    policy = get_peft_model(under, LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter)
    folder = str(tmp_path / "adapter")
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = reward(folder, layout="pair", good=None if outputs == 1 else 2).label(ANSWERS, [], CPU)
    assert found.numbers["provenance"]["base"]["name"] == "base"
    for answer, label in zip(ANSWERS, found.verdicts, strict=True):
        ids = torch.tensor([tokenizer(answer.prompt_text, answer.completion)["input_ids"]])
        with torch.no_grad():
            logits = policy.eval()(ids).logits[0]
        wanted = logits[0] if outputs == 1 else logits[2] - logits[:2].logsumexp(0)
        assert isinstance(label, Label) and label.score == pytest.approx(float(wanted), abs=1e-4)


def test_an_adapter_that_brings_no_head_is_no_reward_model(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    model.save_pretrained(tmp_path / "base")
    under = LlamaForSequenceClassification.from_pretrained(tmp_path / "base", pad_token_id=2)
    policy = get_peft_model(under, LoraConfig(r=2, target_modules=["q_proj"]))
    policy.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.raises(LabError, match=r"no trained sequence classifier: its weights lack score\.weight"):
        reward(str(tmp_path / "adapter")).label(ANSWERS, [], CPU)
