"""One file of the reference store: what goes in comes out, and nothing else is taken for it."""

from pathlib import Path

import numpy as np
import pytest

from kto_lab.models.sequences import Tokens
from kto_lab.models.store_shards import (
    ENTRY_BYTES,
    HEADER,
    SUMS,
    CorruptShardError,
    Entries,
    Keys,
    entries_in,
    merged,
    read_shard,
    write_shard,
)

SCORER = "0123456789abcdef"
SEQUENCES = [Tokens((1, 2), (3,)), Tokens((1,), (2, 3)), Tokens((), (1, 2, 3)), Tokens((2**31, 49151), (0,))]
VALUES = np.array([-1.5, -70.25, -3e38, -1e-30], dtype="<f4")


def entries() -> Entries:
    return Entries.of(Keys.of(SEQUENCES), VALUES)


def test_what_goes_in_comes_out_bit_for_bit(tmp_path: Path) -> None:
    found = read_shard(write_shard(tmp_path, SCORER, entries()), SCORER).find(Keys.of(SEQUENCES))
    assert found.dtype == np.float32 and found.tobytes() == VALUES.tobytes()


def test_a_shard_on_disk_stays_readable(tmp_path: Path) -> None:
    """The bytes of two entries, as the first version of the store wrote them."""
    path = tmp_path / "05febf3e45bf45f19906177e602f694b.logps"
    path.write_bytes(
        bytes.fromhex(
            "4b544f524546310a0123456789abcdef020000000000000005febf3e45bf45f19906177e602f694b"
            "8f7f670ea5d6ecb1dd2a61c82b33dfd576a825502be31a2c8d6499772aef93720000c0bf00808cc2"
        )
    )
    assert read_shard(path, SCORER).find(Keys.of(SEQUENCES[:2])).tolist() == VALUES[:2].tolist()
    again = write_shard(tmp_path / "again", SCORER, Entries.of(Keys.of(SEQUENCES[:2]), VALUES[:2]))
    assert again.name == path.name and again.read_bytes() == path.read_bytes()


def test_where_the_prompt_ends_is_part_of_the_key() -> None:
    keys = Keys.of(SEQUENCES)
    assert len(set(keys.high.tolist())) == len(set(keys.low.tolist())) == len(SEQUENCES)
    unknown = [Tokens((1, 2), (4,)), Tokens((1, 2, 3), ())]
    assert np.isnan(entries().find(Keys.of(unknown))).all()
    assert np.isnan(Entries.none().find(keys)).all()
    assert len(Keys.of([]).high) == 0


def test_a_key_is_found_by_both_of_its_halves() -> None:
    keys = Keys.of(SEQUENCES)
    assert np.isnan(entries().find(Keys(keys.high, keys.low + np.uint64(1)))).all()


def test_the_same_entries_are_the_same_file_whatever_their_order(tmp_path: Path) -> None:
    first = write_shard(tmp_path, SCORER, entries())
    written = first.stat().st_mtime_ns
    order = [2, 0, 3, 1]
    again = Entries.of(Keys.of([SEQUENCES[place] for place in order]), VALUES[order])
    assert write_shard(tmp_path, SCORER, again) == first and first.stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert first.stat().st_size == HEADER.size + 4 * ENTRY_BYTES and entries_in(first.stat().st_size) == 4


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_values_of_a_key_all_readers_take_the_same(swapped: bool) -> None:
    keys = Keys.of(SEQUENCES[:1])
    two = [Entries.of(keys, np.array([value], dtype="<f4")) for value in (-1.5, -1.5000001)]
    both = merged(two[::-1] if swapped else two)
    assert len(both) == 1 and both.values[0] == np.float32(-1.5000001)


def test_every_flipped_byte_is_found_out(tmp_path: Path) -> None:
    path = write_shard(tmp_path, SCORER, entries())
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(bytes(changed))
        with pytest.raises(CorruptShardError):
            read_shard(path, SCORER)


@pytest.mark.parametrize("length", [0, 1, HEADER.size - 1, HEADER.size, HEADER.size + ENTRY_BYTES, -1])
def test_a_cut_file_is_found_out(tmp_path: Path, length: int) -> None:
    path = write_shard(tmp_path, SCORER, entries())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptShardError):
        read_shard(path, SCORER)


def test_another_scorers_shard_is_not_taken(tmp_path: Path) -> None:
    path = write_shard(tmp_path, "fedcba9876543210", entries())
    assert path.name.endswith(SUMS.suffix)
    with pytest.raises(CorruptShardError, match="another reference"):
        read_shard(path, SCORER)
