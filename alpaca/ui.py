"""The page in a browser: one model, or several side by side. Nothing but the page: answers come from `streams`."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpaca import console
from alpaca.decoding import Sampling
from alpaca.errors import UserError
from alpaca.infer_config import InferConfig
from alpaca.inference import load_run, load_weights
from alpaca.loaded import Loaded
from alpaca.prompts import FILE, Prompt
from alpaca.results import RunFolder
from alpaca.streams import Stream, Streams, explain
from alpaca.web import serve

EXAMPLES = [
    ["Name three primary colours.", ""],
    ["Explain in two sentences why the sky is blue.", ""],
    ["Correct the spelling.", "He finnished his meal and left the resturant."],
    ["Write a short thank-you note to a colleague who covered my shift.", ""],
]
KEYS = """() => document.addEventListener('keydown', (event) => {
  const press = (id) => { const b = document.querySelector('#' + id); if (b && !b.disabled) { b.click(); } };
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) { event.preventDefault(); press('ask'); }
  if (event.key === 'Escape') { press('stop'); }
})"""
TOGGLE = "() => { document.body.classList.toggle('dark'); }"
SAVE = """(rows) => {
  const text = (rows || []).map((row) => JSON.stringify(row)).join('\\n') + '\\n';
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/jsonl'}));
  link.download = 'history.jsonl';
  link.click();
}"""
STYLE = """
.gradio-container { width: 100% !important; max-width: 1100px !important; margin: 0 auto !important; }
#ask, #stop { white-space: nowrap; font-size: 1em; }
#title h1 { margin: 0.2em 0; font-size: 1.4em; }
.status { min-height: 1.6em; opacity: 0.8; }
.answer textarea { line-height: 1.5; }
@media (max-width: 640px) { .gradio-container { padding: 8px !important; } }
"""
_POLL = 0.05  # seconds between two looks at the answers under way


@dataclass
class Column:
    """A model on the page."""

    name: str
    streams: Streams


def run(config: InferConfig, sampling: Sampling) -> None:
    """Serve the page until Ctrl-C. Raises UserError where the address is taken."""
    columns = [Column(n, Streams(m, config.ui.at_once, config.ui.queue)) for n, m in models(config)]
    page, address = launch(columns, sampling, config)
    console.say(f"the page is at {address}   (Ctrl-C ends it)")
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)


def models(config: InferConfig) -> list[tuple[str, Loaded]]:
    """Name and weights of every column."""
    from alpaca import answering

    if not config.compare:
        return [(Path(config.adapter or config.run or config.model or "").name or "model", answering.load(config))]
    prompt = answering.named_prompt(config.prompt) if config.prompt else shared_prompt(config.compare)
    result = []
    for place in config.compare:
        options: dict[str, Any] = {"device": config.device, "quantize": config.quantize, "merge": True}
        if Path(place, "config.yaml").is_file() or Path(place, "metrics.jsonl").is_file():
            own = answering.named_prompt(config.prompt) if config.prompt else None
            loaded = load_run(RunFolder(place), prompt=own, **options)
        else:
            own = Prompt.load(place) if Path(place, FILE).is_file() and not config.prompt else prompt
            loaded = load_weights(place, prompt=own, trust_remote_code=config.trust_remote_code, **options)
        result.append(loaded)
    return list(zip(labels(config.compare), result, strict=True))


def labels(places: list[str]) -> list[str]:
    """The end of each path, as long as it takes to tell them apart; numbered where nothing does."""
    paths = [Path(place.rstrip("/").removesuffix("/model")).absolute().parts for place in places]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{i}. {parts[-1]}" for i, parts in enumerate(paths, 1)]


def shared_prompt(places: list[str]) -> Prompt | None:
    """The prompt for weights that carry none: that of the first run folder among them."""
    folders = [RunFolder(p).model for p in places]
    return next((Prompt.load(f) for f in folders if (f / FILE).is_file()), None)


def launch(columns: list[Column], sampling: Sampling, config: InferConfig) -> tuple[Any, str]:
    """The page in a thread of its own, and its address."""
    return serve(build(columns, sampling), config.ui, KEYS, STYLE)


def build(columns: list[Column], sampling: Sampling) -> Any:
    """The components and what they do."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    desk = Desk(columns)
    with gr.Blocks(title=" · ".join(c.name for c in columns), analytics_enabled=False) as page:
        with gr.Row():
            gr.Markdown("# " + " · ".join(c.name for c in columns), elem_id="title")
            theme = gr.Button("Light / dark", size="sm", scale=0, min_width=110, elem_id="theme")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                instruction = gr.Textbox(label="Instruction", lines=3, autofocus=True, elem_id="instruction")
                given = gr.Textbox(label="Input (optional)", lines=2, elem_id="input")
                with gr.Row():
                    ask = gr.Button("Ask (Ctrl-Enter)", variant="primary", elem_id="ask", min_width=120)
                    stop = gr.Button("Stop (Esc)", variant="stop", elem_id="stop", min_width=100)
                knobs = _knobs(gr, sampling)
            with gr.Column(scale=3, min_width=280):
                outputs = _answers(gr, columns)
                with gr.Accordion("The prompt as it is sent", open=False):
                    sent = [
                        gr.Textbox(label=c.name, lines=4, buttons=["copy"], interactive=False, elem_id=f"sent{i}")
                        for i, c in enumerate(columns)
                    ]
        gr.Examples(EXAMPLES, [instruction, given], label="Examples")
        with gr.Accordion("History", open=False):
            history = gr.JSON(value=[], show_label=False, elem_id="history")
            save = gr.Button("Save as history.jsonl", size="sm", elem_id="save")
        inputs = [instruction, given, history, *knobs]

        def on_ask(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
            yield from desk.ask(*values, request)

        def on_stop(request: gr.Request) -> None:
            desk.stop(request)

        ask.click(
            on_ask,
            inputs,
            [*outputs, *sent, history],
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=None,  # Streams counts who waits, and says so on the page
        )
        stop.click(on_stop, None, None, queue=False, api_visibility="private")
        save.click(None, [history], None, js=SAVE, api_visibility="private")
        theme.click(None, None, None, js=TOGGLE, api_visibility="private")
    return page


def _knobs(gr: Any, sampling: Sampling) -> list[Any]:
    with gr.Accordion("Sampling", open=False):
        return [
            gr.Slider(0, 2, sampling.temperature, step=0.05, label="Temperature (0: greedy)"),
            gr.Slider(0.05, 1, sampling.top_p, step=0.05, label="Top p"),
            gr.Slider(0, 200, sampling.top_k, step=1, label="Top k (0: all)"),
            gr.Slider(1, 2048, min(sampling.max_new_tokens, 2048), step=1, label="Most new tokens"),
            gr.Slider(1, 2, sampling.repetition_penalty, step=0.05, label="Repetition penalty"),
            gr.Number(sampling.seed, precision=0, label="Seed (-1: another each time)"),
        ]


def _answers(gr: Any, columns: list[Column]) -> list[Any]:
    """The answer boxes, then the status lines."""
    boxes, lines = [], []
    with gr.Row():
        for i, column in enumerate(columns):
            with gr.Column(min_width=260):
                label = column.name if len(columns) > 1 else "Answer"
                boxes.append(
                    gr.Textbox(
                        label=label,
                        lines=10,
                        max_lines=24,
                        interactive=False,
                        buttons=["copy"],
                        elem_id=f"answer{i}",
                        elem_classes="answer",
                    )
                )
                lines.append(gr.Markdown("", elem_id=f"status{i}", elem_classes="status"))
    return [*boxes, *lines]


class Desk:
    """What the buttons do; knows which answers are under way for which visitor."""

    def __init__(self, columns: list[Column]) -> None:
        self.columns = columns
        self._open: dict[str, list[Stream]] = {}

    def stop(self, request: Any) -> None:
        """End the visitor's answers where they are."""
        for stream in self._open.get(request.session_hash, []):
            stream.cancel()

    def ask(self, instruction: str, given: str, history: list[Any], *rest: Any) -> Iterator[tuple[Any, ...]]:
        """Answers, statuses, prompts and history, again each time an answer has grown."""
        *knobs, request = rest
        count = len(self.columns)
        texts, lines, sent = [""] * count, ["…"] * count, [""] * count
        streams: list[Stream | None] = [None] * count
        key = request.session_hash
        if not (instruction or "").strip():
            lines = ["⚠ the instruction is empty: type a question first"] * count
            yield (*texts, *lines, *sent, history)
            return
        start = time.monotonic()
        try:
            for i, column in enumerate(self.columns):
                try:
                    streams[i] = self._begin(column, instruction, given, knobs, sent, i)
                except Exception as error:
                    lines[i] = f"⚠ {explain(error)}"
            self._open[key] = [s for s in streams if s is not None]
            yield (*texts, *lines, *sent, history)
            while any(s is not None for s in streams):
                time.sleep(_POLL)
                before = (list(texts), list(lines))
                for i, stream in enumerate(streams):
                    if stream is not None and self._look(stream, i, texts, lines, start):
                        streams[i] = None
                if (texts, lines) != before:
                    yield (*texts, *lines, *sent, history)
            row: dict[str, Any] = {"instruction": instruction, "input": given or ""}
            row |= {"answers": {c.name: t for c, t in zip(self.columns, texts, strict=True)}}
            yield (*texts, *lines, *sent, [*(history or []), row])
        finally:  # the visitor may have gone away
            for stream in self._open.pop(key, []):
                stream.cancel()

    def _begin(self, column: Column, instruction: str, given: str, knobs: list[Any], sent: list[str], i: int) -> Stream:
        loaded = column.streams.loaded
        sent[i] = loaded.prompt.render(instruction, given or "", loaded.tokenizer)
        return column.streams.ask(loaded.encode(sent[i]), chosen(knobs))

    @staticmethod
    def _look(stream: Stream, i: int, texts: list[str], lines: list[str], start: float) -> bool:
        """Take over what a stream has; whether it is done."""
        seconds = time.monotonic() - start
        try:
            text, done = stream.now()
        except Exception as error:
            lines[i] = f"⚠ {explain(error)}"
            return True
        texts[i] = text if done or len(text) > len(texts[i]) else texts[i]
        made = len(stream.row.generated)
        words = {"length": ", cut at the most new tokens", "cancelled": ", stopped"}
        behind = words.get(stream.answer.stopped, "") if done else " …"
        lines[i] = f"{made} tokens, {made / seconds:.0f} tokens/s{behind}" if made or done else "waiting …"
        return done


def chosen(knobs: list[Any]) -> Sampling:
    """The sampling controls' values. Raises UserError for what is no number or out of range."""
    temperature, top_p, top_k, new, penalty, seed = knobs
    if any(not isinstance(k, (int, float)) for k in (temperature, top_p, top_k, new, penalty)):
        raise UserError("a sampling control holds no number: set it again")
    if not (0 <= temperature <= 10 and 0 < top_p <= 1 and top_k >= 0 and new >= 1 and penalty > 0):
        raise UserError("a sampling control is out of its range: set it again")
    drawn = time.time_ns() % 2**31 if seed is None or seed < 0 else int(seed)
    settings = Sampling(float(temperature), float(top_p), int(top_k), 1, int(new), float(penalty))
    return replace(settings, seed=drawn)
