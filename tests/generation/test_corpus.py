import random
import string
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from alpaca.errors import UserError
from alpaca.generation import documents, passage_index
from alpaca.generation.config import GenerateConfig, SourceConfig, TeacherConfig
from alpaca.generation.corpus import Passage, read_corpus, split, support
from alpaca.generation.dedupe import Pool
from alpaca.generation.failures import Failures
from alpaca.generation.requests import Requests
from alpaca.generation.shingles import Passages
from alpaca.generation.teacher import Unanswered
from alpaca.generation.tokens import tokenizer
from tests.generation.conftest import Teacher, bare, rows_of
from tests.generation.test_generate import figures


def prose(sentences: int, seed: int) -> str:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abdegiklmnorstu", k=rng.randrange(3, 9))) for _ in range(400)]
    return " ".join(" ".join(rng.choices(words, k=rng.randrange(6, 14))).capitalize() + "." for _ in range(sentences))


def test_spans_cover_the_text_between_sentences_and_fit() -> None:
    tokens = tokenizer("en")
    text = "\n\n".join([prose(3, 1), prose(40, 2), "x" * 50 + " " + "word " * 300])
    spans = list(split(text, tokens, 60))
    assert all(0 < len(tokens(text[a:b])) <= 60 for a, b in spans)
    assert all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
    assert sum(text[b - 1] == "." for _, b in spans) >= len(spans) - 8
    chinese = "油井测井是获取地层参数的重要手段。" * 30
    spans = list(split(chinese, tokenizer("zh"), 50))
    assert all(chinese[b - 1] == "。" and len(tokenizer("zh")(chinese[a:b])) <= 50 for a, b in spans)


def test_a_word_without_end_makes_no_passage_of_its_own(tmp_path: Path) -> None:
    data = "".join(random.Random(1).choices(string.ascii_letters + string.digits + "+/", k=300_000))
    (tmp_path / "logo.md").write_text(f"# Logo\n\n{prose(20, 1)}\n![x](data:image/png;base64,{data})\n\n{prose(20, 2)}")
    passages, dropped, _ = read_corpus(tmp_path, "en", 120, 20)
    assert {p.text for p in passages} and all(len(p.text) <= 120 * 16 for p in passages)
    assert sum(p.text[:200] in data for p in passages) <= 1 and dropped["passage has few words for its length"] > 200
    text = "".join(p.text for p in passages)
    assert all(sentence in text for n in (1, 2) for sentence in prose(20, n).split(". ")[1:-1])


def test_near_duplicates_are_those_that_comparing_all_finds() -> None:
    rng, words = random.Random(2), prose(200, 7).split()
    texts = [rng.choices(words, k=rng.randrange(30, 300)) for _ in range(60)]
    texts += [[w if rng.random() > rate else rng.choice(words) for w in rng.choice(texts)] for rate in (0, 0.1, 0.2, 0.3, 0.4) * 30]  # fmt: skip
    texts += [[w for w in rng.choice(texts) if rng.random() > rate] for rate in (0.1, 0.2, 0.4) * 20]
    pool, passages = Pool("en", 0.7), Passages(0.7)
    expected = [match is None for match in pool.accept(" ".join(text) for text in texts)]
    assert [passages.add(tokenizer("en")(" ".join(text))) for text in texts] == expected
    assert 60 < sum(expected) < len(texts) - 60


def test_one_line_of_five_megabytes_takes_seconds(tmp_path: Path) -> None:
    rng = random.Random(3)
    words = ["".join(rng.choices("abdegiklmnorstu", k=rng.randrange(2, 9))) for _ in range(20_000)]
    (tmp_path / "line.txt").write_text(" ".join(rng.choices(words, k=830_000)))
    began = time.process_time()
    passages, dropped, _ = read_corpus(tmp_path, "en", 400, 40)
    assert len(passages) > 2000 and not dropped
    assert time.process_time() - began < 20  # 2 s; comparing all takes minutes


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
    passages, dropped, _ = read_corpus(folder(tmp_path / "docs"), "en", 120, 20)
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


def test_passages_are_found_again_and_preferred_to_new_ones_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs, index = folder(tmp_path / "docs"), tmp_path / "rows.jsonl.passages"
    first, dropped, found = read_corpus(docs, "en", 120, 20, index)
    assert found is not None and not index.exists(), "it is saved when the run is known to be meant"
    passage_index.save(index, found)
    assert (first, dropped, None) == read_corpus(docs, "en", 120, 20) and prose(1, 1) not in index.read_text()
    capsys.readouterr()
    assert read_corpus(docs, "en", 120, 20, index) == (first, dropped, None)
    assert "reading" not in capsys.readouterr().err, "the text was cut again"
    assert read_corpus(docs, "en", 60, 20, index)[:2] == read_corpus(docs, "en", 60, 20)[:2]
    whole = index.read_text()
    index.write_text(whole[:-100])
    assert read_corpus(docs, "en", 120, 20, index) == (first, dropped, found)
    index.write_text(whole)
    (docs / "0.txt").write_text((docs / "a.txt").read_text().replace(". ", ". Now ", 9))
    assert {p.file for p in read_corpus(docs, "en", 120, 20)[0]} >= {"0.txt"}
    assert read_corpus(docs, "en", 120, 20, index)[0] == first, "a passage that was asked about gave way to one alike"


def test_documents_of_every_kind(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_paragraph(prose(8, 0))
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "Sandstone", "20 percent"
    document.add_paragraph("After the table.")
    document.save(str(tmp_path / "a.docx"))
    (tmp_path / "b.html").write_text(
        "<html><head><title>no<body><nav>menu</nav><p class='a>b'>One<br>two &lt; 3<td>x<td>y"
    )
    (tmp_path / "c.txt").write_bytes("油井测井，声波测井。".encode("gb18030"))
    (tmp_path / "c1.txt").write_bytes("Die Größe der Düse, très bien.".encode("latin-1"))
    (tmp_path / "d.txt").write_bytes("\ufeffline one\r\nline two".encode())
    (tmp_path / "e.txt").write_text("sixteen", encoding="utf-16")
    (tmp_path / "f.jsonl").write_text('{"id": "x", "text": "t"}\n{"a": "long one", "b": "s"}\n{broken\n5\n"bare"\n')
    for name in ("broken.pdf", "broken.docx", "noise.txt"):
        (tmp_path / name).write_bytes(bytes(range(128, 256)) * 5)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    (tmp_path / "picture.png").write_bytes(b"x")
    counted = Counter[str]()
    files = documents.find(tmp_path, counted)
    texts = {name: text for f in files for name, text in documents.read(f, f.name, counted)}
    assert texts.pop("a.docx") == prose(8, 0) + "\n\nSandstone | 20 percent\n\nAfter the table."
    assert texts == {
        "b.html": "One\n\ntwo < 3 x y", "c.txt": "油井测井，声波测井。", "c1.txt": "Die Größe der Düse, très bien.", "d.txt": "line one\nline two", "e.txt": "sixteen",
        "f.jsonl:1": "t", "f.jsonl:2": "long one", "f.jsonl:5": "bare",
    }  # fmt: skip
    assert counted == {"file that cannot be read": 3, "line that cannot be read": 1, "file of another kind": 1}


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [
        ("big5", "big5", "臺灣的測井資料"),
        ("Shift_JIS", "shift_jis", "油井の検層データ"),
        ("euc-kr", "euc-kr", "유정 검층 자료"),
        ("iso-2022-jp", "iso-2022-jp", "油井の検層データ"),
        ("windows-1251", "cp1251", "Каротаж скважин"),
        ("gb2312", "gb18030", "声波测井资料"),
        ("iso-8859-1", "utf-8", "Größe der Düse"),  # as many pages that were converted later
        ("no-such-name", "gb18030", "声波测井资料，油井测井资料"),
    ],
)
def test_a_page_is_read_in_the_encoding_that_it_declares(
    declared: str, encoding: str, text: str, tmp_path: Path
) -> None:
    page = f'<html><head><meta http-equiv="Content-Type" content="text/html; charset={declared}"></head><p>{text}</p>'
    (tmp_path / "a.html").write_bytes(page.encode(encoding))
    assert list(documents.read(tmp_path / "a.html", "a.html", Counter())) == [("a.html", text)]


def test_a_pdf_is_read_and_one_without_text_counted(tmp_path: Path) -> None:
    import pypdf
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0.1, 0.5, "The valve is made of brass")
    figure.savefig(tmp_path / "a.pdf")
    blank = pypdf.PdfWriter()
    blank.add_blank_page(72, 72)
    blank.write(str(tmp_path / "b.pdf"))
    counted = Counter[str]()
    texts = [t for name in ("a.pdf", "b.pdf") for _, t in documents.read(tmp_path / name, name, counted)]
    assert ["".join(t.split()) for t in texts] == ["Thevalveismadeofbrass"] and counted == {"file without text": 1}


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
    options += ("source.min_support=0", "report=false")
    again = figures(server.run(tmp_path / "out" / "rows.jsonl", "num_instructions=500", *options))
    assert again["rows"] > len(kept) and server.stats()["requests"] == asked
    before = rows_of(tmp_path / "out" / "rows.jsonl")
    (docs / "a.txt").write_text(prose(30, 9))
    (docs / "copy.md").unlink()
    (docs / "b.txt").write_text(prose(9, 8))
    changed = server.run(tmp_path / "out" / "rows.jsonl", "num_instructions=500", *options)
    after, others = rows_of(tmp_path / "out" / "rows.jsonl"), [r for r in before if r["source"]["file"] != "a.txt"]
    assert set(bare(others)) <= set(bare(after)) and all(r["request"] < asked for r in others)
    assert {r["source"]["file"] for r in after if r["request"] >= asked} == {"a.txt", "b.txt"}
    assert "requests were about passages that are no longer in" in changed.stderr
    assert figures(changed)["dropped"]["its passage is gone"] >= len(before) - len(others) > 0
    assert server.stats()["repeated"] == 0 and server.stats()["requests"] > asked
    asked = server.stats()["requests"]
    index = (tmp_path / "out" / "rows.jsonl.passages").read_bytes()
    wrong = server.run(
        tmp_path / "out" / "rows.jsonl", "num_instructions=500", *options[:2], "source.passage_tokens=70"
    )
    assert wrong.returncode == 2 and "begun with other passages" in wrong.stderr and server.stats()["requests"] == asked
    assert (tmp_path / "out" / "rows.jsonl.passages").read_bytes() == index, "a command that was refused replaced it"


def test_a_passage_that_the_teacher_fails_on_is_left_out_and_one_that_fails_always_stops_the_run(
    teacher: Callable[..., Teacher], tmp_path: Path
) -> None:
    server, docs = teacher(), tmp_path / "docs"
    docs.mkdir()
    for number in range(8):
        (docs / f"{number}.txt").write_text(prose(8, number) + (" Xqz." if number in (2, 5) else ""))
    options = ("num_instructions=500", "source=corpus", f"source.path={docs}", "source.rounds=1", "report=false")
    options += ("teacher.retries=2", "teacher.backoff=0.01")
    output = tmp_path / "rows.jsonl"
    server.set(status=500)
    dead = server.run(output, *options)
    assert dead.returncode == 2 and dead.stderr.count("failed 3 times in a row, last with no 500") == 1
    assert "failed" not in {entry["kind"] for entry in rows_of(Path(f"{output}.journal"))}
    server.set(status=None, poison="Xqz")
    done = server.run(output, *options)
    assert figures(done)["failed"] == figures(done)["dropped"]["the teacher failed on it"] == 2
    assert "2 of 8 requests failed and gave nothing: " in done.stderr and "2.txt, characters 0 to " in done.stderr
    assert {r["source"]["file"] for r in rows_of(output)} == {f"{n}.txt" for n in (0, 1, 3, 4, 6, 7)}
    asked = server.stats()["requests"]
    assert figures(server.run(output, *options))["failed"] == 2 and server.stats()["requests"] == asked
    alone = tmp_path / "alone.jsonl"  # nothing else in flight says whether the teacher works
    assert figures(server.run(alone, *options, "teacher.concurrency=1"))["failed"] == 2
    assert bare(rows_of(alone)) == bare(rows_of(output))
    assert server.stats()["requests"] - asked == 6 + 2 * 2 * 3 + 2
    assert "the corpus is used up: 12 of 500 rows, 2 of 8 requests failed; " in done.stderr
    enough = tmp_path / "enough.jsonl"
    assert figures(server.run(enough, *options, "num_instructions=12"))["failed"] >= 1
    server.set(poison=None)
    asked = server.stats()["requests"]
    server.run(enough, *options, "num_instructions=12", "teacher.model=better")
    assert server.stats()["requests"] == asked, "it has its rows"
    again = server.run(alone, *options, "retry_failed=true")
    assert figures(again)["failed"] == 0 and server.stats()["requests"] == asked + 2 and len(rows_of(alone)) == 16
    asked = server.stats()["requests"]
    better = server.run(output, *options, "teacher.model=better")
    assert figures(better)["failed"] == 0 and server.stats()["requests"] == asked + 2
    assert len(rows_of(output)) == 16 and "used up: 16 of 500 rows; " in better.stderr


def test_a_key_whose_credit_ends_in_mid_run_stops_it_and_nothing_counts_as_failed(
    teacher: Callable[..., Teacher], tmp_path: Path
) -> None:
    server, docs, output = teacher(credit=10, latency=0.1), tmp_path / "docs", tmp_path / "rows.jsonl"
    docs.mkdir()
    for number in range(40):
        (docs / f"{number}.txt").write_text(prose(8, number))
    options = ("num_instructions=500", "source=corpus", f"source.path={docs}", "source.rounds=1", "report=false")
    options += ("teacher.concurrency=4",)
    dry = server.run(output, *options)
    assert dry.returncode == 2 and dry.stderr.count("your credit balance is too low") == 1, dry.stderr
    assert "credit balance" in dry.stderr.splitlines()[-1] and len(rows_of(output)) == 2 * 10
    assert "failed" not in {entry["kind"] for entry in rows_of(Path(f"{output}.journal"))}
    assert server.stats()["requests"] < 10 + 2 * 4 + 2
    server.set(credit=None)
    assert figures(server.run(output, *options))["replies"] == 40 and server.stats()["repeated"] == 0


def test_failures_in_a_row_end_a_run(teacher: Callable[..., Teacher], tmp_path: Path) -> None:
    server, docs = teacher(context=330), tmp_path / "docs"
    docs.mkdir()
    for number in range(12):
        (docs / f"{number}.txt").write_text(prose(8, number))
    options = ("num_instructions=500", "source=corpus", f"source.path={docs}", "source.rounds=1", "report=false")
    options += ("teacher.max_tokens=256", "give_up_after=5", "teacher.concurrency=2")
    done = server.run(tmp_path / "rows.jsonl", *options)
    assert done.returncode == 2 and "the last 5 replies gave no new row (too long for the teacher: 5)" in done.stderr


def test_an_answer_to_what_was_sent_before_an_outage_shows_nothing() -> None:
    failures, now = Failures(), time.monotonic()
    error = Unanswered("no capacity", "the teacher failed on it", "no capacity", since=now)
    failures.answered(now - 1)  # it was in flight when the server stopped to take requests
    assert not failures.own(7, error) and list(failures.aside) == [7]
    assert failures.answered(now - 0.5) == [] and failures.answered(time.monotonic()) == [7]
    assert failures.own(7, error), "asked again while others were answered"
    assert failures.own(8, error), "others were sent and answered meanwhile"


def test_a_later_round_asks_for_other_tasks() -> None:
    config = GenerateConfig(TeacherConfig("local", "m"), SourceConfig("corpus", "x"))
    requests = Requests(config, [], [Passage("a.txt", 0, 9, "A passage")])
    first, second, third = (requests.make(number, []).prompts[0] for number in range(3))
    assert second.startswith(first) and "written once before" in second and "written 2 times before" in third
