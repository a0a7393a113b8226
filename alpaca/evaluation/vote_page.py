"""The page for blind votes: a question, two answers whose makers it does not name, five buttons. Nothing but the page."""

import os
import re
from typing import Any

from alpaca.evaluation import preference
from alpaca.evaluation.votes import CHOICES, Votes
from alpaca.infer_config import UiConfig
from alpaca.web import serve

KEYS = """() => document.addEventListener('keydown', (event) => {
  const typing = ['INPUT', 'TEXTAREA'].includes(event.target.tagName) && !event.target.readOnly && !event.target.disabled;
  if (typing && event.key === 'Enter') { setTimeout(() => event.target.blur(), 100); }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) { return; }
  const keys = {a: 'left', ArrowLeft: 'left', b: 'right', ArrowRight: 'right', t: 'tie', x: 'bad', s: 'skip', u: 'back'};
  const button = document.querySelector('#' + (keys[event.key] || keys[event.key.toLowerCase()]));
  if (button && !button.disabled) { event.preventDefault(); button.click(); }
})"""
BUTTONS = (
    ("left", "A is better (A)"),
    ("right", "B is better (B)"),
    ("tie", "Tie (T)"),
    ("bad", "Both bad (X)"),
    ("skip", "Skip (S)"),
)
STYLE = """
.gradio-container { width: 100% !important; max-width: 1100px !important; margin: 0 auto !important; }
.answer textarea, #question textarea { line-height: 1.5; }
#progress { opacity: 0.8; }
@media (max-width: 640px) { .gradio-container { padding: 8px !important; } }
"""


def launch(votes: Votes, names: tuple[str, str], ui: UiConfig) -> tuple[Any, str]:
    """The page in a thread of its own, and its address."""
    return serve(build(votes, names), ui, KEYS, STYLE)


def build(votes: Votes, names: tuple[str, str]) -> Any:
    """The components and what they do. Which question is shown travels with the page, so that each tab has its own."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    desk = Desk(votes, names)
    with gr.Blocks(title="Which answer is better?", analytics_enabled=False) as page:
        gr.Markdown("# Which answer is better?")
        known = gr.BrowserState("", storage_key="alpaca-voter", secret="voter")  # a name, no secret
        shown = gr.State(-1)
        with gr.Row():
            name = gr.Textbox(label="Your name", max_lines=1, elem_id="name", scale=3)
            start = gr.Button("Begin", variant="primary", elem_id="begin", scale=1, min_width=100)
        progress = gr.Markdown("Give a name first: your votes are kept under it.", elem_id="progress")
        with gr.Column(visible=False) as ballot:
            question = gr.Textbox(label="Question", lines=2, max_lines=16, interactive=False, elem_id="question")
            with gr.Row():
                answers = [
                    gr.Textbox(
                        label=f"Answer {side}",
                        lines=8,
                        max_lines=30,
                        interactive=False,
                        elem_id=f"answer-{side}",
                        elem_classes="answer",
                        min_width=260,
                    )  # fmt: skip
                    for side in "AB"
                ]
            with gr.Row():
                buttons = {key: gr.Button(text, elem_id=key, min_width=110) for key, text in BUTTONS}
        back = gr.Button("Change the last vote (U)", size="sm", elem_id="back", visible=False)
        end = gr.Markdown("", elem_id="end")
        view = [shown, progress, ballot, question, *answers, back, end]
        start.click(desk.begin, [name], [known, *view], api_visibility="private")
        name.submit(desk.begin, [name], [known, *view], api_visibility="private")
        page.load(desk.resume, [known], [name, *view], api_visibility="private")
        back.click(desk.back, [known], view, api_visibility="private")
        for key in CHOICES:
            buttons[key].click(_handler(desk, key), [known, shown], view, show_progress="hidden", api_visibility="private")  # fmt: skip
    return page


def _handler(desk: "Desk", choice: str) -> Any:
    return lambda voter, number: desk.vote(voter, number, choice)


class Desk:
    """What the buttons do."""

    def __init__(self, votes: Votes, names: tuple[str, str]) -> None:
        self.votes, self.names = votes, names

    def begin(self, name: str) -> tuple[Any, ...]:
        """A voter gives a name: on from where he was."""
        voter = " ".join((name or "").split())[:60]
        return (voter, *self.show(voter))

    def resume(self, voter: str) -> tuple[Any, ...]:
        """The page is loaded: a known voter goes on; of a new one nothing that he types meanwhile is overwritten."""
        import gradio as gr

        return (voter, *self.show(voter)) if voter else (gr.skip(),) * 9

    def vote(self, voter: str, number: int, choice: str) -> tuple[Any, ...]:
        """Keep the vote, show the next pair. A pair that is not shown any more gets none."""
        if voter and 0 <= number < len(self.votes.rows):
            self.votes.vote(voter, number, choice)
        return self.show(voter)

    def back(self, voter: str) -> tuple[Any, ...]:
        """The pair voted on last, to vote again."""
        return self.show(voter, self.votes.latest(voter))

    def show(self, voter: str, number: int | None = None) -> tuple[Any, ...]:
        """Values for the view: the pair `number`, else the voter's next one, else the table."""
        import gradio as gr

        done, total = self.votes.done(voter), len(self.votes.numbers)
        back = gr.update(visible=bool(voter) and done > 0)
        hidden = (gr.update(visible=False), "", "", "")
        if not voter:
            return (-1, "Give a name first: your votes are kept under it.", *hidden, back, "")
        number = self.votes.next(voter) if number is None else number
        said = f"**{plain(voter)}**: {done} of {total} done"
        if number is None:
            return (-1, said, *hidden, back, self.table())
        row = self.votes.rows[number]
        left = self.votes.left(voter, number)
        texts = [row[f"answer_{s}"] for s in (left, "b" if left == "a" else "a")]
        asked = f"{row['instruction']}\n\n{row['input']}".strip()
        return (number, said, gr.update(visible=True), asked, *texts, back, "")

    def table(self) -> str:
        """What all votes come to, for a voter who has nothing left to vote on."""
        from alpaca.evaluation.voting import notes, table

        found = self.votes.figures()
        rows = [preference.HEAD, ("---",) * len(preference.HEAD), *table(found)]
        lines = "\n".join("| " + " | ".join([plain(row[0]), *row[1:]]) + " |" for row in rows)
        told = "\n".join(f"- {plain(line)}" for line in notes(found))
        first = plain(preference.sentence(*self.names, found, len(self.votes.rows)))
        return f"## Thank you, that was all of them\n\n{first}\n\n{lines}\n\n{told}"


def plain(text: str) -> str:
    """Text for Markdown that shows as it is: names are free, and `<b>` or `a|b` is one."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
