"""Code that comes with a model never runs, whoever is there to say yes."""

import ast
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.errors import LabError
from kto_lab.judging import reward
from kto_lab.models.load import hf

ROOT = Path(__file__).resolve().parents[2]
CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({ran!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
class Config(LlamaConfig): model_type = "of_its_own"
class Tokenizer(PreTrainedTokenizerFast): ...
"""
CLASSES = {
    "AutoConfig": "theirs.Config",
    "AutoModelForCausalLM": "theirs.LlamaForCausalLM",
    "AutoModelForSequenceClassification": "theirs.LlamaForSequenceClassification",
}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the model's code would make; and a person who answers yes to every question."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "ran"


@pytest.fixture
def folder(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, ran: Path) -> Path:
    """A model's folder with code beside it, that nothing names yet."""
    folder = tmp_path / "theirs"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "theirs.py").write_text(CODE.format(ran=str(ran)))
    return folder


def change(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def test_a_model_with_code_of_its_own_is_refused(folder: Path, ran: Path) -> None:
    change(folder / "config.json", auto_map=CLASSES, model_type="of_its_own")
    with pytest.raises(LabError, match="never runs code that comes with a model") as refused:
        hf(str(folder), dtype="float32", attention="sdpa")
    assert "trust_remote_code=True" not in str(refused.value)
    assert not ran.exists()


def test_a_reward_model_with_code_of_its_own_is_refused(folder: Path, ran: Path) -> None:
    change(folder / "config.json", auto_map=CLASSES, model_type="of_its_own")
    with pytest.raises(LabError, match="never runs code that comes with a model"):
        reward.load(str(folder), None, "float32", None)
    assert not ran.exists()


def test_a_tokenizer_with_code_of_its_own_is_refused(folder: Path, ran: Path) -> None:
    change(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [None, "theirs.Tokenizer"]},
        tokenizer_class="OfItsOwn",
    )
    with pytest.raises(LabError, match="never runs code that comes with a model"):
        hf(str(folder), dtype="float32", attention="sdpa")
    assert not ran.exists()


def test_a_known_architecture_is_loaded_without_the_code_beside_it(folder: Path, ran: Path) -> None:
    change(folder / "config.json", auto_map=CLASSES)
    assert type(hf(str(folder), dtype="float32", attention="sdpa").model) is LlamaForCausalLM
    assert not ran.exists()


def calls_of_loaders() -> Iterator[tuple[str, ast.Call]]:
    """Every place where an Auto class of transformers makes something of a name or a configuration."""
    for file in [*ROOT.glob("kto_lab/**/*.py"), *ROOT.glob("scripts/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=of, attr="from_pretrained" | "from_config")):
                    if ast.unparse(of).startswith("Auto") or ast.unparse(of) == "self.kind":
                        yield f"{file.relative_to(ROOT)}:{node.lineno}", node
                case ast.Call(func=ast.Name(id="HFLM" | "InMemory")):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def test_every_loader_says_that_remote_code_is_off() -> None:
    calls = dict(calls_of_loaders())
    said = {
        place
        for place, call in calls.items()
        for word in call.keywords
        if word.arg == "trust_remote_code" and ast.unparse(word.value) == "False"
    }
    assert calls and said == calls.keys()
