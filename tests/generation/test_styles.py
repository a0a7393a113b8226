"""Styles of replies that models fall into: the same rows come back from each, and what is like them in an output stays."""

import json

import pytest

from alpaca.generation.items import Dropped, Item
from alpaca.generation.parse import parse

ROWS = [
    Item("Name three primary colours.", "", "Red, blue and yellow."),
    Item("Translate the sentence into French.", "I am hungry.", "J'ai faim."),
    Item("List two fruits.", "", "- apple\n- pear"),
]
_NONE = {"zh": "无", "hant": "無", "ja": "なし", "ko": "없음"}
_COUNT = "一二三四"


def written(template: str, none: str = "<noinput>", between: str = "\n\n", rows: list[Item] = ROWS) -> str:
    """A reply with a template filled in for each row: {n}, {c} (Chinese number), {i}, {x} (input), {o}; {qi}, {qx}, {qo}
    as JSON; {li}, {lo} indented by four; {bo} without line breaks."""
    return between.join(
        template.format(
            n=n,
            c=_COUNT[n - 1],
            i=r.instruction,
            x=r.input or none,
            o=r.output,
            qi=json.dumps(r.instruction),
            qx=json.dumps(r.input),
            qo=json.dumps(r.output),
            lo=r.output.replace("\n", "\n    "),
            bo=r.output.replace("\n", "<br>"),
        )  # fmt: skip
        for n, r in enumerate(rows, 1)
    )


_OWN = written("{n}. Instruction: {i}\n{n}. Input:\n{x}\n{n}. Output:\n{o}\n###", between="\n")
_DRAFT = "1. Instruction: draft one here\n1. Input: x\n1. Output: y"
STYLES = {
    "tags": written("<task>\n<instruction>{i}</instruction><input>{x}</input>\n<output>{o}</output></task>"),
    "an empty tag": written("<item><instruction>{i}</instruction><input>{x}</input><output>{o}</output></item>", "").replace("<input></input>", "<input/>"),
    "tags of XML": written("<instruction n='{n}'><![CDATA[{i}]]></instruction>\n<input><![CDATA[{x}]]></input>\n<output><![CDATA[{o}]]></output>"),
    "numbered tags": written("<instruction_{n}>{i}</instruction_{n}>\n<input_{n}>{x}</input_{n}>\n<output_{n}>{o}</output_{n}>"),
    "tags by other names": written("<question>{i}</question>\n<context>{x}</context>\n<answer>{o}</answer>"),
    "Chinese tags": written("<指令>{i}</指令>\n<输入>{x}</输入>\n<输出>{o}</输出>", "无"),
    "square tags": written("[INSTRUCTION]{i}[/INSTRUCTION]\n[INPUT]{x}[/INPUT]\n[OUTPUT]{o}[/OUTPUT]"),
    "square labels": written("[Instruction]\n{i}\n[Input]: {x}\n[Output]\n{o}"),
    "YAML": written("- instruction: {qi}\n  input: {qx}\n  output: {qo}", between="\n"),
    "YAML in a fence": "```yaml\nitems:\n" + written("  - instruction: {i}\n    input: {qx}\n    output: |-\n      {lo}", between="\n").replace("\n    -", "\n      -") + "\n```\nEnjoy!",
    "YAML with a farewell": written("- instruction: '{i}'\n  input: {qx}\n  output: |-\n    {lo}", between="\n") + "\n\nLet me know!",
    "YAML documents": written("instruction: |-\n    {i}\ninput: {qx}\noutput: |-\n    {lo}", between="\n---\n"),
    "table": "| 序号 | 指令 | 输入 | 输出 |\n|:-:|-|-|-|\n" + written("| {n} | {i} | {x} | {bo} |", "无", "\n"),
    "JSON lines, numbered": written('{n}. {{"instruction": {qi}, "input": {qx}, "output": {qo}}}', between="\n"),
    "a fence of JSON each": written('### Task {n}\n```json\n{{"instruction": {qi},\n "input": {qx}, "output": {qo}}}\n```'),
    "a fence each": written("**Task {n}**\n```\nInstruction: {i}\nInput: {x}\nOutput: {o}\n```"),
    "a fence for each part": written("**Instruction:**\n```\n{i}\n```\n**Input:**\n```\n{x}\n```\n**Output:**\n```\n{o}\n```"),
    "quotation marks": written('Instruction: "{i}"\nInput: "{x}"\nOutput: "{o}"', rows=ROWS[:2]),
    "a title for an instruction": written("**{n}. {i}**\n\n*Input:* {x}\n*Output:* {o}"),
    "a, b, c": written("{n}. a) Instruction: {i}\n   b) Input: {x}\n   c) Output: {o}", rows=ROWS[:2]),
    "arrows": written("Instruction => {i}\nInput → {x}\nOutput = {o}", rows=ROWS[:2]),
    "pictures": written("📝 **Instruction:** {i}\n📥 **Input:** {x}\n➡️ **Output:** {o}"),
    "Task 1 - Instruction": written("Task {n} - Instruction: {i}\nTask {n} - Input: {x}\nTask {n} - Output: {o}"),
    "Expected Output": written("Instruction {n}: {i}\nSample Input {n}: {x}\nExpected Output {n}: {o}"),
    "a category each": written("{n}. Instruction: {i}\nInput: {x}\nOutput: {o}\n\nDifficulty: easy"),
    "an explanation each": written("{n}. Instruction: {i}\n{n}. Input: {x}\n{n}. Output: {o}\n{n}. Explanation: because it is.\n###", between="\n"),
    "the prompt's words above each": written("Below is an instruction that describes a task, the {n}. of all.\n\n### Instruction:\n{i}\n\n### Input:\n{x}\n\n### Response:\n{o}"),
    "line breaks written out": _OWN.replace("\n", "\\n"),
    "plurals": written("{n}. Instructions: {i}\n{n}. Inputs: {x}\n{n}. Outputs: {o}\n###", between="\n"),
    "one plural": written("{n}. Instruction: {i}\n{n}. Inputs: {x}\n{n}. Output: {o}\n###", between="\n"),
    "number in Chinese": written("指令{c}：{i}\n输入{c}：{x}\n输出{c}：{o}", "无"),
    "指令内容": written("指令内容：{i}\n输入内容：{x}\n输出内容：{o}", "无"),
    "one line each": written("（{n}）指令：{i} 输入：{x} 输出：{o}", "无"),
    "traditional": written("### 任務 {n}\n指示：{i}\n輸入：{x}\n輸出：{o}", "無輸入"),
    "traditional JSON": written('{{"指令": {qi}, "輸入": {qx}, "輸出": {qo}}}', between=",\n"),
    "Japanese": written("**指示{n}：** {i}\n**入力{n}：** {x}\n**出力{n}：** {o}", "（なし）"),
    "Japanese headings": written("### タスク{n}\n命令：{i}\n入力：{x}\n出力：{o}", "入力なし"),
    "Korean": written("{n}. 지시사항: {i}\n{n}. 입력: {x}\n{n}. 출력: {o}", "없음"),
    "Spanish": written("{n}. Instrucción: {i}\n{n}. Entrada: {x}\n{n}. Salida: {o}", "Ninguna"),
    "French": written("**Instruction :** {i}\n**Entrée :** {x}\n**Sortie :** {o}", "Aucune"),
    "German": written("{n}. Anweisung: {i}\n{n}. Eingabe: {x}\n{n}. Ausgabe: {o}", "Keine"),
    "Russian": written("{n}. Инструкция: {i}\n{n}. Ввод: {x}\n{n}. Вывод: {o}", "Нет"),
    "Vietnamese": written("{n}. Hướng dẫn: {i}\n{n}. Đầu vào: {x}\n{n}. Đầu ra: {o}", "Không có"),
    "Arabic": written("{n}. التعليمات: {i}\n{n}. المدخلات: {x}\n{n}. المخرجات: {o}", "لا يوجد"),
    "thoughts": f"<think>\n{_DRAFT}\n</think>\n\n{_OWN}",
    "thoughts begun by the template": f"{_DRAFT}\n</think>\n{_OWN}",
    "thoughts by other names": f"<reasoning>\n{_DRAFT}\n</reasoning>\n<answer>\n{_OWN}\n</answer>",
    "thoughts, Mistral": f"[THINK]{_DRAFT}[/THINK]\n{_OWN}",
    "thoughts, Kimi": f"◁think▷{_DRAFT}◁/think▷{_OWN}",
    "thoughts, long names": f"<|begin_of_thought|>{_DRAFT}<|end_of_thought|>\n<|begin_of_solution|>\n{_OWN}\n<|end_of_solution|>",
    "channels": f"<|channel|>analysis<|message|>{_DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{_OWN}<|return|>",
    "channels without their signs": f"analysisWe need tasks.assistantfinal{_OWN}",
    "the sign of an end": _OWN.removesuffix("\n###") + "<|im_end|></s>",
    "a note below a line": _OWN.removesuffix("\n###") + "\n\n---\n\n**Note:** I kept the tasks simple.",
    "an offer": _OWN.removesuffix("\n###") + "\n\nWould you like me to write more tasks?",
    "a Chinese farewell": _OWN.removesuffix("\n###") + "\n\n如果需要更多示例，请告诉我。",
}  # fmt: skip
_PARTS = {
    "Q and A": "Q{n}: {i}\nA{n}: {o}",
    "User and Assistant": "User: {i}\nAssistant: {o}",
    "问 and 答": "问：{i}\n答：{o}",
    "質問 and 回答": "質問：{i}\n回答：{o}",
}


@pytest.mark.parametrize("name", STYLES)
def test_the_same_rows_in_every_style(name: str) -> None:
    assert parse(STYLES[name]) == ROWS[: 2 if name in ("quotation marks", "a, b, c", "arrows") else 3]


@pytest.mark.parametrize("name", _PARTS)
def test_questions_and_answers(name: str) -> None:
    assert parse(written(_PARTS[name], rows=ROWS[::2])) == ROWS[::2]


@pytest.mark.parametrize(
    "output",
    [
        "<quiz><question>What is 2 + 2?</question><answer>4</answer></quiz>",
        "Close it with </think> here.",
        "<s>Old</s>",
        '"Quoted."',
        "```python\nprint(1)\n```",
        "Rome\nCategory: city",
        "Salida: postre\nEntrada: sopa",
        "User: hi\nAssistant: hello",
        "Dear Ann,\n\nIf you need any more of it, call me.",
        "A paragraph.\n\nWould you like tea?",
        "1. Red\n\nInput → output",
        "<report>\n  <analysis>Fine</analysis>\n</report>",
        "<reasoning>2 + 2</reasoning>\nIt is 4.",
        "<|channel|>final<|message|>Hello",
        "the assistantfinal word",
        "Dear Sir,\n\nPlease let me know if you can come.\n\nFeel free to call.\n\nI hope this helps.",
        "Hello.\n\n希望这些能帮到你。",
    ],
)
def test_what_only_looks_like_a_style_stays_in_an_output(output: str) -> None:
    rows = [ROWS[1], Item("Write it down as I said.", "", output)]
    assert parse(written("{n}. Instruction: {i}\n{n}. Input: {x}\n{n}. Output:\n{o}\n###", rows=rows)) == rows
    assert parse(written("Instruction: {i}\nInput: {x}\nOutput: {o}", rows=rows)) == rows


def test_a_category_that_was_asked_for_stays() -> None:
    rows = [
        Item("Classify the news.", "Topic: cats", "Category: pets"),
        Item("Classify it too.", "Topic: tea", "类别：food"),
    ]
    for between in ("\n", "\n\n"):
        assert (
            parse(
                written("{n}. Instruction: {i}\n{n}. Input:\n{x}\n{n}. Output:\n{o}\n###", between=between, rows=rows)
            )
            == rows
        )


def test_signs_of_thoughts_in_json_stay() -> None:
    rows = [
        Item("Say it", "", "x"),
        Item("Close it", "", "\n</think>\nHi"),
        Item("Go on", "", "<|channel|>final<|message|>y"),
    ]
    text = "[\n" + written('{{"instruction": {qi}, "output": {qo}}}', between=",\n", rows=rows) + "]"
    for reply in (text, text.replace("\\n", "\n")):
        assert [r.instruction for r in parse(reply, "json") if isinstance(r, Item)] == [r.instruction for r in rows]


def test_a_word_in_one_row_does_not_hide_the_label_of_all_rows() -> None:
    rows = [*ROWS, Item("Go on with the pattern.", "Input: 3\nOutput: 9\nInput: 4", "Output: 16")]
    assert parse(written("### Instruction:\n{i}\n\n### Input:\n{x}\n\n### Response:\n{o}", rows=rows)) == rows


_TASKS = "Task: {i}\nInput: {x}\nAnswer: {o}"
_CONTEXTS = "Question {n}: {i}\nContext: {x}\nAnswer {n}: {o}"
_HEADED = "### Task {n}\n\n**Instruction:** {i}\n\n**Input:** {x}\n\n**Output:**\n{o}\n\n---"
_LABELS_AS_HEADINGS = "## Example {n}\n\n### Instruction:\n{i}\n\n### Input:\n{x}\n\n### Response:\n{o}"


@pytest.mark.parametrize("template", [_TASKS, _CONTEXTS, "问题：{i}\n上下文：{x}\n回答：{o}"])
@pytest.mark.parametrize(
    "output", ["print(5)\n\nOutput: 5", "print(5)\n输出：5", "Input: 3\nOutput: 9", "A letter.\nInstruction: read it"]
)
def test_a_strong_name_in_one_row_does_not_hide_the_weak_labels_of_all_rows(template: str, output: str) -> None:
    rows = [ROWS[1], Item("Write it down as I said.", "the thing", output), *ROWS[1:]]
    for some in (rows, [rows[1], rows[0], rows[2]]):
        assert parse(written(template, rows=some)) == some


@pytest.mark.parametrize(
    "value",
    ["**Hepatitis** is one.", "`ls` lists files.", "____ is it", "__init__", "~~old~~ new", "**word**", "*a* b"],
)
@pytest.mark.parametrize(
    "template",
    [
        "{n}. 指令：{i}\n{n}. 输入：{x}\n{n}. 输出：{o}",
        "**{n}. 指令：**{i}\n**{n}. 输入：**{x}\n**{n}. 输出：**{o}",
        "**{n}.** Instruction:{i}\n**{n}.** Input:{x}\n**{n}.** Output:{o}",
        "* **Instruction**:{i}\n* **Input**:{x}\n* **Output**:{o}",
        "【指令】{i}\n【输入】{x}\n【输出】{o}",
        "_Instruction:_{i}\n`Input:`{x}\n***Output:***{o}",
    ],
)
def test_markdown_at_the_start_of_a_value_stays(template: str, value: str) -> None:
    rows = [Item("Write it down as I said.", value, value), Item("Write it again.", value, value)]
    assert parse(written(template, rows=rows)) == rows


@pytest.mark.parametrize(
    "output",
    ["Instruction: Do X.\nInput: y\nOutput: z", "Here is one.\nInstruction: Do X.\nInput: y\nOutput: z"],
)
@pytest.mark.parametrize("template", [_HEADED, _LABELS_AS_HEADINGS, "**指令：**{i}\n**输入：**{x}\n**输出：**\n{o}"])
def test_an_instruction_of_another_look_in_an_output_stays(template: str, output: str) -> None:
    rows = [ROWS[1], Item("Write an instruction.", "for me", output), *ROWS[1:]]
    for some in (rows, rows[1:], rows[:2]):
        assert parse(written(template, rows=some)) == some


def test_instructions_in_an_output_are_no_plural_label() -> None:
    recipe = Item("Write a recipe.", "eggs", "Ingredients: eggs\nInstructions: boil them\nOutputs: boiled eggs")
    for template in (_TASKS, _CONTEXTS, "Instruction: {i}\nInput: {x}\nOutput: {o}"):
        assert parse(written(template, rows=[recipe, *ROWS[1:]])) == [recipe, *ROWS[1:]]


@pytest.mark.parametrize(
    ("template", "output"),
    [(_HEADED, "Here is the plan.\nTask 1: buy milk\nTask 2: cook"), (_LABELS_AS_HEADINGS, "Example 1: a fire.\nExample 2: a flood.")]
    + [("### 任务{n}\n指令：{i}\n输入：{x}\n输出：\n{o}", "任务1：买菜\n任务2：做饭"), ("{n}. Title\n\nInstruction: {i}\nInput: {x}\nOutput:\n{o}", "Task 1: cook")],
)  # fmt: skip
def test_lines_like_headings_at_the_end_of_an_output_stay(template: str, output: str) -> None:
    rows = [Item("Write it down as I said.", "the thing", output), *ROWS]
    assert parse(written(template, rows=rows)) == rows


_TAGS = "<task>\n<instruction>{i}</instruction>\n<input>{x}</input>\n<output>\n{o}\n</output>\n</task>"


@pytest.mark.parametrize(
    "value",
    ["Dear Sir,\n[Item Details]\nYours", "<list>\n<item id='1'>\na\n</item>\n</list>", "[task]\nx\n[/task]"]
    + ["<output>5</output>\n<input type='text'>\n<p>Hi</p>", "<output>\n5\n</output>", "Input: 3\nOutput: 9"]
    + ["a\n###\nb\n###", "```\nx = 1\n```", "1. Instruction: y\n\nI hope these examples help!", "  a\n    b"],
)
@pytest.mark.parametrize("template", [_TAGS, _TAGS.replace("task>", "item>"), _TAGS.replace("task>", "data>")])
def test_what_stands_in_a_tag_stays(template: str, value: str) -> None:
    row = Item("Write it down as I said.", value.strip(), value.strip())
    rows = [ROWS[1], Item("Mend it.", "" if "<input" in value else row.input, row.output), ROWS[0]]
    assert parse(written(template, rows=rows)) == rows
    assert parse(written(template, rows=rows[1:])) == rows[1:]


def test_a_reply_cut_in_the_sign_of_the_next_heading() -> None:
    reply = written(_HEADED) + "\n\n###"
    assert parse(reply, cut=True) == ROWS
    assert parse(written(_HEADED, rows=ROWS[:1]) + "\n\n###", cut=True) == ROWS[:1]


def test_an_explanation_that_was_asked_for_stays() -> None:
    rows = [Item("Answer and explain.", "2 + 2", f"4\n{between}Explanation: they add up") for between in ("", "\n")]
    for template in (_TASKS, _HEADED, "{n}. Instruction: {i}\n{n}. Input: {x}\n{n}. Output:\n{o}\n###"):
        assert parse(written(template, rows=rows)) == rows


def test_yaml_in_an_output_stays() -> None:
    rows = [ROWS[1], Item("Write it down as I said.", "", "- instruction: do\n  output: done")]
    assert parse(written("{n}. Instruction: {i}\n{n}. Input: {x}\n{n}. Output:\n{o}\n###", rows=rows)) == rows


@pytest.mark.parametrize(
    "output", ["We are #1 in C # again", "[a, b]", '"Quoted."', "one\n  two\n  three", "&a b", "#tag"]
)
def test_plain_values_that_yaml_would_change_are_read_as_labels(output: str) -> None:
    (item,) = parse(f'- instruction: Say it\n  input: ""\n  output: {output}\n')
    assert isinstance(item, Item) and item.output == output


def test_beside_blocks_plain_values_that_yaml_would_change_are_dropped() -> None:
    reply = "- instruction: Say one\n  output: |\n    a # b\n    c\n- instruction: Say two\n  output: a # b\n- instruction: Say three\n  output: c\n"
    one, two, three = parse(reply)
    assert (one, three) == (Item("Say one", "", "a # b\nc"), Item("Say three", "", "c"))
    assert isinstance(two, Dropped) and two.reason == "unclear YAML" and "a # b" in two.text


def test_thoughts_without_an_end_and_a_reply_without_an_end() -> None:
    assert [type(r).__name__ for r in parse(f"<thinking>\n{_DRAFT}\n")] == ["Dropped"]
    found = parse(_OWN + "\n" + "###\n" * 1_250_000)
    assert found[:3] == ROWS and found[-1].reason == "reply too long"  # type: ignore[union-attr]
