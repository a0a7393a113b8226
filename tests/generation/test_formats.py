"""Replies in formats of data (YAML and others): rows come back unchanged, and what is broken or cut costs itself alone."""

import csv
import io
import json
from collections.abc import Callable

import pytest
import yaml

from alpaca.generation.items import Dropped, Item
from alpaca.generation.parse import parse
from tests.generation.conftest import shared_rows

ROWS = [
    Item("Name three primary colours.", "", "Red, blue: and yellow # not green."),
    Item("Translate it: word for word.", "I am hungry now.", "J'ai faim maintenant."),
    Item("List fruits.", "", "1. apple\n2. pear\n\n[3]: plum"),
    Item("Say it again.", '"To be or not to be"', "'To be' {or} not"),
]
Rows = list[Item]
QUOTE = '"'


def objects(rows: Rows) -> list[dict[str, str]]:
    return [{"instruction": r.instruction, "input": r.input, "output": r.output} for r in rows]


def dumped(rows: Rows, **settings: object) -> str:
    return yaml.dump(objects(rows), sort_keys=False, **settings)  # type: ignore[call-overload, no-any-return]


def as_block(text: str) -> str:
    return "|-\n    " + text.replace("\n", "\n    ")


def blocks(rows: Rows) -> str:
    entries = (
        f"- instruction: {r.instruction}\n  input: {json.dumps(r.input)}\n  output: {as_block(r.output)}\n"
        for r in rows
    )
    return "".join(entries)


def mixed(rows: Rows) -> str:
    return "".join(
        f"- instruction: {r.instruction}\n  input: {json.dumps(r.input)}\n  output: {json.dumps(r.output)}\n"
        for r in rows
    )


def numbered(rows: Rows) -> str:
    return yaml.dump([{"id": n, **row} for n, row in enumerate(objects(rows), 1)], sort_keys=False)


def named(rows: Rows) -> str:
    return yaml.dump({f"task_{n}": row for n, row in enumerate(objects(rows), 1)}, sort_keys=False)


def comma_separated(rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows((r.instruction, r.input, r.output) for r in rows)
    return "instruction,input,output\n" + text.getvalue()


WRITERS: dict[str, Callable[[Rows], str]] = {
    "YAML, plain where it can be": dumped,
    "YAML, |": lambda rows: dumped(rows, default_style="|"),
    "YAML, >": lambda rows: dumped(rows, default_style=">"),
    "YAML, double marks": lambda rows: dumped(rows, default_style='"'),
    "YAML, single marks": lambda rows: dumped(rows, default_style="'"),
    "YAML in a fence": lambda rows: f"Here are the tasks:\n\n```yaml\n{dumped(rows)}```\n\nLet me know!",
    "YAML documents": lambda rows: yaml.dump_all(objects(rows), sort_keys=False),
    "YAML, sorted names": lambda rows: yaml.dump(objects(rows)),
    "YAML, numbered": numbered,
    "YAML under names": named,
    "YAML, blocks beside plain values": blocks,
    "YAML, marks beside plain values": mixed,
    "CSV": comma_separated,
    "CSV in a fence": lambda rows: f"Here are the tasks:\n\n```csv\n{comma_separated(rows)}```\n\nSo, one, two, three!",
    "CSV and words": lambda rows: f"{comma_separated(rows)}\nSure, if so, ask!",
}


def items(found: list[Item | Dropped]) -> list[Item]:
    return [f for f in found if isinstance(f, Item)]


@pytest.mark.parametrize("name", WRITERS)
def test_rows_come_back_and_a_cut_costs_the_last_alone(name: str) -> None:
    reply = WRITERS[name](ROWS)
    assert parse(reply) == ROWS
    for end in range(1, len(reply), 3):
        found = items(parse(reply[:end], cut=True))
        assert found == ROWS[: len(found)], reply[:end]
    almost = len(WRITERS[name](ROWS[:3])) + 20
    assert len(items(parse(reply[:almost], cut=True))) >= 2


@pytest.mark.parametrize("name", [name for name in WRITERS if name.startswith("YAML")])
def test_real_rows_come_back_from_yaml(name: str) -> None:
    rows = [Item(*(r[part].strip() for part in ("instruction", "input", "output"))) for r in shared_rows("alpaca_data.json")[::800]]  # fmt: skip
    rows = [r for r in rows if r.output and "\n" not in r.instruction and r.input[:1] != '"']
    found = items(parse(WRITERS[name](rows)))
    assert len(found) == len(rows)
    if name != "YAML, >":  # its own writer breaks lines of code
        assert found == rows


@pytest.mark.parametrize("name", ["YAML, plain where it can be", "YAML, |", "YAML, single marks", "YAML, numbered", "YAML, blocks beside plain values"])  # fmt: skip
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("output: |\n        def f():\n      return 1", "broken YAML"),
        ("output: |\n    one\ntwo", "broken YAML"),
        ("output: |\n    one\n\ntwo\n\nthree", "broken YAML"),
        ("output: |\n    one\n  two", "broken YAML"),
        ('output: "say "a" or "b"', "broken YAML"),
        ('output: "not closed', "broken YAML"),
        ('output: "\\d"', "broken YAML"),
        ("output:\n    - a\n    - b", "unclear YAML"),
        ("output: a # b", "unclear YAML"),
        ("output: one\n    two", "unclear YAML"),
        ("output: a\n  output: b", "repeated field"),
        ("input: a", "no output"),
    ],
)
def test_a_broken_entry_of_yaml_costs_itself_alone(name: str, fields: str, reason: str) -> None:
    first, second = WRITERS[name](ROWS[:2]), WRITERS[name](ROWS[2:])
    found = parse(f"{first}- instruction: Broken\n  {fields}\n{second}")
    assert items(found) == ROWS
    assert [f.reason for f in found if isinstance(f, Dropped)] == [reason]


def test_yaml_as_an_example_in_an_output_stays() -> None:
    row = Item("Write a list of tasks.", "", "- instruction: |\n    do\n  output: |\n    done")
    assert parse(f"1. Instruction: {row.instruction}\n1. Output:\n{row.output}\n###") == [row]
    assert parse(f"<instruction>{row.instruction}</instruction>\n<output>\n{row.output}\n</output>") == [row]


def test_a_broken_record_of_csv_is_dropped() -> None:
    reply = comma_separated(ROWS[:2]) + 'Say it, now,,"x"\n' + comma_separated(ROWS[2:]).partition("\n")[2]
    assert items(parse(reply)) == ROWS
    assert [f.reason for f in parse(reply + '"a","b\n')[-1:] if isinstance(f, Dropped)] == ["broken CSV"]


@pytest.mark.parametrize(
    ("key", "who", "what", "asks", "answers"),
    [("messages", "role", "content", "user", "assistant"), ("conversations", "from", "value", "human", "gpt")],
)
def test_conversations_of_two_turns_are_rows(key: str, who: str, what: str, asks: str, answers: str) -> None:
    rows = [Item(r.instruction, "", r.output) for r in ROWS]
    chats = [{key: [{who: asks, what: r.instruction}, {who: answers, what: r.output}]} for r in rows]
    chats[0][key].insert(0, {who: "system", what: "Be brief."})
    lines = "\n".join(map(json.dumps, chats))
    for reply in (json.dumps(chats), f"```json\n{json.dumps({'items': chats}, indent=1)}\n```", lines):
        assert parse(reply, "json") == parse(reply) == rows
        for end in range(1, len(reply), 7):
            found = items(parse(reply[:end], "json", cut=True))
            assert found == rows[: len(found)]
    (longer,) = parse(json.dumps({key: chats[1][key] * 2}), "json")
    assert isinstance(longer, Dropped) and longer.reason == "not one question and one answer"


def toml(rows: Rows) -> str:
    parts = ("\n".join(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in o.items()) for o in objects(rows))
    return "\n\n".join("[[items]]\n" + part for part in parts) + "\n"


def toml_lines(rows: Rows) -> str:
    return "\n".join(
        f"[[tasks]]\nid = {n}\ninstruction = '''{r.instruction}'''\ninput = '''{r.input}'''\noutput = {3 * QUOTE}\n{r.output}{3 * QUOTE}\n"
        for n, r in enumerate(rows, 1)
    )


def folded(rows: Rows) -> str:
    return "\n\n".join(
        f"<details>\n<summary>Task {n}</summary>\n\n**Instruction:** {r.instruction}\n**Input:** {r.input or 'None'}\n**Output:**\n{r.output}\n</details>"
        for n, r in enumerate(rows, 1)
    )


@pytest.mark.parametrize("write", [toml, toml_lines, folded])
@pytest.mark.parametrize("around", ["{}", "Here are the tasks:\n\n{}", "{}\n\nI hope this helps!"])
def test_toml_and_folded_items(write: Callable[[Rows], str], around: str) -> None:
    rows = [*ROWS, Item("Fold it.", "", "<details>\n<summary>A</summary>\ntext\n</details>")]
    if write is folded or not around.endswith("helps!"):
        assert parse(around.format(write(rows))) == rows
    if write is not folded:
        assert parse("Sure:\n```toml\n" + write(rows) + "```\nDone.") == rows


@pytest.mark.parametrize("write", [toml, toml_lines])
def test_a_broken_or_cut_entry_of_toml_costs_itself_alone(write: Callable[[Rows], str]) -> None:
    text = write(ROWS)
    for end in range(1, len(text), 3):
        assert [r for r in parse(text[:end], cut=True) if isinstance(r, Item) and r not in ROWS] == []
    broken = text.replace("instruction = ", "instruction = = ", 2).replace("instruction = = ", "instruction = ", 1)
    found = parse(broken)
    assert [r for r in found if isinstance(r, Item)] == [ROWS[0], *ROWS[2:]]
    assert [r.reason for r in found if isinstance(r, Dropped)] == ["broken TOML"]
