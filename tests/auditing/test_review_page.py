import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kto_lab.auditing.exchange import read_decisions
from kto_lab.auditing.review_page import audit_hash, write_review
from kto_lab.errors import LabError
from tests.auditing.review_cases import HOSTILE, RIGHT_TO_LEFT, suspects, table

CHROMIUM = shutil.which("chromium")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")


def written(folder: Path, rows: pa.Table | None = None) -> Path:
    rows = suspects(table(), at_random=(1,)) if rows is None else rows
    return write_review(folder, rows, "Doubts <about> thumbs")


def embedded(page: Path) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_stands_alone_and_escapes_everything(tmp_path: Path) -> None:
    text = written(tmp_path).read_text()
    assert "<title>Doubts &lt;about&gt; thumbs</title>" in text
    assert text.count("</script>") == 2, "no text ends a script of ours"
    assert "<img" not in text and "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text)
    identities = re.findall(r'\bid="([^"]+)"', text.partition('<script id="data"')[0])
    assert len(identities) == len(set(identities))


def test_the_page_holds_the_suspects_in_the_order_of_their_rank(tmp_path: Path) -> None:
    rows = suspects(table(), at_random=(1,))
    data = embedded(written(tmp_path, rows))
    assert [example["rank"] for example in data["examples"]] == [1, 2, 3, 4, 5, 6]
    assert [example["id"] for example in data["examples"]] == rows["example_id"].to_pylist()[::-1]
    assert [example["random"] for example in data["examples"]] == [False, False, False, False, True, False]
    assert data["examples"][5]["signals"] == [["out_of_fold", 0.5], ["training", None]]
    assert data["examples"][0]["prompt"] == rows["prompt"].to_pylist()[5]


def test_suspects_without_a_random_sample_or_with_plain_prompts_are_shown(tmp_path: Path) -> None:
    rows = suspects(table()).drop_columns(["sampled_at_random", "prompt"])
    rows = rows.append_column("prompt", pa.array([f"text {HOSTILE}"] * len(rows)))
    rows = rows.set_column(rows.column_names.index("suspicion"), "suspicion", pa.array([float("nan")] * len(rows)))
    data = embedded(written(tmp_path, rows))
    assert {example["prompt"] for example in data["examples"]} == {f"text {HOSTILE}"}
    assert {example["random"] for example in data["examples"]} == {False}
    assert {example["suspicion"] for example in data["examples"]} == {None}


def test_an_audit_is_known_by_its_examples_and_thumbs() -> None:
    rows = suspects(table())
    assert audit_hash(rows) == audit_hash(rows.sort_by("rank"))
    assert audit_hash(rows) != audit_hash(rows.slice(1))
    turned = pa.array([not thumb for thumb in rows["desirable"].to_pylist()])
    assert audit_hash(rows) != audit_hash(rows.set_column(rows.column_names.index("desirable"), "desirable", turned))


def test_a_page_is_not_overwritten(tmp_path: Path) -> None:
    before = written(tmp_path).read_bytes()
    with pytest.raises(LabError, match="exists"):
        written(tmp_path, suspects(table(2)))
    assert (tmp_path / "review.html").read_bytes() == before


@in_a_browser
def test_keys_decide_and_the_decisions_are_read_back(tmp_path: Path) -> None:
    rows = suspects(table(), at_random=(1,))
    script = """
      at("reviewer").value = "Ada";
      for (const key of ["k", "f", "ArrowLeft", "ArrowLeft", "f", "u", "ArrowRight", "ArrowRight", "d", "s", "f"])
        press(key);
      const found = {result: result(), counts: at("counts").textContent, status: at("status").textContent,
        pressed: document.querySelector("[data-choice=flip]").getAttribute("aria-pressed"), kept: at("unkept").hidden,
        stored: JSON.parse(localStorage.getItem(KEY)).decisions, title: document.title,
        images: document.images.length, direction: at("completion").dir,
        prompt: [...document.querySelectorAll("#prompt .text")].map(one => one.textContent),
        completion: at("completion").textContent};
    """
    found = in_browser(written(tmp_path, rows), script)
    identities = rows["example_id"].to_pylist()[::-1]
    assert found["counts"] == "4 of 6 decided: 1 kept, 2 flipped, 1 dropped; 1 skipped"
    assert found["kept"] is True and list(found["stored"]) == identities[:5]
    assert found["title"] == "Doubts <about> thumbs" and found["images"] == 0
    last = rows.to_pylist()[0]
    assert found["prompt"] == [turn["content"] for turn in last["prompt"]]
    assert found["completion"] == last["completion"] and found["direction"] == "auto"
    assert found["status"].startswith("flip. Example 6 of 6, thumbs up.") and found["pressed"] == "false"
    file = tmp_path / "decisions.json"
    file.write_text(found["result"])
    read = read_decisions(file)
    assert [(one.example_id, one.choice) for one in read] == list(
        zip(identities, ["keep", "flip", "drop", "skip", "flip"], strict=False)
    )
    assert [one.desirable for one in read] == [False, True, False, True, False]
    assert [one.sampled_at_random for one in read] == [False, False, False, False, True]
    assert {one.reviewer for one in read} == {"Ada"}


@in_a_browser
def test_filters_show_a_part_and_typing_in_them_decides_nothing(tmp_path: Path) -> None:
    script = """
      const choose = (id, text) => { at(id).value = text; at(id).dispatchEvent(new Event("input")); };
      const found = {};
      choose("thumb-wanted", "up");
      found.up = at("where").textContent;
      choose("words", "REASON 2");
      found.words = [at("where").textContent, at("why").textContent];
      at("words").dispatchEvent(new KeyboardEvent("keydown", {key: "f", bubbles: true}));
      found.typed = Object.keys(decisions).length;
      press("f");
      choose("words", "");
      choose("state-wanted", "undecided");
      found.undecided = at("where").textContent;
      press("k");
      found.moved = at("where").textContent;
      press("k");
      found.empty = [at("card").hidden, at("none").hidden];
      press("u");
      found.undone = [at("where").textContent, at("card").hidden];
      at("blind").click();
      found.blind = at("why").hidden && at("doubt").hidden && at("signals").hidden;
      press("?");
      found.help = at("help").open;
      press("d");
      found.guarded = Object.values(decisions).includes("drop");
    """
    found = in_browser(written(tmp_path), script)
    assert found == {
        "up": "1 of 3",
        "words": ["1 of 1", f"Why doubted: reason 2 <b>{RIGHT_TO_LEFT}"],
        "typed": 0,
        "undecided": "1 of 2",
        "moved": "1 of 1",
        "empty": [True, False],
        "undone": ["1 of 1", False],
        "blind": True,
        "help": True,
        "guarded": False,
    }


@in_a_browser
def test_decisions_are_kept_under_the_audits_hash(tmp_path: Path) -> None:
    rows = suspects(table())
    again = """
      press("f");
      // What a reload does.
      decisions = {};
      place = 0;
      load();
      nextOpen(0);
      const found = [Object.values(decisions), at("where").textContent, Object.keys(localStorage)];
    """
    found = in_browser(written(tmp_path, rows), again)
    assert found == [["flip"], "2 of 6", [f"kto-lab-review-{audit_hash(rows)}"]]


@in_a_browser
def test_without_storage_the_page_says_so_and_still_works(tmp_path: Path) -> None:
    page = written(tmp_path)
    refuse = "Storage.prototype.setItem = () => { throw new Error('full'); };"
    script = f"{refuse} press('k'); const found = [at('unkept').hidden, JSON.parse(result()).decisions.length];"
    assert in_browser(page, script) == [False, 1]


@in_a_browser
def test_the_policy_lets_the_page_run_and_nothing_else(tmp_path: Path) -> None:
    page = written(tmp_path)
    page.write_text(page.read_text().replace("</body>", "<script>document.title = 'owned'</script></body>"))
    dom = dumped(page)
    assert "0 of 6 decided" in dom and "<title>Doubts &lt;about&gt; thumbs</title>" in dom


def in_browser(page: Path, script: str) -> Any:
    """What `found` is after a script has run in the page, without the policy that would refuse that script."""
    there = page.with_name("there.html")
    press = "const press = key => document.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));"
    end = f"<script>{press} {script}; document.documentElement.dataset.found = JSON.stringify(found);</script></body>"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    there.write_text(text.replace("</body>", end))
    dom = dumped(there)
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found is not None
    return json.loads(unescape(found[1]))


def dumped(page: Path) -> str:
    assert CHROMIUM is not None
    profile = page.parent / "browser"
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    done = subprocess.run([*words, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout
