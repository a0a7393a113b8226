import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpaca.generation.filters import Filter, FilterConfig
from alpaca.generation.items import Dropped, Item, clear_input
from alpaca.generation.parse import parse
from alpaca.generation.rows import ended_for_length
from tests.generation.conftest import shared_rows

REPLIES = Path(__file__).with_name("replies.yaml")


def kinds(results: list[Item | Dropped]) -> list[str]:
    return [r.reason if isinstance(r, Dropped) else r.instruction for r in results]


def test_the_originals_format() -> None:
    reply = "1. Instruction: Add two numbers.\n1. Input:\n2 and 3\n1. Output:\n5\n###\n2. Instruction: Say hi.\n2. Input:\n<noinput>\n2. Output:\nHi\n# there\n###\n"
    assert parse(reply) == [Item("Add two numbers.", "2 and 3", "5"), Item("Say hi.", "", "Hi\n# there")]


@pytest.mark.parametrize("case", yaml.safe_load(REPLIES.read_text(encoding="utf-8")), ids=lambda case: case["name"])
def test_what_models_make_of_it(case: dict[str, Any]) -> None:
    found = parse(case["reply"], case.get("format", "alpaca"), case.get("cut", False), case.get("opening", ""))
    assert [r.reason if isinstance(r, Dropped) else [r.instruction, r.input, r.output] for r in found] == case["found"]


def test_ways_to_say_that_there_is_no_input() -> None:
    ways = [
        "<noinput>",
        "No input",
        "None",
        "N/A.",
        "-",
        "(none)",
        "Not applicable",
        "No input is required.",
        "`<noinput>`",
    ]
    ways += [
        "<noinput/>",
        "&lt;noinput&gt;",
        "\\<noinput\\>",
        "(No input provided)",
        "无",
        "（无）",
        "无需额外输入",
        '""',
        "없음",
    ]
    assert {clear_input(way) for way in ways} == {""}
    assert [clear_input(way) for way in ("None of them came", "N", " 0 ")] == ["None of them came", "N", "0"]


def styles(rows: list[dict[str, str]]) -> dict[str, str]:
    """A reply with these rows in each of several ways."""
    numbered = list(enumerate(rows, 1))
    ways = {
        "original": "{n}. Instruction: {instruction}\n{n}. Input:\n{input}\n{n}. Output:\n{output}\n###\n",
        "bold": "**{n}. Instruction:** {instruction}\n**Input:** {input}\n**Output:** {output}\n\n",
        "headings": "### Task {n}\n**Instruction:** {instruction}\n**Input:** {input}\n**Output:**\n{output}\n\n",
        "bare": "Instruction: {instruction}\nInput: {input}\nOutput: {output}\n\n",
    }
    none = {"input": "<noinput>"}
    texts = {
        name: "".join(way.format(n=n, **(row if row["input"] else row | none)) for n, row in numbered)
        for name, way in ways.items()
    }
    return texts | {"json": f"Here:\n```json\n{json.dumps(rows, indent=1)}\n```"}


def test_real_rows_come_back_as_they_were() -> None:
    rows, lost = shared_rows("alpaca_data.json")[::20], Counter[str]()

    def plain(text: str) -> str:
        return text.strip()

    for start in range(0, len(rows), 20):
        some = rows[start : start + 20]
        want = {(plain(r["instruction"]), plain(clear_input(r["input"])), plain(r["output"])) for r in some}
        for name, reply in styles(some).items():
            items = [r for r in parse(reply, "json" if name == "json" else "alpaca") if isinstance(r, Item)]
            lost[name] += len(want - {(plain(i.instruction), plain(i.input), plain(i.output)) for i in items})
    # what is left are rows of the original that hold further items, which its own parser left in an output
    assert lost["json"] == 0 and max(lost[n] for n in ("original", "bold", "headings")) <= 15 and lost["bare"] <= 35, (
        lost
    )


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    ["*" * 20_000, "[" * 200_000, "{'instruction': " * 3000, "1. " * 7000, "1. Instruction: a\n" * 2000]
    + ["{" * 100_000, "['" * 100_000]
    + ["<output>" + " " * 3000 + "</", "</task><output>\n" * 30_000, "/* " * 200_000, '"\\' * 200_000],
)
def test_no_text_takes_long_or_raises(text: str) -> None:
    assert not any(isinstance(r, Item) for form in ("alpaca", "json") for r in parse(text, form))  # type: ignore[arg-type]


def test_dropped_with_the_reason() -> None:
    reply = "1. Instruction: A\n1. Output: x\n###\n2. Instruction: B\n2. Input: y\n###\n3. Instruction: C\n3. Input: 1\n3. Input: 2\n3. Output: z\n###\n4. Instruction:\n4. Input: q\n4. Output: r\n###\n5. Instruction: D\n5. Input: -\n5. Output: whole"
    assert kinds(parse(reply)) == ["A", "no output", "repeated field", "empty instruction", "D"]
    assert kinds(parse(reply, cut=True))[-1] == "cut by length"
    assert kinds(parse("rubbish")) == kinds(parse("")) == ["nothing readable"]
    assert kinds(parse("Sample Input: x")) == ["no instruction"]


def test_headings_and_labels_inside_an_output_stay() -> None:
    output = "# Title\n### Part\ntext\nInput: an example\nOutput: its answer\n#### 3"
    assert parse(f"1. Instruction: Give\n1. Input: <noinput>\n1. Output:\n{output}\n###") == [Item("Give", "", output)]


def test_a_completion_goes_on_after_the_prompts_last_words() -> None:
    reply = " Name a fruit\n1. Input:\n<noinput>\n1. Output:\nplum"
    assert parse(reply, opening="1. Instruction:") == [Item("Name a fruit", "", "plum")]
    assert parse("1. Instruction:" + reply, opening="1. Instruction:") == [Item("Name a fruit", "", "plum")]


def test_json_in_every_wrapping() -> None:
    rows = [{"instruction": "A", "input": None, "output": 5}, {"instruction": "B", "input": "i", "output": "o"}]
    text = json.dumps(rows)
    want = [Item("A", "", "5"), Item("B", "i", "o")]
    lines = "\n".join(map(json.dumps, rows))
    for reply in (
        text,
        f"```json\n{text}\n```\nDone [really].",
        f'{{"items": {text}}} bye',
        f"Here {{it}} is: {lines}",
    ):
        assert parse(reply, "json") == want, reply
    spoilt = '{"instruction": "A /* b, }", // one\n "output": "c */ d" /* and\n another */, }'
    assert parse(spoilt, "json") == [Item("A /* b, }", "", "c */ d")]
    broken = '{"items": ' + text[:-20]
    assert kinds(parse(broken, "json", cut=True)) == ["A", "cut by length"]
    assert kinds(parse(broken, "json")) == ["A", "broken JSON"]
    mixed = json.dumps([{"instruction": "A"}, 3, {"instruction": ["x"], "output": "y"}, {"output": "z"}, rows[1]])
    assert kinds(parse(mixed, "json")) == ["no output", "not an object", "a field is no text", "no instruction", "B"]
    assert kinds(parse('{"instruction": "\\u0000", "output": "x"}', "json")) == ["empty instruction"]
    assert kinds(parse("no JSON", "json")) == ["nothing readable"]
    parse("[" * 100_000, "json")


_TWO = [{"instruction": f"Say {i}", "input": "", "output": f"out {i}"} for i in range(2)]


@pytest.mark.parametrize("name", ["response", "output", "answer", "task", "tasks", "prompt", "context", "instructions"])
def test_a_wrapper_that_is_called_as_a_part(name: str) -> None:
    texts = [
        json.dumps({name: _TWO}),
        json.dumps({name: {"items": _TWO}}),
        json.dumps({name: "Here: " + json.dumps(_TWO)}),
    ]
    for text in texts:
        assert kinds(parse(text, "json")) == ["Say 0", "Say 1"], text
    assert kinds(parse(texts[0][:-8], "json", cut=True)) == ["Say 0", "cut by length"]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"prompt": "Write two tasks", "response": _TWO}),
        json.dumps({"task": "writing", "items": _TWO}),
        json.dumps(json.dumps(_TWO)),
        json.dumps(json.dumps(_TWO))[1:-1],
        "\n".join(map(repr, _TWO)),
        json.dumps({key: [row[key] for row in _TWO] for key in _TWO[0]}),
        json.dumps({f"{key}_{i}": value for i, row in enumerate(_TWO) for key, value in row.items()}),
        json.dumps([{f"{i}. {key.title()}:": v for key, v in row.items()} for i, row in enumerate(_TWO, 1)]),
        json.dumps([{"instruction": f"Say {i}", "instances": [{"input": "", "output": f"out {i}"}]} for i in range(2)]),
    ],
)  # fmt: skip
def test_json_in_other_shapes(text: str) -> None:
    found = parse(text, "json")
    assert [(i.instruction, i.output) for i in found if isinstance(i, Item)] == [("Say 0", "out 0"), ("Say 1", "out 1")]


def test_an_output_that_is_an_object_stays_one() -> None:
    text = json.dumps({"instruction": "Write a task", "output": {"instruction": "Say 1", "output": "1"}})
    assert kinds(parse(text, "json")) == ["Write a task"]
    for cards in ([{"prompt": "a?", "answer": "b"}] * 2, _TWO):
        text = json.dumps({"instruction": "Write two cards", "output": cards})
        assert parse(text, "json") == [Item("Write two cards", "", json.dumps(cards))]


def test_several_numbered_values_of_one_part_hide_none() -> None:
    assert kinds(parse('{"instruction": "Give two", "output_1": "x", "output_2": "y"}', "json")) == ["repeated field"]


def test_every_item_of_a_long_reply_is_read_or_recorded() -> None:
    lines = [json.dumps({"instruction": f"Say {i}", "output": "x"}) for i in range(2600)]
    assert len(parse("\n".join(lines), "json")) == 2600
    assert [r.reason for r in parse("\n".join(lines)[:-3], "json", cut=True) if isinstance(r, Dropped)] == ["cut by length"]  # fmt: skip
    broken = parse("\n".join(line[:-1] + ', "x' for line in lines), "json")
    assert Counter(kinds(broken)) == {"broken JSON": 2600}
    deep = "[" * 5000 + "\n" + lines[0]
    assert broken and parse(deep, "json") == [Dropped("too broken to read on", lines[0])]


def test_the_originals_filters() -> None:
    check = Filter(FilterConfig(), "en").reason
    good = "Name four kinds of fruit"
    assert check(Item(good, "", "plum")) is None
    cases = {
        "Name some fruit": "instruction too short",
        "w " * 151: "instruction too long",
        "Describe the Image you see": "instruction needs more than text",
        "Please go to the shop": "instruction needs more than text",
        "Write a program that sorts numbers": "instruction asks for a program",
        "'Tis the season to be": "instruction starts with punctuation",
        "Ündo the following four words": "instruction does not start in ASCII",
    }
    assert {k: check(Item(k, "", "x y")) for k in cases} == cases
    assert check(Item("Describe the imagery you see", "", "x")) is None
    assert check(Item("w " * 150, "", "x")) is None
    outputs = {
        "": "output empty",
        "the  text\n": "output copies the input",
        good: "output copies the instruction",
        "I'm sorry, but I cannot do it": "output refuses",
        "As an AI language model, I have no taste": "output refuses",
        "I'm unable to help with that.": "output refuses",
        "I apologize, but I cannot assist with this request.": "output refuses",
        "Unfortunately, I can't access files.": "output refuses",
        "I'm sorry, but as a language model I can't": "output refuses",
        "I do not have opinions as an AI.": "output refuses",
        "As an artificial sweetener, aspartame is sweet.": None,
        "As an AI engineer you build models.": None,
        "Sorry, I can't come tonight.": None,
        "I'm sorry I missed your birthday.": None,
        "I cannot swim.": None,
        "I am not able to do it.": None,  # a sentence that was asked for
        "<output>": "output is a placeholder",
        "[Insert Bar Chart]": "output is a placeholder",
        "Here is the logo: <insert logo here>": "output is a placeholder",
        "[Your answer]": "output is a placeholder",
        "<p>Lorem ipsum dolor sit amet</p>": "output is a placeholder",
        "...": "output is a placeholder",
        "Dear [Name],\n[Insert paragraph here]\n[Your Name]": "output is a placeholder",
        "Dear [Name],\nI am ill today and cannot come.\nBest regards,\n[Your Name]": None,
        "I write to you about [insert issue], which worries all of us.": None,
        "Best regards,\n[Your Name]": None,
        "<add name='x'/>": None,
        "Sum: {your_total}": None,
        "Use arr[insert] to add": None,
        "Sorry is the hardest word": None,
        "The text.": None,  # capitals and signs may be what was asked for
    }
    assert {k: check(Item(good, "the text", k)) for k in outputs} == outputs


def test_letters_with_slots_of_the_original_are_kept() -> None:
    check = Filter(FilterConfig(), "en").reason
    items = [Item(r["instruction"], r["input"], r["output"]) for r in shared_rows("alpaca_data.json")]
    found = [item.output for item in items if check(item) == "output is a placeholder"]
    assert len(found) == 8 and all(len(output) < 40 and output[0] in "<[" for output in found)
    assert check(Item("Set it in HTML for me.", "Lorem ipsum", "<p>Lorem ipsum</p>")) is None


def test_chinese_is_measured_in_characters_and_not_in_ascii() -> None:
    check = Filter(FilterConfig(), "zh-CN").reason
    assert check(Item("列出三种水果", "", "苹果、梨、桃")) is None
    assert check(Item("水果", "", "苹果")) == "instruction too short"
    assert check(Item("请描述这张图片的内容", "", "一只猫")) == "instruction needs more than text"
    for refusal in (
        "作为一个人工智能，我不能",
        "我无法回答这个问题。",
        "很抱歉，我不能提供帮助",
        "抱歉，作为AI语言模型",
    ):
        assert check(Item("列出三种水果", "", refusal)) == "output refuses"
    assert check(Item("列出三种水果", "", "[此处插入图片]")) == "output is a placeholder"
    for answer in (
        "尊敬的[客户姓名]，感谢您的来信，我们会尽快回复。[此处填写签名]",
        "作为人工智能的重要分支，机器学习很有用",
        "抱歉，我昨天没能参加你的生日会。",
        "我不能吃辣",
    ):
        assert check(Item("列出三种水果", "", answer)) is None
    assert Filter(FilterConfig(), "en").reason(Item("列出三种水果", "", "苹果")) is not None


def test_every_setting_of_a_filter_counts() -> None:
    item = Item("'Draw a map", "", "")
    off = FilterConfig(min_length=0, words=[], punctuation=False, outputs=False, ascii=False)
    assert Filter(off, "en").reason(item) is None
    assert (
        Filter(FilterConfig(min_length=3, words=["fruit"]), "en").reason(Item("Name some fruit", "", "x")) is not None
    )
    assert (
        Filter(FilterConfig(starts=["Name"]), "en").reason(Item("Name four more fruits", "", "x")) == "unwanted start"
    )


@pytest.mark.parametrize("number", ["a) ", "II. ", "③ ", "1.2 ", "xml", "**Task 3:**"])
def test_other_numbering(number: str) -> None:
    rows = [("Name a fruit", "red", "plum"), ("Name a tree", "tall", "1. elm\n2. oak"), ("Name a bird", "", "rook")]
    if number == "xml":
        parts = [
            f"<task>\n<instruction>{i}</instruction>\n<input>{n}</input>\n<output>\n{o}\n</output>\n</task>"
            for i, n, o in rows
        ]
    elif number[0] == "*":
        parts = [f"{number}\n\n**Instruction:** {i}\n\n**Input:** {n}\n\n**Output:**\n{o}\n\n---\n" for i, n, o in rows]
    else:
        parts = [f"{number}Instruction: {i}\n{number}Input: {n}\n{number}Output: {o}\n" for i, n, o in rows]
    assert parse("\n".join(parts)) == [Item(*row) for row in rows]


def test_a_row_holds_only_what_a_tokenizer_takes() -> None:
    assert parse('[{"instruction": "A\\ud83d", "output": "x\\u0000y"}]', "json") == [Item("A?", "", "xy")]


@pytest.mark.parametrize(
    ("reason", "tokens", "cut"), [("max_tokens", 9, True), ("", 64, True), ("", 63, False), ("stop", 64, False)]
)
def test_a_cut_reply_is_known_whatever_the_server_calls_it(reason: str, tokens: int, cut: bool) -> None:
    reply = {"finish_reason": reason, "usage": [1, tokens], "max_tokens": 64, "estimated": False}
    assert ended_for_length(reply) == cut and not ended_for_length({**reply, "finish_reason": "", "estimated": True})
