"""What a sweep keeps in memory: a run with it is the run without it, and nothing is made twice."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kto_lab.evaluation.evaluate import Judge
from kto_lab.models.number_format import as_read
from kto_lab.runs.command import train
from kto_lab.runs.process_cache import NO_CACHE, Node, ProcessCache
from kto_lab.runs.record import read_record
from kto_lab.sweeps.cell import run_cell
from kto_lab.training.callbacks import METRICS
from kto_lab.training.module import AlignmentModule
from tests.small_runs import composed, configuration, overrides, thumbs, write_jsonl

EVALUATED = (
    *("evaluation=quick", "evaluation.reward_examples=8", "evaluation.prompts=4", "evaluation.kl_prompts=2"),
    *("evaluation.max_new_tokens=3", "optimization.max_steps=3"),
)
# Cells of a sweep: another loss, other noise, another seed, an adapter, and the first once more.
CELLS = [
    ("seed=0",),
    ("loss=dpo",),
    ("corruption=label_noise", "corruption.rate=0.3"),
    ("seed=1",),
    ("adapter=lora", "adapter.rank=2"),
    ("lengths.max_length=16",),
    ("seed=0",),
]


def run(folder: Path, name: str, cache: ProcessCache, *more: str) -> Path:
    return train(configuration(folder, *EVALUATED, *more, f"run_dir={folder / name}"), cache)


@pytest.mark.slow
def test_a_run_with_a_cache_is_the_run_without_bit_for_bit(tmp_path: Path) -> None:
    cache = ProcessCache(keeps=True)
    for number, cell in enumerate(CELLS):
        with_it, without = (
            run(tmp_path, f"cache{number}", cache, *cell),
            run(tmp_path, f"without{number}", NO_CACHE, *cell),
        )
        assert (with_it / METRICS).read_bytes() == (without / METRICS).read_bytes(), cell
        one, other = read_record(with_it), read_record(without)
        assert one["metrics"] == other["metrics"] and one["data"] == other["data"], cell
        assert {p.name for p in (with_it / "evaluation").iterdir()} == {
            p.name for p in (without / "evaluation").iterdir()
        }
        (weights,) = (with_it / "policy").glob("*.safetensors")
        mine, theirs = load_file(weights), load_file(without / "policy" / weights.name)
        assert all((mine[key] == theirs[key]).all() for key in theirs), cell


def test_nothing_is_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    measure = Judge.measure

    def counted(judge: Judge, policy: Any, name: str, *more: Any, **named: Any) -> Any:
        measured.append(name)
        return measure(judge, policy, name, *more, **named)

    monkeypatch.setattr(Judge, "measure", counted)
    cache = ProcessCache(keeps=True)
    cfg = configuration(tmp_path, *EVALUATED)
    for number, cell in enumerate([("seed=0",), ("loss=dpo",), ("corruption=label_noise", "corruption.rate=0.3")]):
        run(tmp_path, str(number), cache, *cell)
    assert measured == ["base", "trained", "trained", "trained"]
    assert cache.table(Node(cfg.feedback)) is cache.table(Node(cfg.feedback))
    assert cache.loaded(Node(cfg.model)).model is not cache.loaded(Node(cfg.model)).model


def test_changed_thumbs_are_read_again(tmp_path: Path) -> None:
    cache = ProcessCache(keeps=True)
    cfg = configuration(tmp_path)
    before = cache.table(Node(cfg.feedback))
    write_jsonl(tmp_path / "thumbs.jsonl", thumbs(28))
    assert len(cache.table(Node(cfg.feedback))) == len(before) + 8


@pytest.mark.parametrize(
    "more",
    [(), ("adapter=lora", "adapter.merge=true", "trainer.precision=bf16-mixed", "evaluation.kl_prompts=0")],
    ids=["whole", "merged adapter in bf16"],
)
def test_a_policy_that_was_trained_does_not_change_what_is_kept(more: tuple[str, ...], tmp_path: Path) -> None:
    cache = ProcessCache(keeps=True)
    run(tmp_path, "one", cache, "evaluation.prompts=1", *more)
    node = Node(composed(overrides(tmp_path)).model)
    kept, fresh = cache.loaded(node).model.state_dict(), NO_CACHE.loaded(node).model.state_dict()
    assert all((kept[key] == fresh[key]).all() for key in fresh)


@pytest.mark.parametrize("written", [False, True])
def test_weights_are_copied_for_whoever_writes_into_them(written: bool, tmp_path: Path) -> None:
    cache, node = ProcessCache(keeps=True), Node(composed(overrides(tmp_path)).model)
    one, other = (cache.loaded(node, written=here).model for here in (written, False))
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert mine is not theirs and mine.requires_grad
        assert (mine.data_ptr() != theirs.data_ptr()) == written
    # Other values leave what is kept as it was.
    as_read(other, number_format="bf16-mixed", trained=False)
    kept, fresh = cache.loaded(node).model.state_dict(), NO_CACHE.loaded(node).model.state_dict()
    assert all(torch.equal(kept[key], fresh[key]) for key in fresh)


def test_a_cell_leaves_no_policy_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[AlignmentModule]] = []

    class Noted(AlignmentModule):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.append(weakref.ref(self))

    monkeypatch.setattr("kto_lab.training.fit.AlignmentModule", Noted)
    assert run_cell(configuration(tmp_path, "evaluation=none", "optimization.max_steps=2")) == "done"
    assert [module() for module in made] == [None]


def test_only_the_last_few_of_a_kind_are_kept() -> None:
    cache, made = ProcessCache(keeps=True), []

    def make(key: str) -> str:
        made.append(key)
        return key

    for key in ("a", "b", "a", "c", "b", "a"):
        assert cache.get("kind", key, lambda key=key: make(key), most=2) == key  # type: ignore[misc]
    assert made == ["a", "b", "c", "a"]
    assert NO_CACHE.get("kind", "a", lambda: make("x")) == NO_CACHE.get("kind", "a", lambda: make("x")) == "x"
