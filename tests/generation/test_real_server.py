"""A server from the registry with a model that knows nothing: whatever it says is handled."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests import forks
from tests.generation.conftest import ROOT, SHARED, rows_of


@pytest.mark.slow
def test_rubbish_of_a_real_model_is_recorded_and_the_run_ends(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    if not (SHARED / "tokenizers" / "llama").exists():
        pytest.skip(f"{SHARED}/tokenizers is not there (ALPACA_SHARED names the folder)")
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "tokenizers" / "llama")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tiny = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **tiny)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{(port := free.getsockname()[1])}"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(tmp_path / "model")]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=env, stdout=log, stderr=log
        )
    try:
        wait(address + "/health", server)
        options = [f"teacher.base_url={address}/v1", f"teacher.model={tmp_path / 'model'}", "num_instructions=20"]
        options += [f"output={tmp_path / 'rows.jsonl'}", "teacher.max_tokens=60", "give_up_after=3", "report=false"]
        generate = [str(ROOT / "generate_data.py"), "teacher=local", "teacher.concurrency=2", *options]
        done = forks.run(generate, tmp_path, timeout=120)
    finally:
        server.kill()
        server.wait()
    assert done.returncode == 2 and "the last 3 replies gave no new row" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and rows_of(tmp_path / "rows.jsonl") == []
    assert {d["reason"] for d in rows_of(tmp_path / "rows.jsonl.dropped")} <= {"cut by length", "nothing readable"}


def wait(address: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail("the server did not start")
