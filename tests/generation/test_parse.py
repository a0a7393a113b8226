import json

import pytest

from alpaca.generation.filters import Filter, FilterConfig
from alpaca.generation.parse import Dropped, Item, parse


def kinds(results: list[Item | Dropped]) -> list[str]:
    return [r.reason if isinstance(r, Dropped) else r.instruction for r in results]


def test_the_originals_format() -> None:
    reply = "1. Instruction: Add two numbers.\n1. Input:\n2 and 3\n1. Output:\n5\n###\n2. Instruction: Say hi.\n2. Input:\n<noinput>\n2. Output:\nHi\n# there\n###\n"
    assert parse(reply) == [Item("Add two numbers.", "2 and 3", "5"), Item("Say hi.", "", "Hi\n# there")]


@pytest.mark.parametrize(
    "reply",
    [
        "Sure! Here you go:\n\n**7. Instruction:** A b c\n**Input:** None\n**Output:** x\n\n---\n\n**2) Instruction**: D e\n**Input**: y\n**Output**: z",
        "### 1. Instruction：A b c\n### 1. Input：<no input>\n### 1. Output：x\n###\n1. Instruction：D e\n1. Input：y\n1. Output：z\n###\nI hope these help!",
        "Instruction: A b c\r\nInput: N/A\r\nOutput: x\r\n\r\nInstruction: D e\r\nInput: y\r\nOutput: z\r\n###",
        "1、指令：A b c\n1、输入：无\n1、输出：x\n###\n9、指令：D e\n9、输入：y\n9、输出：z",
    ],
)
def test_what_models_make_of_it(reply: str) -> None:
    assert parse(reply) == [Item("A b c", "", "x"), Item("D e", "y", "z")]


def test_dropped_with_the_reason() -> None:
    reply = "1. Instruction: A\n1. Output: x\n###\n2. Instruction: B\n2. Input: y\n###\n3. Instruction: C\n3. Input: 1\n3. Input: 2\n3. Output: z\n###\n4. Instruction:\n4. Input: q\n4. Output: r\n###\n5. Instruction: D\n5. Input: -\n5. Output: whole"
    assert kinds(parse(reply)) == ["no input", "no output", "repeated field", "empty instruction", "D"]
    assert kinds(parse(reply, cut=True))[-1] == "cut by length"
    assert kinds(parse("rubbish")) == kinds(parse("")) == ["nothing readable"]


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
    broken = '{"items": ' + text[:-20]
    assert kinds(parse(broken, "json", cut=True)) == ["A", "cut by length"]
    assert kinds(parse(broken, "json")) == ["A", "broken JSON"]
    mixed = json.dumps([{"instruction": "A"}, 3, {"instruction": ["x"], "output": "y"}, {"output": "z"}, rows[1]])
    assert kinds(parse(mixed, "json")) == ["no output", "not an object", "a field is no text", "no instruction", "B"]
    assert kinds(parse("no JSON", "json")) == ["nothing readable"]
    parse("[" * 100_000, "json")


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
        "The text.": "output copies the input",
        good + ".": "output copies the instruction",
        "I'm sorry, but I cannot do it": "output refuses",
        "As an AI language model, I have no taste": "output refuses",
        "<output>": "output is a placeholder",
        "Dear [Insert name], hello": "output is a placeholder",
        "Sorry is the hardest word": None,
    }
    assert {k: check(Item(good, "the text", k)) for k in outputs} == outputs


def test_chinese_is_measured_in_characters_and_not_in_ascii() -> None:
    check = Filter(FilterConfig(), "zh-CN").reason
    assert check(Item("列出三种水果", "", "苹果、梨、桃")) is None
    assert check(Item("水果", "", "苹果")) == "instruction too short"
    assert check(Item("请描述这张图片的内容", "", "一只猫")) == "instruction needs more than text"
    assert check(Item("列出三种水果", "", "作为一个人工智能，我不能")) == "output refuses"
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
