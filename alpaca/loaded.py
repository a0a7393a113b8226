"""Weights in memory and the prompt they were tuned with: questions to answers, in batches. Knows no files and no UI."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alpaca import console
from alpaca.decoding import Decoder, Row, Sampling, Unsupported, is_out_of_memory
from alpaca.errors import UserError
from alpaca.prompts import Prompt
from alpaca.rows import is_text
from alpaca.wording import Wording


@dataclass(frozen=True)
class Answer:
    """A text, why it ended (eos, stop or length) and how many tokens were generated."""

    text: str
    stopped: str
    tokens: int


@dataclass
class Loaded:
    """Weights ready to answer, with the prompt they were tuned with."""

    model: Any
    tokenizer: Any
    prompt: Prompt
    precision: str

    def question(self, instruction: str, input: str = "") -> list[int]:
        """The token ids of the prompt around a question."""
        return self.encode(self.prompt.render(instruction, input, self.tokenizer))

    def encode(self, text: str) -> list[int]:
        """The token ids of a text as it is; a chat template has written its own special tokens already.

        Raises UserError for half a surrogate pair, which JSON can write and no tokenizer reads.
        """
        if not is_text(text):
            raise UserError("the question holds half a surrogate pair, which is no character: mend its text")
        return self.tokenizer(text, add_special_tokens=self.prompt.kind != "chat")["input_ids"]

    def room(self, question: list[int], sampling: Sampling) -> int:
        """How many tokens an answer can have. Raises UserError where the question fills the model."""
        limit = self.longest
        if limit is None:
            return sampling.max_new_tokens
        if len(question) >= limit:
            raise UserError(
                f"the question has {len(question)} tokens with its prompt, and the model takes {limit}: shorten it"
            )
        return min(sampling.max_new_tokens, limit - len(question))

    @property
    def longest(self) -> int | None:
        """Most tokens of question and answer together, or None where the model names no limit."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def exact(self) -> bool:
        """Whether rounding is fine enough (fp32) for the greedy answers of a batch to be those of one at a time."""
        import torch

        return self.model.dtype == torch.float32 and not getattr(self.model, "quantization_method", None)

    def ends(self) -> set[int]:
        """Ids of the tokens that end an answer."""
        named = self.model.generation_config.eos_token_id
        return {
            self.tokenizer.eos_token_id,
            *(named if isinstance(named, list) else [named] if named is not None else []),
        }

    def decoder(self, capacity: int) -> Decoder:
        """A batch that rows join and leave. Raises Unsupported for a model without plain keys and values."""
        return Decoder(self.model, self.ends(), self.tokenizer.pad_token_id, capacity)

    def row(self, question: list[int], sampling: Sampling, seed: int) -> tuple[Row, Wording]:
        """A question on its way, and its answer's text. Raises UserError for one that is too long."""
        wording = Wording(self.tokenizer, self.prompt, question, sampling.stop)
        room = self.room(question, sampling)
        return Row(question, sampling, room, seed, wording.hears, exact=self.exact), wording

    def answer(self, rows: Sequence[dict[str, str]], sampling: Sampling) -> list[Answer]:
        """Answers to rows of `instruction` and `input`, in their order."""
        found = dict(self.answers(rows, sampling, size=max(1, len(rows))))
        return [found[i] for i in range(len(rows))]

    def answers(
        self, rows: Sequence[dict[str, str]], sampling: Sampling, size: int, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Answer]]:
        """(i, answer to row i) as they are done, at most `size` rows at once; only rows `numbers` where given.

        In fp32, greedy answers are those that each row gets alone. In bf16, fp16 and on quantised weights, rows that are
        computed together can differ from that where two tokens are nearly as likely.
        Raises UserError before the first one where a question is too long or no text.
        """
        wanted = range(len(rows)) if numbers is None else numbers
        questions = {}
        for i in wanted:
            try:
                questions[i] = self.question(rows[i]["instruction"], rows[i].get("input") or "")
                self.room(questions[i], sampling)
            except UserError as error:
                raise UserError(f"row {i + 1}: {error}" if len(rows) > 1 else str(error)) from None
        yield from self.answer_ids(questions, sampling, size)

    def answer_ids(
        self, questions: dict[int, list[int]], sampling: Sampling, size: int
    ) -> Iterator[tuple[int, Answer]]:
        """The same for questions that are token ids already."""
        # the shortest first: a row that joins later is about as long as those under way have grown
        order = sorted(questions, key=lambda i: len(questions[i]))
        try:
            if sampling.num_beams > 1:
                raise Unsupported("beams")
            decoder = self.decoder(size)
        except Unsupported:
            yield from self._generate(questions, order, sampling, size)
            return
        made = {i: self.row(questions[i], sampling, sampling.seed + i) for i in order}
        number_of = {id(row): i for i, (row, _) in made.items()}
        decoder.add([made[i][0] for i in order])
        again: list[int] = []
        while decoder.busy:
            for row in decoder.step():
                i = number_of[id(row)]
                if row.ended == "close":
                    again.append(i)
                else:
                    yield i, read(row, made[i][1])
        alone = self.decoder(1)
        for i in again:
            row, wording = made[i]
            row.restart()
            alone.add([row])
            while alone.busy:
                alone.step()
            yield i, read(row, wording)

    def _generate(
        self, questions: dict[int, list[int]], order: list[int], sampling: Sampling, size: int
    ) -> Iterator[tuple[int, Answer]]:
        """By transformers' own generate, padded on the left: for beams, and models that keep another kind of state."""
        import torch

        start = 0
        while start < len(order):
            numbers = order[start : start + size]
            width = max(len(questions[i]) for i in numbers)
            pad = self.tokenizer.pad_token_id
            ids = torch.tensor([[pad] * (width - len(questions[i])) + questions[i] for i in numbers])
            mask = torch.tensor([[0] * (width - len(questions[i])) + [1] * len(questions[i]) for i in numbers])
            device = self.model.get_input_embeddings().weight.device
            torch.manual_seed(sampling.seed + start)
            try:
                with torch.inference_mode():
                    output = self.model.generate(
                        input_ids=ids.to(device),
                        attention_mask=mask.to(device),
                        tokenizer=self.tokenizer,
                        **self._settings(sampling, self.room([0] * width, sampling)),
                    )
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(numbers) == 1:
                    raise UserError(
                        f"memory ran out with a single row of {width} tokens: shorten it, or quantize=nf4"
                    ) from error
                size = len(numbers) // 2
                console.warn(f"memory ran out with {len(numbers)} rows at once: going on with {size}")
                continue
            for i, tokens in zip(numbers, output[:, width:].tolist(), strict=True):
                end = next((at for at, token in enumerate(tokens) if token in self.ends()), None)
                row, wording = self.row(questions[i], sampling, 0)
                row.generated = tokens if end is None else tokens[: end + 1]
                row.ended = "length" if end is None else "eos"
                yield i, read(row, wording)
            start += len(numbers)

    def _settings(self, sampling: Sampling, room: int) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "max_new_tokens": room,
            "num_beams": sampling.num_beams,
            "repetition_penalty": sampling.repetition_penalty,
            "do_sample": sampling.temperature > 0,
            "pad_token_id": self.tokenizer.pad_token_id,
            "eos_token_id": sorted(self.ends()),
        }
        if sampling.temperature > 0:
            settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        if stops := [*self.prompt.stop, *sampling.stop]:
            settings["stop_strings"] = stops
        return settings


def read(row: Row, wording: Wording) -> Answer:
    """What a row came to."""
    text, stopped = wording.whole(row.generated[:-1] if row.ended == "eos" else row.generated)
    return Answer(text, "stop" if stopped else row.ended or "length", len(row.generated))
