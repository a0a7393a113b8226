"""Fixtures that several test modules share."""

import gc
import json
import os
import sys
from pathlib import Path

import pytest

workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
if workers > 1:  # a thread that waits for another spins: with more threads than processors all tests crawl
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

from tests.commands import compose  # noqa: E402
from tests.tiny import TINY_ROWS  # noqa: E402

frozen = 0
"""How many modules were there when what exists was last left out of the search for garbage."""


def pytest_runtest_teardown() -> None:
    """What the libraries made as they were read stays: to search it costs half a second, every time."""
    global frozen
    if len(sys.modules) > frozen + 200:
        frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and tokenizers that are not part of the project ($ALPACA_SHARED, else ../shared); skips without them."""
    folder = Path(os.environ.get("ALPACA_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "data" / "alpaca_data.json").is_file():
        pytest.skip(f"no real data in {folder}: set ALPACA_SHARED to a folder with data/ and tokenizers/")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level BPE tokenizer of 400 tokens: <pad> 0, <s> 1 in front, </s> 2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [
        "### Instruction:\n\n  Name three primary colours.\n\n",
        '### Response:"The colours are red, blue and yellow."',
    ]
    backend.train_from_iterator(text * 5, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def tiny_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows (`tiny.TINY_ROWS`) that `tiny_run` and `tiny_lora_run` know by heart, as a JSONL file."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in TINY_ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run folder of a small LLaMA (fp32, full tuning, prompt alpaca_short) that recites `tiny_rows`."""
    from alpaca.launch import launch

    folder = tmp_path_factory.mktemp("tiny") / "run"
    config = compose(
        "model.vocab_size=400",
        "model.architecture.hidden_size=128",
        "model.architecture.num_attention_heads=4",
        "model.architecture.num_key_value_heads=4",
        "model.architecture.num_hidden_layers=2",
        "model.architecture.intermediate_size=256",
        "data=custom",
        f"data.path={tiny_rows}",
        f"data.cache={folder.parent / 'cache'}",
        "prompt=alpaca_short",
        "batch.global_size=16",
        "batch.per_device=16",
        "trainer.num_train_epochs=120",
        "trainer.learning_rate=3e-3",
        "trainer.save_strategy=no",
        "rehearse_save=false",
        "check_saved=false",
    )
    launch(config, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_lora_run(tiny_run: Path, tiny_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run folder of a LoRA on `tiny_run`'s model: it says the words of each answer backwards."""
    from alpaca.launch import launch

    folder = tmp_path_factory.mktemp("tiny_lora") / "run"
    rows = folder.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps(r | {"output": " ".join(r["output"].split()[::-1])}) + "\n" for r in TINY_ROWS))
    config = compose(
        "model=hub",
        f"model.path={tiny_run / 'model'}",
        "method=lora",
        "method.lora.r=32",
        "method.lora.alpha=64",
        "method.lora.targets=all-linear",
        "method.lora.dropout=0",
        "data=custom",
        f"data.path={rows}",
        f"data.cache={folder.parent / 'cache'}",
        "prompt=alpaca_short",
        "batch.global_size=16",
        "batch.per_device=16",
        "trainer.num_train_epochs=120",
        "trainer.learning_rate=3e-3",
        "trainer.save_strategy=no",
        "rehearse_save=false",
        "check_saved=false",
    )
    launch(config, folder)
    return folder
