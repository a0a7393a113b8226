"""The text around a row, and the answer cut out of a generated text. Standard library only."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpaca import schema
from alpaca.config import PromptConfig
from alpaca.errors import UserError

FILE = "prompt.json"


@dataclass(frozen=True)
class Prompt:
    """A prompt; the response follows the rendered text at once. `kind` is text (two templates) or chat (the tokenizer's)."""

    name: str
    kind: str = "text"
    with_input: str = ""
    without_input: str = ""
    system: str | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: PromptConfig) -> "Prompt":
        """The prompt of a config group."""
        return cls(config.name, config.kind, config.with_input, config.without_input, config.system, tuple(config.stop))

    @classmethod
    def load(cls, folder: Path | str) -> "Prompt":
        """The prompt that was saved with weights. Raises UserError when there is none or it is damaged."""
        path = Path(folder) / FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            faults: list[str] = []
            config = schema.build(PromptConfig, data, "", faults)
        except FileNotFoundError:
            raise UserError(
                f"{path} is not there: these weights carry no prompt; name one with prompt=alpaca|…"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): name the prompt with prompt=alpaca|…") from None
        if faults:
            raise UserError(f"{path} is damaged ({faults[0]}): name the prompt with prompt=alpaca|…")
        return cls.from_config(config)

    def save(self, folder: Path | str) -> None:
        """Write prompt.json beside the weights, which answer only to exactly this text."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        (Path(folder) / FILE).write_text(text, encoding="utf-8")

    def render(self, instruction: str, input: str = "", tokenizer: Any = None) -> str:
        """The text that a model answers. In a text prompt only an empty input is none, as in Stanford Alpaca."""
        if self.kind == "chat":
            return self._chat([*self._messages(instruction, input)], tokenizer, add_generation_prompt=True)
        if not input:
            return self.without_input.replace("{instruction}", instruction)
        before, after = self.with_input.split("{instruction}", 1)
        # filled part by part, so that braces in the user's texts stay what they are
        return before.replace("{input}", input) + instruction + after.replace("{input}", input)

    def render_pair(self, row: dict[str, str], tokenizer: Any = None) -> tuple[str, str]:
        """(prompt, response) of a row. For chat the response carries what ends the turn; for text EOS is still to come."""
        source = self.render(row["instruction"], row["input"], tokenizer)
        if self.kind != "chat":
            return source, row["output"]
        messages = [*self._messages(row["instruction"], row["input"]), {"role": "assistant", "content": row["output"]}]
        whole = self._chat(messages, tokenizer, add_generation_prompt=False)
        if not whole.startswith(source):
            raise UserError(
                "prompt=chat: this tokenizer's template writes an answered turn differently from the opening of an "
                "answer, so that loss cannot be taken on the response alone; use a text prompt such as prompt=alpaca"
            )
        return source, whole[len(source) :]

    def cut(self, text: str) -> str:
        """A generated text up to the first stop string, without white space at its end."""
        ends = [i for s in self.stop if (i := text.find(s)) >= 0]
        return text[: min(ends)].rstrip() if ends else text.rstrip()

    def _messages(self, instruction: str, input: str) -> list[dict[str, str]]:
        content = f"{instruction}\n\n{input}" if input.strip() else instruction
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": content}]

    @staticmethod
    def _chat(messages: list[dict[str, str]], tokenizer: Any, add_generation_prompt: bool) -> str:
        if getattr(tokenizer, "chat_template", None) is None:
            raise UserError(
                "prompt=chat needs a tokenizer with a chat template, and this one has none: use prompt=alpaca"
            )
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        except Exception as error:
            raise UserError(
                f"prompt=chat: the tokenizer's chat template fails ({str(error).splitlines()[0]})"
            ) from None
