"""The text around a row, to the character, and the answer cut out again."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca import schema
from alpaca.config import PromptConfig
from alpaca.errors import UserError
from alpaca.prompts import FILE, Prompt

CONF = Path(__file__).parents[1] / "conf" / "prompt"
NAMES = sorted(p.stem for p in CONF.glob("*.yaml"))
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def prompt_of(name: str) -> Prompt:
    faults: list[str] = []
    config = schema.build(PromptConfig, yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")), "", faults)
    assert not faults
    return Prompt.from_config(config)


class ChatTokenizer:
    def __init__(self, template):
        self.chat_template = template

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        import jinja2

        assert tokenize is False
        template = jinja2.Template(self.chat_template, keep_trailing_newline=True)
        return template.render(messages=messages, add_generation_prompt=add_generation_prompt)


def test_the_alpaca_prompt_is_the_published_text():
    prompt = prompt_of("alpaca")
    assert prompt.render("Add.", "1 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:"
    )
    assert prompt.render("Add.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Response:"
    )


def test_the_variants_differ_from_it_as_published():
    alpaca = prompt_of("alpaca")
    for row in (("Add.", "1 2"), ("Add.", "")):
        assert prompt_of("alpaca_lora").render(*row) == alpaca.render(*row) + "\n"
        assert prompt_of("qlora").render(*row) == alpaca.render(*row) + " "
        assert prompt_of("alpaca_short").render(*row) == alpaca.render(*row).split("\n\n", 1)[1] + "\n"


@pytest.mark.parametrize("blank", [" ", "\n\t "])
def test_an_input_of_white_space_is_an_input_as_in_the_original(blank):
    assert f"### Input:\n{blank}\n\n" in prompt_of("alpaca").render("Add.", blank)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from([n for n in NAMES if n != "chat"]),
    instruction=st.text(min_size=1)
    | st.sampled_from(["{input}", "{instruction}", "{0}", "{{x}}", "%s {", "}{input}{"]),
    input=st.text() | st.sampled_from(["{instruction}", "{input}", "{output!r}", "$input"]),
)
def test_users_texts_survive_as_they_are(name, instruction, input):
    prompt = prompt_of(name)
    template = prompt.with_input if input else prompt.without_input
    head, tail = template.split("{instruction}")
    if input:
        middle, tail = tail.split("{input}")
        assert prompt.render(instruction, input) == head + instruction + middle + input + tail
    else:
        assert prompt.render(instruction, input) == head + instruction + tail


@settings(max_examples=200, deadline=None)
@given(answer=st.text(), rest=st.text(), name=st.sampled_from([n for n in NAMES if n != "chat"]), data=st.data())
def test_cut_gives_the_answer_back(answer, rest, name, data):
    prompt = prompt_of(name)
    stop = data.draw(st.sampled_from(prompt.stop))
    if any(s in answer + stop[:-1] for s in prompt.stop):
        return
    assert prompt.cut(answer + stop + rest) == answer.rstrip()
    assert prompt.cut(answer) == answer.rstrip()


def test_cut_ends_at_the_first_stop_and_keeps_indentation():
    prompt = Prompt("p", stop=("END", "\n###"))
    assert prompt.cut("    code\n### more END") == "    code"
    assert prompt.cut("a END b\n### c") == "a"
    assert Prompt("p").cut("a \n\n") == "a"


@pytest.mark.parametrize("name", NAMES)
def test_saved_prompts_come_back(name, tmp_path):
    prompt_of(name).save(tmp_path)
    assert Prompt.load(tmp_path) == prompt_of(name)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"name": "x", "stop": "a"}', '{"name": "x", "nmae": 1}', "\xff"]
)
def test_a_damaged_prompt_file_is_named(content, tmp_path):
    (tmp_path / FILE).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="prompt.json.*damaged.*prompt="):
        Prompt.load(tmp_path)


def test_a_missing_prompt_file_is_named(tmp_path):
    with pytest.raises(UserError, match="prompt.json is not there.*prompt="):
        Prompt.load(tmp_path)


def test_chat_uses_the_template_of_the_tokenizer():
    prompt, tokenizer = Prompt("chat", kind="chat", system="Be kind."), ChatTokenizer(CHATML)
    source, target = prompt.render_pair({"instruction": "Add.", "input": "1 2", "output": "3"}, tokenizer)
    assert source == "<|system|>Be kind.</s>\n<|user|>Add.\n\n1 2</s>\n<|assistant|>"
    assert target == "3</s>\n"
    assert Prompt("chat", kind="chat").render("Add.", " ", tokenizer) == "<|user|>Add.</s>\n<|assistant|>"


def test_chat_faults_say_what_to_do():
    row = {"instruction": "a", "input": "", "output": "b"}
    prompt = Prompt("chat", kind="chat")
    with pytest.raises(UserError, match="no|none"):
        prompt.render_pair(row, ChatTokenizer(None))
    odd = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(UserError, match="differently.*prompt=alpaca"):
        prompt.render_pair(row, ChatTokenizer(odd))
    with pytest.raises(UserError, match="template fails"):
        prompt.render("a", "", ChatTokenizer("{{ 1 / 0 }}"))


def test_text_pairs_leave_eos_to_the_tokens():
    row = {"instruction": "a", "input": "", "output": "b"}
    assert prompt_of("alpaca").render_pair(row) == (prompt_of("alpaca").render("a"), "b")
