import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from alpaca.generation.figures import lengths, nearest_scores, verb_object, verbs
from tests.generation.conftest import Teacher, made_rows, rows_of


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("Write a short story about a dog.", ("write", "story")),
        ("Please list five green fruits", ("list", "fruits")),
        ("Explain why the sky is blue", None),
        ("The sky is blue", None),
        ("Classify the following: dog, plum", ("classify", "dog")),
    ],
)
def test_verb_and_object(text: str, pair: tuple[str, str] | None) -> None:
    assert verb_object(text) == pair


def test_figures_of_rows() -> None:
    rows = [
        {"instruction": "Name a fruit", "input": "", "output": "a plum"},
        {"instruction": "Name the fruit", "input": "x y z", "output": ""},
    ]
    assert lengths(rows, "en") == {"instruction": [3, 3], "input": [3], "output": [2, 0]}
    assert verbs(rows, "en")[0] == {("name", "fruit"): 2}
    assert nearest_scores(["a b", "a c", "a b"], "en", ["a d"]) == ([0.5, 0.5, 0.5], [1.0, 0.5, 1.0])
    assert verbs([{"instruction": "列出三种水果"}], "zh")[0].most_common(1)[0][0][0] == "列出"


def test_report_and_card_lie_beside_the_rows(teacher: Callable[..., Teacher], tmp_path: Path) -> None:
    rows = made_rows(400)
    rows[3]["instruction"] = "Name <script>alert(1)</script> four things"
    server = teacher(rows)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "other.jsonl.journal").touch()
    done = server.run(tmp_path / "set" / "rows.jsonl", "num_instructions=300", "budget.max_usd=1")
    assert done.returncode == 0, done.stderr
    assert "also holds other.jsonl: its report.html and README.md are now those of rows.jsonl" in done.stderr
    page = (tmp_path / "set" / "report.html").read_text()
    assert all(v.startswith("data:image/png") for v in re.findall(r"(?:src|href)=\"([^\"]*)", page))
    assert "<script" not in page and "<link" not in page
    assert {p.stem for p in (tmp_path / "set").glob("*.png")} >= {"funnel", "requests", "lengths", "nearest"}
    assert page.count("data:image/png;base64,") >= 4
    card = (tmp_path / "set" / "README.md").read_text()
    front = card.split("---\n")[1]
    import yaml

    meta = yaml.safe_load(front)
    assert meta["language"] == ["en"] and meta["configs"][0]["data_files"] == "rows.jsonl"
    figures = json.loads(done.stdout.splitlines()[-1])
    for reason, number in figures["dropped"].items():
        assert f"| {reason} | {number:,} |" in card
    from datasets import load_dataset

    loaded = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == len(rows_of(tmp_path / "set" / "rows.jsonl")) == figures["rows"]


def test_pictures_hold_what_they_are_given() -> None:
    import io
    import warnings
    from collections import Counter

    from alpaca.generation import pictures

    history = [
        {"kept": 3, "dropped": {"cut": i % 3}, "parsed": 4, "time": 5.0 + i if i % 2 else None} for i in range(120)
    ]
    over = pictures.over_requests(history)
    heights = sum(p.get_height() * p.get_width() for p in over.axes[0].patches)
    assert heights == pytest.approx(sum(h["kept"] + h["dropped"]["cut"] for h in history))  # type: ignore[attr-defined]
    assert over.axes[1].lines[0].get_ydata()[-1] == 3 * 60
    lengths_ = pictures.histograms({"a": [1, 2, 2, 90], "none": []}, "words")
    assert [a.get_title() for a in lengths_.axes] == ["a (4)"] and sum(
        p.get_height() for p in lengths_.axes[0].patches
    ) == 4
    many = Counter({(f"verb{i}", f"noun{j}"): 30 - i for i in range(25) for j in range(6)})
    wedges = pictures.sunburst(many).axes[0].patches
    assert len(wedges) == 20 + 20 * 4
    if not pictures.cjk_fonts():
        pytest.skip("no font with Chinese characters is installed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that is missing
        pictures.sunburst(Counter({("列出", "水果"): 3, ("write", "poem"): 2})).savefig(io.BytesIO(), format="png")
