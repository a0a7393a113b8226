import random
from collections.abc import Callable
from pathlib import Path

import pytest

from alpaca.errors import UserError
from alpaca.generation.corpus import read_corpus, split, support
from alpaca.generation.tokens import tokenizer
from tests.generation.conftest import Teacher, rows_of
from tests.generation.test_generate import figures


def prose(sentences: int, seed: int) -> str:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abdegiklmnorstu", k=rng.randrange(3, 9))) for _ in range(400)]
    return " ".join(" ".join(rng.choices(words, k=rng.randrange(6, 14))).capitalize() + "." for _ in range(sentences))


def test_spans_cover_the_text_between_sentences_and_fit() -> None:
    tokens = tokenizer("en")
    text = "\n\n".join([prose(3, 1), prose(40, 2), "x" * 50 + " " + "word " * 300])
    spans = split(text, tokens, 60)
    assert all(0 < len(tokens(text[a:b])) <= 60 for a, b in spans)
    assert all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
    assert sum(text[b - 1] == "." for _, b in spans) >= len(spans) - 8
    chinese = "油井测井是获取地层参数的重要手段。" * 30
    spans = split(chinese, tokenizer("zh"), 50)
    assert all(chinese[b - 1] == "。" and len(tokenizer("zh")(chinese[a:b])) <= 50 for a, b in spans)


def folder(path: Path) -> Path:
    (path / "deep").mkdir(parents=True)
    (path / "a.txt").write_text(prose(30, 1))
    (path / "copy.md").write_text(prose(30, 1))
    (path / "short.txt").write_text("Too short.")
    (path / "numbers.txt").write_text("12 34 | 56 ~ 78\n" * 40)
    (path / "deep" / "page.html").write_text(
        f"<html><head><title>no</title></head><script>bad()</script><p>{prose(20, 3)} a &lt; b</p></html>"
    )
    (path / "rows.jsonl").write_text('{"id": "x", "text": "' + prose(15, 4) + '"}\n')
    (path / "left_out.png").write_bytes(b"\x89PNG")
    return path


def test_a_folder_is_read_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    passages, dropped = read_corpus(folder(tmp_path / "docs"), "en", 120, 20)
    assert {p.file for p in passages} == {"a.txt", "deep/page.html", "rows.jsonl:1"}
    assert dropped["near-duplicate passage"] >= 2 and dropped["passage too short"] >= 1
    assert dropped["passage is mostly signs and digits"] >= 1
    text = (tmp_path / "docs" / "a.txt").read_text()
    assert all(text[p.start : p.end] == p.text for p in passages if p.file == "a.txt")
    page = "\n".join(p.text for p in passages if p.file == "deep/page.html")
    assert "bad()" not in page and "a < b" in page
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no usable passage"):
        read_corpus(tmp_path / "none", "en", 120, 20)


def test_docx_and_pdf_are_read(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    for seed in range(3):
        document.add_paragraph(prose(8, seed))
    document.save(tmp_path / "a.docx")
    passages, _ = read_corpus(tmp_path / "a.docx", "en", 120, 20)
    assert passages and passages[0].text.startswith(prose(8, 0)[:40])


def test_support_is_the_share_of_content_words() -> None:
    passage = "The pump has a valve of brass and a steel housing."
    assert support(passage, "What is the valve made of?", "The valve is of brass.", "en") == 1.0
    assert support(passage, "What is it?", "brass zebra", "en") == 0.5
    assert support(passage, "Say nothing", "", "en") == 1.0
    assert support("水泵的阀门由黄铜制成", "阀门是什么材料？", "黄铜", "zh") == 1.0


def test_rows_grounded_in_a_folder(teacher: Callable[..., Teacher], tmp_path: Path) -> None:
    server, docs = teacher(), folder(tmp_path / "docs")
    options = (
        "source=corpus",
        f"source.path={docs}",
        "source.passage_tokens=120",
        "source.min_passage_tokens=20",
        "source.rounds=1",
    )
    done = server.run(tmp_path / "out" / "rows.jsonl", "num_instructions=500", *options)
    kept, count = rows_of(tmp_path / "out" / "rows.jsonl"), figures(done)
    assert "the corpus is used up" in done.stderr
    assert kept and count["dropped"]["support too weak"] == count["replies"] == server.stats()["requests"]
    assert count["passages_dropped"]["near-duplicate passage"] >= 2
    for row in kept:
        place = row["source"]
        if place["file"] == "a.txt":
            assert row["output"] in (docs / "a.txt").read_text()[place["start"] : place["end"]]
        assert place["support"] >= 0.5
    asked = server.stats()["requests"]
    again = figures(
        server.run(tmp_path / "out" / "rows.jsonl", "num_instructions=500", *options, "source.min_support=0")
    )
    assert again["rows"] > len(kept) and server.stats()["requests"] == asked
    (docs / "a.txt").write_text(prose(30, 9))
    changed = server.run(tmp_path / "out" / "rows.jsonl", "num_instructions=500", *options)
    assert changed.returncode == 2 and "give another output" in changed.stderr
