"""The ledger of published figures: what is computed, what fails, and what finished runs fill."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from alpaca import schema
from alpaca.errors import UserError
from alpaca.evaluation import ledger, ours, recipes, runs
from alpaca.evaluation.config import LedgerConfig, load
from alpaca.evaluation.published import Figure, figures
from tests.commands import run_python


def statuses(rows: list[ledger.Row]) -> dict[str, str]:
    return {r.name: r.status for r in rows}


@pytest.mark.slow
def test_what_needs_no_data_passes_and_the_rest_says_what_would_fill_it(tmp_path: Path, capsys) -> None:
    ledger.paper(load({"task": "paper"}), tmp_path)
    rows = json.loads((tmp_path / "ledger.json").read_text())
    assert len(rows) == len(figures()) == len({r["name"] for r in rows})
    computed = [r for r in rows if r["name"].startswith(("parameters", "LoRA", "optimiser", "epochs", "settings"))]
    assert len(computed) == 35 and {r["status"] for r in computed} == {"PASS"}
    others = [r for r in rows if r not in computed]
    assert all(r["status"].startswith("NEEDS-") and r["command"].startswith("python ") for r in others)
    assert all(r["ours"] is None for r in others)
    printed = capsys.readouterr()
    assert sum(line.startswith("PASS") for line in printed.out.splitlines()) == 35
    assert "35 PASS, 0 FAIL" in printed.err
    assert "6,738,415,616" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_alpaca_52k_has_the_published_figures(shared: Path) -> None:
    data = shared / "data"
    values = dict(ours.data(str(data / "alpaca_data.json"), str(data / "seed_tasks.jsonl")))
    rows = [ledger.judge(f, values[f.name]) for f in figures() if f.name.startswith("Alpaca-52k")]
    assert len(rows) == 8 and {r.status for r in rows} == {"PASS"}


def test_other_rows_fail_and_real_tokenizers_pass(shared: Path, tmp_path: Path) -> None:
    part = json.loads((shared / "data" / "alpaca_data.json").read_text())[:400]
    part.append(part[0])
    path = tmp_path / "part.json"
    path.write_text(json.dumps(part))
    config = LedgerConfig(llama_tokenizer=str(shared / "tokenizers" / "llama"), opt_tokenizer=str(shared / "tokenizers" / "opt"))  # fmt: skip
    values = dict(ours.data(str(path), None)) | dict(ours.tokens(str(path), config)) | dict(ours.steps(str(path)))
    found = statuses([ledger.judge(f, values[f.name]) for f in figures() if f.name in values])
    assert (
        found["first ids of the prompt, LLaMA tokenizer"] == found["first ids of the prompt, OPT tokenizer"] == "PASS"
    )
    assert found["Alpaca-52k, rows"] == found["Alpaca-52k, pairs with ROUGE-L F1 above 0.7"] == "FAIL"
    assert values["optimiser steps, stanford_alpaca_7b"] == 12  # 401 rows, 128 a step, 3 epochs
    assert 90 < values["mean tokens of an example, OPT tokenizer"] < values["mean tokens of an example, LLaMA tokenizer"] < 150  # fmt: skip


def test_a_tolerance_is_a_bound() -> None:
    figure = Figure("x", 35.1, "a paper", 1.0)
    assert [ledger.judge(figure, v).status for v in (36.1, 36.11, 34.1, None)] == ["PASS", "FAIL", "PASS", "NEEDS-DATA"]
    bound = Figure("y", 500, "a paper", at_most=True)
    assert [ledger.judge(bound, v).status for v in (1, 500, 501)] == ["PASS", "PASS", "FAIL"]


def finished(folder: Path, name: str, *overrides: str, losses: tuple[float, ...] = (1.0,), status: str = "completed") -> Path:  # fmt: skip
    folder.mkdir()
    config = recipes.pinned(name, *overrides)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(schema.to_plain(config))))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "loss": x}) + "\n" for i, x in enumerate(losses)))  # fmt: skip
    (folder / "result.json").write_text(json.dumps({"status": status, "seconds": 4000.0}))
    (folder / "environment.json").write_text(json.dumps({"gpus": ["NVIDIA A100-SXM4-80GB"] * 4}))
    return folder


def mmlu(folder: Path, accuracy: float, **settings: object) -> None:
    folder.mkdir(exist_ok=True)
    content = {"task": "mmlu", "split": "test", "num_fewshot": 5, "limit": None, **settings}
    (folder / "mmlu.json").write_text(json.dumps(content | {"figures": {"mmlu": {"accuracy": accuracy}}}))


def judged(folder: Path) -> dict[str, str]:
    values = dict(runs.read(str(folder)))
    return statuses([ledger.judge(f, values[f.name]) for f in figures() if f.name in values])


def test_a_finished_run_fills_its_rows(tmp_path: Path, capsys) -> None:
    good = finished(tmp_path / "a", "stanford_alpaca_7b", losses=(0.9, 0.572))
    loss, seconds = "stanford_alpaca_7b, train loss (mean of all steps)", "stanford_alpaca_7b, seconds on 4 A100-80G"
    assert judged(good) == {loss: "PASS", seconds: "PASS"}
    assert judged(finished(tmp_path / "b", "stanford_alpaca_7b", losses=(0.9, 0.9)))[loss] == "FAIL"
    assert judged(finished(tmp_path / "c", "stanford_alpaca_7b", "trainer.learning_rate=1e-5")) == {}
    assert "differs in learning rate" in capsys.readouterr().err
    with pytest.raises(UserError, match="not completed \\(failed\\)"):
        judged(finished(tmp_path / "d", "stanford_alpaca_7b", status="failed"))


def test_mmlu_of_runs_and_models_fills_its_rows(tmp_path: Path) -> None:
    run = finished(tmp_path / "nf4", "qlora_alpaca_13b")
    mmlu(run / "evaluations", 0.477)
    start = "MMLU 5-shot, test split, "
    assert judged(run) == {start + "Alpaca QLoRA 13B": "PASS", start + "Alpaca NF4+DQ 13B": "PASS"}
    kept = finished(tmp_path / "bf16", "qlora_alpaca_13b", "method.quantize=null")
    mmlu(kept / "evaluations", 0.3)
    assert judged(kept) == {start + "Alpaca BF16 13B": "FAIL"}
    mmlu(kept / "evaluations", 0.472, split="validation")
    assert judged(kept) == {}
    model = tmp_path / "model"
    mmlu(model, 0.352, model="anything", parameters=6_738_415_616)
    (model / "mmlu.json").rename(model / "evaluation.json")
    assert judged(model) == {start + "LLaMA 7B untuned": "PASS"}


def test_votes_of_people_fill_the_human_comparison(tmp_path: Path, capsys) -> None:
    run, other = finished(tmp_path / "a", "stanford_alpaca_7b"), finished(tmp_path / "b", "alpaca_lora_original")
    folder = tmp_path / "votes"
    folder.mkdir()

    def rows(wins: int, losses: int, run: Path = run, versus: str = "text-davinci-003.jsonl") -> list[str]:
        content = {"task": "votes", "run": str(run), "versus": versus, "figures": {"wins": wins, "losses": losses}}
        (folder / "evaluation.json").write_text(json.dumps(content))
        return list(judged(folder).values())

    assert rows(90, 89) == ["PASS"] and rows(60, 119) == ["FAIL"]
    assert rows(50, 50) == rows(90, 89, other) == rows(90, 89, versus="others.jsonl") == []
    assert capsys.readouterr().err.count("the votes fill no row") == 3


def test_recipe_diff_names_every_aspect(tmp_path: Path, capsys) -> None:
    base = "experiment=stanford_alpaca_7b"
    config = recipes.composed(base, "loss_on=all", "prompt=qlora", "data.limit=10", "method.lora.r=4", "method=lora")
    found = {d.aspect: (d.published, d.here) for d in recipes.differences(config, "stanford_alpaca_7b")}
    assert found["loss on"] == ("response", "all") and found["weights trained"] == ("all", "lora")
    assert set(found) == {"loss on", "weights trained", "LoRA", "prompt with input", "prompt without input", "rows"}
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(schema.to_plain(config))))
    recipes.recipe_diff(load({"task": "recipe_diff", "config": str(path)}), tmp_path / "diff")
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("differs") for line in lines) == 6
    assert (
        next(line for line in lines if "without input" in line)
        .split("at ")[1]
        .startswith("152: …'\\n\\n### Response:'")
    )
    assert json.loads((tmp_path / "diff" / "evaluation.json").read_text())["recipe"] == "stanford_alpaca_7b"


def test_bad_input_is_a_line(tmp_path: Path) -> None:
    done = run_python("evaluate.py", "task=recipe_diff", "recipe=stanford_alpaca_8b", "ledger.runs=[nowhere]", code=2)
    assert "did you mean 'stanford_alpaca_7b'?" in done.stderr and "ledger.runs=nowhere is not there" in done.stderr
    assert "config is missing" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(UserError, match="is not there: give a run folder"):
        recipes.read_config("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run folder"):
        dict(runs.read(str(tmp_path / "empty")))
