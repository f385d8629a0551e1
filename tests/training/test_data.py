"""Units, tokens and steps made from the table of examples."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hydra.utils import instantiate

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import PairSwaps, pair_swaps, unchanged
from kto_lab.feedback.table import build_table
from kto_lab.losses import Feed, Objective
from kto_lab.models.tokens import Encoder, Lengths
from kto_lab.training.data import TrainingData, class_weights, fill_reference, make_units, prepare, reference_sequences
from kto_lab.training.optimization import Optimization
from kto_lab.training.steps import make_step
from tests.small_runs import composed, run, thumbs, write_jsonl


def table() -> Dataset:
    """Six prompts with two good answers and a bad one each."""
    rows = [
        {"prompt": f"say {n}:", "completion": text, "desirable": good}
        for n in range(6)
        for text, good in ((str(n), True), (f"it is {n}", True), ("no" * (n + 1), False))
    ]
    return build_table(rows, source="test", held_out=0)


def settings(loss: str = "kto", **changes: object) -> tuple[Objective, Optimization]:
    words = [f"optimization.{key}={value}" for key, value in ({"batch_size": 4} | changes).items()]
    cfg = composed([f"loss={loss}", *words])
    return instantiate(cfg.loss), instantiate(cfg.optimization)


def prepared(encoder: Encoder, loss: str = "kto", **changes: object) -> TrainingData:
    return prepare(unchanged(table()), encoder, *settings(loss, **changes), seed=0)


def test_units_follow_from_what_the_loss_declares() -> None:
    examples = table()
    assert make_units(examples, Feed.THUMBS, None, seed=0)[0] == [(row,) for row in range(18)]
    desirable, _ = make_units(examples, Feed.DESIRABLE, None, seed=0)
    assert len(desirable) == 12 and all(examples[row]["desirable"] for (row,) in desirable)
    pairs, _ = make_units(examples, Feed.PAIRS, None, seed=0)
    assert len(pairs) == 6
    for chosen, rejected in pairs:
        assert examples[chosen]["desirable"] and not examples[rejected]["desirable"]
        assert examples[chosen]["prompt_id"] == examples[rejected]["prompt_id"]


def test_swapped_pairs_are_the_same_pairs_turned_around() -> None:
    examples = table()
    plain, none = make_units(examples, Feed.PAIRS, None, seed=0)
    found, swaps = make_units(examples, Feed.PAIRS, PairSwaps(0.5, 0), seed=0)
    assert none is None and swaps is not None and swaps.swapped == 3
    turned = [unit for unit, before in zip(found, plain, strict=True) if unit != before]
    assert len(turned) == 3 and {tuple(reversed(unit)) for unit in turned} <= set(plain)


def test_swaps_of_pairs_are_refused_for_single_thumbs(encoder: Encoder) -> None:
    with pytest.raises(LabError, match=r"pair_swaps .* kto takes none"):
        prepare(pair_swaps(table(), rate=0.5, seed=0), encoder, *settings("kto"), seed=0)


def test_controls_end_the_prompt_by_the_thumb(encoder: Encoder) -> None:
    plain, asked = prepared(encoder), prepared(encoder, "csft")
    assert asked.tokens != plain.tokens
    assert asked.tokens.keys() == plain.tokens.keys()
    for example, after in asked.tokens.items():
        before = plain.tokens[example]
        control = "<|good|>" if asked.desirable[example] else "<|bad|>"
        assert after.completion == before.completion
        assert encoder.tokenizer.decode(after.prompt) == encoder.tokenizer.decode(before.prompt) + control


def test_weights_of_a_robust_loss_are_those_of_the_true_classes(encoder: Encoder) -> None:
    cfg = composed(["loss=kto_robust", "loss.flip_rates.desirable=0.1", "loss.flip_rates.undesirable=0.2"])
    robust, optimization = instantiate(cfg.loss), instantiate(cfg.optimization)
    data = prepare(unchanged(table()), encoder, robust, optimization, seed=0)
    # 12 thumbs up of 18: (12 - 0.2 * 18) / 0.7 = 12 true ones, and so 6 of the other class.
    weights = class_weights(robust, data)
    assert weights.desirable * 12 / (weights.undesirable * 6) == pytest.approx(1.25)


def test_one_class_is_refused_except_where_one_is_meant(encoder: Encoder) -> None:
    good = table().filter(lambda row: row["desirable"])
    bad = table().filter(lambda row: not row["desirable"])
    for loss in ("kto", "dpo"):
        with pytest.raises(LabError, match="needs both classes"):
            prepare(unchanged(good), encoder, *settings(loss), seed=0)
    assert len(prepare(unchanged(good), encoder, *settings("sft"), seed=0).plan.units) == 12
    with pytest.raises(LabError, match="no desirable example"):
        prepare(unchanged(bad), encoder, *settings("sft"), seed=0)


def test_dropped_examples_leave_tokens_and_labels_in_step(encoder: Encoder) -> None:
    rows = [*table(), {**table()[0], "prompt": "long " * 30}, {**table()[2], "prompt": "long " * 30}]
    rows = [{key: row[key] for key in ("prompt", "completion", "desirable")} for row in rows]
    short = Encoder(encoder.tokenizer, Lengths(max_length=24, min_completion=8, overlong_prompt="drop"))
    data = prepare(unchanged(build_table(reversed(rows), source="test", held_out=0)), short, *settings(), seed=0)
    assert data.dropped == 2 and len(data.desirable) == 18 and list(data.tokens) == data.plan.examples()
    for example, tokens in data.tokens.items():
        text = encoder.tokenizer.decode(tokens.completion, skip_special_tokens=True)
        assert data.desirable[example] is ("no" not in text)
    assert data.cut == 0
    cut = Encoder(encoder.tokenizer, Lengths(max_length=12, min_completion=2))
    found = prepare(unchanged(table()), cut, *settings(), seed=0)
    assert found.cut == sum(len(tokens) == 12 for tokens in found.tokens.values()) > 0


def test_only_what_a_step_sees_is_read(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    encode = Encoder.encode

    def counted(self: Encoder, *words: Any, **more: Any) -> Any:
        read.append(words)
        return encode(self, *words, **more)

    monkeypatch.setattr(Encoder, "encode", counted)
    few, all_ = prepared(encoder, max_steps=1), prepared(encoder)
    assert len(read) == len(few.tokens) + len(all_.tokens)
    assert set(few.tokens) == {example for unit in few.plan.steps[0] for example in few.plan.units[unit]}
    assert few.tokens == {example: all_.tokens[example] for example in few.tokens}


def test_a_limit_that_drops_all_says_so_and_by_which_key(encoder: Encoder) -> None:
    short = Encoder(encoder.tokenizer, Lengths(max_length=9, min_completion=8, overlong_prompt="drop"))
    with pytest.raises(LabError, match=r"18 of 18 .* \(lengths\.overlong_prompt=drop\).*Raise lengths\.max_length"):
        prepare(unchanged(table()), short, *settings(), seed=0)


def test_a_prompt_that_leaves_no_room_is_named_by_its_file_and_line(tmp_path: Path) -> None:
    rows = thumbs()
    rows[4]["prompt"] = "long " * 200
    write_jsonl(tmp_path / "thumbs.jsonl", rows)
    with pytest.raises(LabError, match=r"thumbs\.jsonl:5: the prompt has 1000 tokens"):
        run(tmp_path)


def test_the_reference_is_asked_for_what_the_steps_read_and_for_no_more(encoder: Encoder) -> None:
    data = prepared(encoder, max_steps=1)
    wanted = reference_sequences(data)
    members = [data.tokens[unit] for unit in data.plan.steps[0]]
    assert set(wanted) == {*members, *data.mismatched_tokens(0)}
    assert len(wanted) == len(set(wanted))
    fill_reference(data, {tokens: float(-number - 1) for number, tokens in enumerate(wanted)})
    step = make_step(data, *settings(), 0, share_prompts=False)
    for part in [*step.micro_batches, *step.mismatched]:
        sequences = [sequence for unit in part.units for sequence in unit]
        assert part.reference.tolist() == [-wanted.index(sequence) - 1.0 for sequence in sequences]
