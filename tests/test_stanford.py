"""The per-step losses of the Stanford recipe, against a plain reimplementation of its train.py on the same weights."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers

from tests.commands import run_python
from tests.tiny import write_tiny_model

STEPS, GLOBAL, PER_DEVICE = 8, 8, 4
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


class PlainTrainer(transformers.Trainer):
    """The Trainer with the loss of transformers before 4.46: mean of the micro-batch, then over the micro-batches."""

    def __init__(self, **keywords) -> None:
        super().__init__(**keywords)
        self.model_accepts_loss_kwargs = False
        self.seen: list[float] = []

    def log(self, logs, start_time=None) -> None:
        if "loss" in logs:
            self.seen.append(logs["loss"])


def reference_losses(folder: Path, rows: list[dict], scratch: Path) -> list[float]:
    """Rows tokenised one at a time, prompt masked by its own token count, padded per batch; full logits, plain AdamW."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="right", model_max_length=512)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight.data[-1] = layer.weight.data[:-1].mean(dim=0)

    def ids_of(text: str) -> torch.Tensor:
        return tokenizer(text, return_tensors="pt", max_length=512, truncation=True).input_ids[0]

    examples = []
    for row in rows:
        source = (WITH_INPUT if row["input"] else WITHOUT_INPUT).format_map(row)
        ids = ids_of(source + row["output"] + tokenizer.eos_token)
        labels = copy.deepcopy(ids)
        labels[: len(ids_of(source))] = -100
        examples.append({"input_ids": ids, "labels": labels})

    def collate(batch: list[dict]) -> dict:
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([b["input_ids"] for b in batch], batch_first=True, padding_value=tokenizer.pad_token_id)
        labels = pad([b["labels"] for b in batch], batch_first=True, padding_value=-100)
        return {"input_ids": ids, "labels": labels, "attention_mask": ids.ne(tokenizer.pad_token_id)}

    arguments = transformers.TrainingArguments(
        output_dir=str(scratch),
        max_steps=STEPS,
        per_device_train_batch_size=PER_DEVICE,
        gradient_accumulation_steps=GLOBAL // PER_DEVICE,
        learning_rate=2e-5,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        weight_decay=0.0,
        optim="adamw_torch",
        logging_steps=1,
        seed=42,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = PlainTrainer(model=model, args=arguments, train_dataset=examples, data_collator=collate)
    trainer.train()
    return trainer.seen


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_losses_equal_those_of_the_original_recipe(family: str, shared: Path, tmp_path: Path) -> None:
    rows = json.loads((shared / "data" / "alpaca_data.json").read_text(encoding="utf-8"))[: STEPS * GLOBAL]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    model = write_tiny_model(family, shared / "tokenizers" / family, tmp_path / "base")
    run = tmp_path / "run"
    run_python(
        "train.py",
        "experiment=stanford_alpaca_7b" if family == "llama" else "experiment=stanford_alpaca_opt6.7b",
        "model=hub",
        f"model.path={model}",
        "data=custom",
        f"data.path={data}",
        f"data.cache={tmp_path / 'cache'}",
        f"batch.global_size={GLOBAL}",
        f"batch.per_device={PER_DEVICE}",
        f"trainer.max_steps={STEPS}",
        "launch.processes=1",
        "check_saved=false",
        f"hydra.run.dir={run}",
    )
    ours = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    theirs = reference_losses(model, rows, tmp_path / "scratch")
    assert len(ours) == len(theirs) == STEPS
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert len(set(theirs)) == STEPS
