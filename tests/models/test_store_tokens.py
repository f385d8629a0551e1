"""Per-token log-probabilities in the reference store, beside those of completions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from kto_lab.models import store
from kto_lab.models.logps import score, score_tokens
from kto_lab.models.sequences import Tokens
from kto_lab.models.store import LogpCache
from kto_lab.models.store_disk import holdings, shards_in
from kto_lab.models.store_scorer import known, score_and_keep
from kto_lab.models.store_shards import HEADER, SUMS, CorruptShardError, Keys, read_shard
from kto_lab.models.store_tokens import TOKENS, TokenEntries, merged_tokens, read_token_shard, write_token_shard
from kto_lab.sealed import SET_ASIDE
from tests.models.store_worker import SCORER, cache_in

KEY = "0123456789abcdef"
SEQUENCES = [Tokens((1, 2), (3,)), Tokens((1,), (2, 3, 4)), Tokens((2,), (9, 8)), Tokens((5,), (7,))]
COUNTS = np.array([1, 3, 2, 1])
VALUES = np.array([-1.5, -0.25, -3e38, -1e-30, -7, -8, -9], dtype="<f4")
SCORED = [Tokens(tuple(range(5, 5 + p)), tuple(range(40, 40 + n))) for p in (3, 9, 20) for n in (1, 5, 12)]
HOW = {"pad_id": 2, "token_budget": 40, "share_prompts": True}


def entries() -> TokenEntries:
    return TokenEntries.of(Keys.of(SEQUENCES), COUNTS, VALUES)


def files(logp_cache: LogpCache, suffix: str) -> list[Path]:
    return [file.path for file in shards_in(logp_cache.folder) if file.path.name.endswith(suffix)]


def test_what_goes_in_comes_out_bit_for_bit(tmp_path: Path) -> None:
    path = write_token_shard(tmp_path, KEY, entries())
    found = read_token_shard(path, KEY)
    order = [2, 0, 3, 1]
    wanted = np.concatenate([VALUES[4:6], VALUES[:1], VALUES[6:], VALUES[1:4]])
    assert found.find(Keys.of([SEQUENCES[place] for place in order]), COUNTS[order]).tobytes() == wanted.tobytes()
    assert path.stat().st_size == HEADER.size + 20 * len(SEQUENCES) + 4 * len(VALUES)


def test_unknown_sequences_are_nan_and_known_ones_beside_them_are_not() -> None:
    asked = [SEQUENCES[1], Tokens((6,), (6, 6)), SEQUENCES[3]]
    found = entries().find(Keys.of(asked), np.array([3, 2, 1]))
    assert np.isnan(found).tolist() == [False] * 3 + [True] * 2 + [False]
    assert np.isnan(TokenEntries.none().find(Keys.of(asked), np.array([3, 2, 1]))).all()
    # An entry whose completion has another length is another sequence's.
    assert np.isnan(entries().find(Keys.of(SEQUENCES[1:2]), np.array([2]))).all()


def test_only_what_is_asked_for_stays_in_memory() -> None:
    few = entries().among(Keys.of([SEQUENCES[1], Tokens((6,), (6,))]))
    assert len(few) == 1 and few.values.tolist() == VALUES[1:4].tolist() and few.values.base is None


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_entries_of_a_key_all_readers_take_the_same(swapped: bool) -> None:
    keys, counts = Keys.of(SEQUENCES[2:3]), COUNTS[2:3]
    two = [TokenEntries.of(keys, counts, np.array([-1, value], dtype="<f4")) for value in (-1.5, -1.5000001)]
    both = merged_tokens(two[::-1] if swapped else two)
    assert len(both) == 1 and both.values.tolist() == [-1, np.float32(-1.5000001)]


def test_every_flipped_byte_is_found_out(tmp_path: Path) -> None:
    path = write_token_shard(tmp_path, KEY, entries())
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(bytes(changed))
        with pytest.raises(CorruptShardError):
            read_token_shard(path, KEY)
    path.write_bytes(content[:-4])
    with pytest.raises(CorruptShardError):
        read_token_shard(path, KEY)


def test_neither_kind_of_shard_is_taken_for_the_other(tmp_path: Path) -> None:
    with pytest.raises(CorruptShardError, match="not a shard"):
        read_shard(write_token_shard(tmp_path, KEY, entries()), KEY)


def test_what_one_job_keeps_another_finds(tmp_path: Path) -> None:
    early = cache_in(tmp_path)
    assert np.isnan(early.lookup_tokens(SEQUENCES)).all()
    cache_in(tmp_path).put_tokens(SEQUENCES, VALUES)
    assert np.array_equal(early.lookup_tokens(SEQUENCES), VALUES)
    early.put_tokens(SEQUENCES, VALUES - 1)
    assert len(files(early, TOKENS.suffix)) == 1 and np.array_equal(early.lookup_tokens(SEQUENCES), VALUES)
    assert len(early.lookup_tokens([])) == 0


def test_a_completion_with_one_bad_token_is_not_kept(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[2], values[6] = np.nan, -np.inf
    logp_cache = cache_in(tmp_path)
    logp_cache.put_tokens(SEQUENCES, values)
    found = cache_in(tmp_path).lookup_tokens(SEQUENCES)
    assert np.isnan(found).tolist() == [False, True, True, True, False, False, True]


def test_a_corrupt_shard_is_set_aside_and_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logp_cache = cache_in(tmp_path)
    logp_cache.put_tokens(SEQUENCES, VALUES)
    (path,) = files(logp_cache, TOKENS.suffix)
    path.write_bytes(path.read_bytes()[:-1])
    other = cache_in(tmp_path)
    assert np.isnan(other.lookup_tokens(SEQUENCES)).all()
    assert files(other, SET_ASIDE) == [path.with_name(path.name + SET_ASIDE)]
    assert "computed again" in capsys.readouterr().out
    other.put_tokens(SEQUENCES, VALUES)
    assert np.array_equal(other.lookup_tokens(SEQUENCES), VALUES)


def test_many_small_shards_are_merged_into_files_of_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MANY_SHARDS", 3)
    monkeypatch.setattr(store, "MERGED_BYTES", 2 * (HEADER.size + 24))
    logp_cache = cache_in(tmp_path)
    sequences = [Tokens((number,), (1,)) for number in range(4)]
    values = np.array([-1, -2, -3, -4], dtype=np.float32)
    for number in range(4):
        logp_cache.put(sequences[number : number + 1], values[number : number + 1])
        logp_cache.put_tokens(sequences[number : number + 1], values[number : number + 1])
    logp_cache.settle()
    assert [len(files(logp_cache, kind.suffix)) for kind in (SUMS, TOKENS)] == [2, 2]
    for each in (logp_cache, cache_in(tmp_path)):
        assert np.array_equal(each.lookup_tokens(sequences), values)
        assert np.array_equal(each.lookup(sequences), values)


def test_both_forms_count_towards_the_bound_and_completions_are_counted_once(tmp_path: Path) -> None:
    logp_cache = cache_in(tmp_path)
    logp_cache.put(SEQUENCES, VALUES[:4])
    logp_cache.put_tokens(SEQUENCES, VALUES)
    (holding,) = holdings(tmp_path)
    assert holding.entries == 4 and holding.size == 2 * HEADER.size + 2 * 20 * 4 + 4 * len(VALUES)


def test_a_pass_over_tokens_gives_the_sums_of_a_pass_over_completions(model: LlamaForCausalLM, tmp_path: Path) -> None:
    sums, tokens = score_tokens(model, SCORED, **HOW)  # type: ignore[arg-type]
    assert torch.equal(sums, score(model, SCORED, **HOW))  # type: ignore[arg-type]
    parts = tokens.split([len(sequence.completion) for sequence in SCORED])
    assert torch.equal(sums, torch.stack([part.sum() for part in parts]))
    for sequence, part in zip(SCORED, parts, strict=True):
        ids = torch.tensor([sequence.prompt + sequence.completion])
        with torch.no_grad():
            plain = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(part, plain[len(sequence.prompt) - 1 :], rtol=1e-5, atol=1e-5)


def test_a_pass_over_tokens_keeps_both_forms(model: LlamaForCausalLM, tmp_path: Path) -> None:
    ours, theirs = (cache_in(tmp_path / name) for name in ("tokens", "sums"))
    tokens = score_and_keep(model, SCORED, ours, advance=lambda _: None, per_token=True, **HOW)  # type: ignore[arg-type]
    sums = score_and_keep(model, SCORED, theirs, advance=lambda _: None, **HOW)  # type: ignore[arg-type]
    again = cache_in(tmp_path / "tokens")
    assert torch.equal(known(again, SCORED, per_token=True), tokens)
    assert torch.equal(known(again, SCORED), sums)
    assert [path.read_bytes() for path in files(ours, SUMS.suffix)] == [
        path.read_bytes() for path in files(theirs, SUMS.suffix)
    ]
    assert not files(theirs, TOKENS.suffix) and torch.isnan(known(theirs, SCORED, per_token=True)).all()
    assert ours.folder.name == SCORER.key
