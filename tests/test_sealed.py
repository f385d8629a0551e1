"""Files that are read back carry their checksum: any change to one is noticed, and never taken for its content."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kto_lab import sealed
from kto_lab.errors import LabError
from kto_lab.files import write_json

VALUE = {"name": "Łódź", "numbers": [0.5, 1, None], "inner": {"sha256": "of something else"}}
LINES = "seed: 0\nname: Łódź\n"


def damages(content: bytes) -> dict[str, bytes]:
    """What a disk does to a file: a flipped bit at each place, a cut after each byte, and zeros from each byte on."""
    places = range(len(content))
    return (
        {f"bit of byte {at}": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in places}
        | {f"cut at {at}": content[:at] for at in places}
        | {f"zeros from {at}": content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :] for at in places}
    )


@pytest.mark.parametrize(
    ("write", "read", "value"),
    [(sealed.write_json, sealed.read_json, VALUE), (sealed.write_text, sealed.read_text, LINES)],
    ids=["json", "text"],
)
def test_what_was_written_is_read_and_damage_never_is(
    tmp_path: Path,
    write: Callable[[Path, object], None],
    read: Callable[[Path, str], object],
    value: object,
) -> None:
    file = tmp_path / "state"
    write(file, value)
    assert read(file, "") == value
    whole = file.read_bytes()
    refused = 0
    for name, content in damages(whole).items():
        file.write_bytes(content)
        try:
            found = read(file, "Run again.")
        except sealed.DamagedError as error:
            assert str(error).startswith(f"{file} is damaged: ") and str(error).endswith(" Run again."), name
            refused += 1
        else:
            # The name of the checksum alone is damaged: the content is whole.
            assert isinstance(found, dict) and {key: found[key] for key in VALUE} == VALUE, name
    assert refused > len(whole) * 2


def test_json_that_was_written_without_a_checksum_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", VALUE)
    assert sealed.read_json(tmp_path / "record.json", "") == VALUE
    for content in (b"[1]", b"", b"\xff"):
        (tmp_path / "record.json").write_bytes(content)
        with pytest.raises(LabError, match=r"record\.json is damaged"):
            sealed.read_json(tmp_path / "record.json", "")


def test_what_can_be_made_again_is_set_aside_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "base.json"
    assert sealed.recover(file, sealed.read_json, "it is measured again") is None
    assert capsys.readouterr().out == ""
    for number in range(2):
        sealed.write_json(file, {"answer": number})
        assert sealed.recover(file, sealed.read_json, "it is measured again") == {"answer": number}
        damaged = file.read_bytes().replace(str(number).encode(), b"7", 1)
        file.write_bytes(damaged)
        assert sealed.recover(file, sealed.read_json, "it is measured again") is None
        assert [path.name for path in tmp_path.iterdir()] == ["base.json.damaged"]
        assert (tmp_path / "base.json.damaged").read_bytes() == damaged
        said = " ".join(capsys.readouterr().out.split())
        assert said.count("base.json is damaged:") == 1 and "it is measured again" in said


def test_a_folder_lists_the_checksums_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (folder / "config.json").write_text("{}")
    sealed.check_sums(folder, "")  # none are listed
    sealed.write_sums(folder)
    sealed.check_sums(folder, "")
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", sealed.SUMS], cwd=folder, check=True, capture_output=True)
    listed = folder / sealed.SUMS
    assert list(sealed.sums(tmp_path, [folder, tmp_path / "missing"])) == [f"policy/{sealed.SUMS}"]
    for file in (folder / "model.safetensors", folder / "config.json", listed):
        whole = file.read_bytes()
        file.write_bytes(whole[:1] + bytes([whole[1] ^ 1]) + whole[2:])
        with pytest.raises(sealed.DamagedError, match=file.name):
            sealed.check_sums(folder, "")
        file.write_bytes(whole)
    (folder / "config.json").unlink()
    with pytest.raises(sealed.DamagedError, match="it is missing"):
        sealed.check_sums(folder, "")
