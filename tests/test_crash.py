"""The report of an error that nobody foresaw: where it is, what is in it, and what is not."""

import os
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kto_lab import cli, crash
from tests.small_runs import overrides

# By name and value; no name is a fixture of a real service's.
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_NotATokenButAsSecretAsOneWouldBe",
    "AWS_SECRET_ACCESS_KEY": "aws/not/a/key/but/as/secret",
    "PGPASSWORD": "correct-horse",
    "SITE_CREDENTIALS": "battery-staple",
}
# Of a form that tells what it is, under a name that does not.
FORM = "hf_" + "NotAToken" * 4


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path / "cache"))


def fails(where: str = "here") -> None:
    raise RuntimeError(f"the server refused {SECRETS['WANDB_API_KEY']} and {SECRETS['PGPASSWORD']} {where}")


@pytest.mark.usefixtures("secrets")
def test_a_command_that_crashes_leaves_a_report_beside_its_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_load", lambda function: lambda cfg: fails())
    words = overrides(tmp_path, "corruption=label_noise", "corruption.rate=0.25")
    monkeypatch.setattr(sys, "argv", ["kto-lab", "train", *words])
    monkeypatch.setattr(sys, "orig_argv", ["kto-lab", "train", *words])
    monkeypatch.delenv(crash.VARIABLE)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    (file,) = (tmp_path / "run").iterdir()
    assert str(file) in said and "RuntimeError: the server refused" in said
    assert "Traceback" not in said and f"{crash.VARIABLE}=1 shows the traceback" in said
    text = file.read_text()
    assert "Traceback (most recent call last)" in text and 'raise RuntimeError(f"the server' in text
    assert "rate: 0.25" in text and "torch: 2." in text and "corruption=label_noise" in text
    assert "max_length: 512" in text and "micro_batch_tokens: 2048" in text, "lengths are no secrets"
    assert not [value for value in SECRETS.values() if value in text + said]


@pytest.mark.usefixtures("secrets")
def test_the_variable_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(crash.VARIABLE, "1")
    with pytest.raises(SystemExit):
        cli.with_messages(fails)
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said and "=1 shows" not in said


@pytest.mark.usefixtures("secrets")
def test_no_secret_of_the_configuration_is_in_the_report(tmp_path: Path) -> None:
    cfg = OmegaConf.create(
        {
            "export": {
                "url": "postgresql://ada:s3cret-pass@db.example.org/thumbs",
                "api_key": "plain-words-as-a-key",
                "password": "with spaces in it",
                "from_env": "${oc.env:HF_TOKEN}",
                "headers": [f"Authorization: Bearer {FORM}"],
                "columns": {"key": "hidden-by-its-name"},
            },
            "tokenizer": "kept",
            "optimization": {"max_tokens": 77},
        }
    )
    command = ["kto-lab", "feedback", "import", "export.api_key=plain-words-as-a-key", "++db.password='two words'"]
    error = ValueError("{'token': 'in-a-dict-of-the-message'}")
    file = crash.write_report(error, command, cfg)
    assert file is not None and file.parent == tmp_path / "cache" / "crashes"
    text = file.read_text()
    hidden = ["s3cret-pass", "plain-words", "spaces in it", FORM, "hidden-by", "two words", "in-a-dict"]
    assert not [secret for secret in [*hidden, *SECRETS.values()] if secret in text]
    assert "db.example.org/thumbs" in text and "tokenizer: kept" in text and "max_tokens: 77" in text
    assert "${oc.env:HF_TOKEN}" in text, "where it comes from is worth knowing"
    assert str(Path.home()) not in text or str(Path.home()) == os.sep


def test_a_folder_that_cannot_be_written_does_not_lose_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cfg = OmegaConf.create({"run_dir": str(tmp_path / "file" / "run")})
    file = crash.write_report(ValueError("x"), ["kto-lab"], cfg)
    assert file is not None and file.parent == tmp_path
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert crash.write_report(ValueError("x"), ["kto-lab"], cfg) is None


def test_what_is_wrong_with_torch_does_not_lose_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr("kto_lab.runs.environment.environment", fails)
    file = crash.write_report(ValueError("x"), ["kto-lab"], None)
    assert file is not None and "hardware: not known: RuntimeError" in file.read_text()
