"""What several test modules need: composing a config as train.py does."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from alpaca import cli
from alpaca.config import TrainConfig, load


def compose(*overrides: str) -> TrainConfig:
    """The validated config of a command line."""
    cli.register("train", TrainConfig)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(cli.CONF)):
        composed = hydra.compose("train", list(overrides))
    return load(OmegaConf.to_container(composed, resolve=True))


ROOT = Path(__file__).resolve().parent.parent


def run_python(*words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an entrypoint as a user would, and check its exit code."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, env=os.environ | environment, timeout=500
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done


def readme_commands(heading: str) -> list[list[str]]:
    """The commands of a section of README.md, split as a shell does, without their comments."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert section, f"README.md has no section {heading!r}"
    return [shlex.split(line, comments=True) for line in section.splitlines() if line.startswith("    ")]


def write_tiny_model(family: str, tokenizer: Path, folder: Path) -> Path:
    """A two-layer model with random weights for a tokenizer that is already there."""
    import torch
    import transformers

    torch.manual_seed(0)
    loaded = transformers.AutoTokenizer.from_pretrained(tokenizer)
    sizes = {"vocab_size": len(loaded), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "llama":
        config = transformers.LlamaConfig(**sizes, intermediate_size=64, max_position_embeddings=512)
    else:
        config = transformers.OPTConfig(**sizes, word_embed_proj_dim=32, ffn_dim=64, max_position_embeddings=512)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    loaded.save_pretrained(folder)
    return folder


_WORDS = ["red", "blue", "gold", "pink", "grey", "teal", "plum", "lime"]

TINY_ROWS = [
    {
        "instruction": f"Say word {i}.",
        "input": "loudly" if i % 3 == 0 else "",
        "output": f"{_WORDS[i % 8]} {_WORDS[(3 * i + 1) % 8]} {i}",
    }
    for i in range(15)
] + [{"instruction": "Count to sixty.", "input": "", "output": " ".join(str(i) for i in range(1, 61))}]
"""What `tiny_run` learns: fifteen short answers and a long one, of 107 tokens."""
