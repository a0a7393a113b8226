"""What request number i asks: a pure function of the config, the number and (for mixed examples) the rows kept before.

Knows no network and no journal.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpaca import records
from alpaca.console import warn
from alpaca.errors import UserError
from alpaca.generation import languages
from alpaca.generation.config import GenerateConfig
from alpaca.generation.corpus import Passage
from alpaca.generation.items import Item, as_text
from alpaca.generation.order import Order
from alpaca.generation.tokens import base

_PROMPTS = Path(__file__).parent / "prompts"
_FORMAT = {
    ("en", "alpaca"): "Separate the tasks by a line ###. Number each part, exactly so:\n1. Instruction: …\n1. Input:\n…\n1. Output:\n…\n###",
    ("zh", "alpaca"): "任务之间用单独一行 ### 分隔，各部分编号，标签保持英文，格式严格如下：\n1. Instruction: …\n1. Input:\n…\n1. Output:\n…\n###",
    ("en", "json"): 'Answer with JSON alone: {"items": [{"instruction": "…", "input": "…", "output": "…"}, …]}; input is "" where there is none.',
    ("zh", "json"): '只用 JSON 回答：{"items": [{"instruction": "…", "input": "…", "output": "…"}, …]}；没有输入时 input 为 ""。',
}  # fmt: skip
_TOPIC = {"en": "9. Every task belongs to this subject: {topic}.", "zh": "9. 所有任务都属于这一主题：{topic}。"}
_AGAIN = {
    "en": "Tasks from this passage were written {times} before: choose other facts of it, and other kinds of task, than the most obvious.",
    "zh": "这段文字此前已出过{times}题：请选用其中别的内容和别的任务类型，不要再写最容易想到的题目。",
}
_EXAMPLES = {"en": "Examples of the form:", "zh": "形式示例："}


@dataclass(frozen=True)
class Request:
    """`prompts`: the request, then shorter ones for when it is too long. `about`: its passage, if any."""

    prompts: list[str]
    about: dict[str, Any] = field(default_factory=dict)


class Requests:
    """The requests of a run, by number."""

    def __init__(self, config: GenerateConfig, seeds: list[Item], passages: list[Passage]) -> None:
        self.config, self.seeds, self.passages = config, seeds, passages
        self._words = "zh" if base(config.language) == "zh" else "en"
        self._text = self._template()
        if not languages.known(config.language):
            warn(
                f"language={config.language} has no name here: the teacher is asked to write in {config.language!r}; prompt_file=FILE can say it in words"
            )
        self.order = Order(passages, config.source.rounds, config.seed) if config.source.name == "corpus" else None

    @property
    def last(self) -> int | None:
        """How many requests there can be: a corpus is asked about `rounds` times."""
        return self.order.last if self.order else None

    def passage(self, number: int) -> Passage | None:
        """Which passage request `number` is about; None also when that is gone."""
        item = self.order.item(number) if self.order else None
        return self.passages[item[0]] if item else None

    def about(self, number: int) -> dict[str, Any]:
        """What the journal says of its passage: the key, and how often it was asked about before."""
        item = self.order.item(number) if self.order else None
        return {"passage": self.passages[item[0]].key, "round": item[1]} if item else {}

    @property
    def gone(self) -> set[int]:
        """Requests that are not asked any more: their passages were taken away."""
        return self.order.gone if self.order else set()

    def make(self, number: int, kept: Sequence[Item]) -> Request:
        """Request `number`, given the rows kept when it was decided on."""
        if self.order is not None:
            item = self.order.item(number)
            assert item is not None, "a passage that is gone is not asked about"
            passage = self.passages[item[0]].text
            return Request([self._fill(self._text, passage=passage, again=self._again(item[1]))], self.about(number))
        shown = self._draw(number, kept)
        fewer = [shown[: len(shown) - i] for i in range(max(len(shown), 1))]
        return Request([self._fill(self._text, examples=self._render(part)) for part in fewer])

    def _again(self, times: int) -> str:
        """What a later round over the corpus adds, so that it does not ask the same once more."""
        if not times:
            return ""
        counted = f"{times}次" if self._words == "zh" else "once" if times == 1 else f"{times} times"
        return "\n\n" + _AGAIN[self._words].replace("{times}", counted)

    @property
    def opening(self) -> str:
        """What a plain completion continues."""
        plain = self.config.teacher.api == "completions" and self.config.teacher.reply_format == "alpaca"
        return "1. Instruction:" if plain else ""

    def _draw(self, number: int, kept: Sequence[Item]) -> list[Item]:
        source, rng = self.config.source, random.Random(f"request {self.config.seed} {number}")
        from_pool = min(round(source.examples * source.pool_fraction), len(kept))
        shown = rng.sample(self.seeds, min(source.examples - from_pool, len(self.seeds)))
        shown += [kept[i] for i in rng.sample(range(len(kept)), from_pool)]
        rng.shuffle(shown)
        return shown

    def _render(self, items: list[Item]) -> str:
        if not items:
            return ""
        if self.config.teacher.reply_format == "json":
            rows = [{"instruction": i.instruction, "input": i.input, "output": i.output} for i in items]
            return _EXAMPLES[self._words] + "\n" + json.dumps({"items": rows}, ensure_ascii=False)
        parts = [
            f"{n}. Instruction: {' '.join(i.instruction.split()).rstrip(':')}\n{n}. Input:\n{i.input or '<noinput>'}\n{n}. Output:\n{i.output}\n###"
            for n, i in enumerate(items, 1)
        ]
        return _EXAMPLES[self._words] + "\n###\n" + "\n".join(parts)

    def _fill(self, text: str, examples: str = "", passage: str = "", again: str = "") -> str:
        config, words = self.config, self._words
        values = {
            "{n}": str(config.source.items),
            "{language}": languages.name(config.language, words),
            "{format}": _FORMAT[words, config.teacher.reply_format],
            "{topic}": _TOPIC[words].replace("{topic}", config.topic) if config.topic else "",
            "{examples}": examples,
            "{passage}": passage,
        }
        for name, value in values.items():  # texts of others come last
            text = text.replace(name, value)
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
        return text.strip() + again + ("\n\n" + self.opening if self.opening else "")

    def _template(self) -> str:
        own = self.config.prompt_file
        path = Path(own) if own else _PROMPTS / f"{self.config.source.name}_{self._words}.txt"
        text = path.read_text(encoding="utf-8")
        corpus = self.config.source.name == "corpus"
        wanted = {"{passage}": corpus, "{n}": not corpus, "{topic}": self.config.topic is not None}
        if lacking := [w for w, needed in wanted.items() if needed and w not in text]:
            raise UserError(f"prompt_file={path} lacks {' and '.join(lacking)}: the text must say where it goes")
        for name in ["{format}"] + ["{examples}"] * (not corpus and self.config.source.examples > 0):
            if name not in text:
                warn(f"prompt_file={path} has no {name}: the teacher is shown none")
        return text


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON list, a JSONL, CSV or Parquet file. Raises UserError that names the line."""
    if path.suffix.lower() in records.TABLES:
        return [row for _, row in records.table(path)]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give another file, or change its permissions"
        ) from None
    except UnicodeDecodeError as error:
        at = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {at} is not UTF-8: it takes JSON list, JSONL or CSV in UTF-8, or Parquet"
        ) from None
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is no JSON list: {error}") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                raise UserError(f"{path}, line {number} is not JSON: it takes one object a line, or one list") from None
    return rows


def read_items(path: Path) -> list[Item]:
    """Items from rows with Alpaca's keys, or Self-Instruct's `instances`. Raises UserError."""
    return [as_item(row, f"{path}, row {number}") for number, row in enumerate(read_rows(path), 1)]


def as_item(row: Any, place: str) -> Item:
    """A row as an item: what is no text as JSON writes it, null as nothing. Raises UserError that names the place."""
    if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
        raise UserError(f"{place} has no `instruction`: rows take instruction, input and output")
    given = [row.get(k, first_instance(row).get(k)) for k in ("input", "output")]
    return Item(row["instruction"], *("" if v is None else as_text(v) for v in given))


def first_instance(row: dict[str, Any]) -> dict[str, Any]:
    """The first of Self-Instruct's `instances`, or nothing."""
    found = row.get("instances")
    return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}
