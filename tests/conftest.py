"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest


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
