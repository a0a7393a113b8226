"""A model and rows that are small enough to train and to ask in seconds."""

from pathlib import Path


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
