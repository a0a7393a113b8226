"""Composition of every YAML, and every kind of bad override: one clear message, all faults at once."""

import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from alpaca import cli, config, trainer_arguments
from alpaca.errors import UserError
from tests.commands import compose

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ("model", "method", "strategy", "data", "prompt", "tracker", "experiment")
FILES = [
    (g, p.stem if p.suffix == ".yaml" else p.name) for g in GROUPS for p in sorted((ROOT / "conf" / g).glob("*.yaml"))
]
NEEDS = {("model", "hub"): ["model.path=some/model"], ("data", "custom"): ["data.path=rows.jsonl"]}


@pytest.mark.parametrize(("group", "name"), FILES, ids=[f"{g}={n}" for g, n in FILES])
def test_every_yaml_composes_and_validates(group: str, name: str) -> None:
    extra = NEEDS.get((group, name), [])
    if name == "opt175b":
        with pytest.raises(UserError, match="only dimensions"):
            compose(f"{group}={name}")
        assert compose(f"{group}={name}", "dry_run=true").model.architecture["hidden_size"] == 12288
        return
    loaded = compose(f"{group}={name}", *extra)
    if group != "experiment":
        assert getattr(loaded, group).name == name


@pytest.mark.parametrize(("group", "name"), FILES, ids=[f"{g}={n}" for g, n in FILES])
def test_every_yaml_opens_with_the_command_that_uses_it(group: str, name: str) -> None:
    lines = (ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith(f"# python train.py {group}={name}") for line in lines[:2])


def test_a_method_names_its_strategy_and_the_command_line_can_give_another() -> None:
    assert compose("method=full_fsdp").strategy.name == "fsdp"
    assert compose("method=full_fsdp", "strategy=single").strategy.name == "single"
    assert compose("experiment=stanford_alpaca_7b").strategy.name == "fsdp"
    assert compose("experiment=stanford_alpaca_7b", "method=lora").method.name == "lora"


RECIPES = {
    # name: model, method, prompt, learning rate, schedule, warm-up, epochs or steps, global batch, max length, loss on
    "stanford_alpaca_7b": ("llama7b", "full_fsdp", "alpaca", 2e-5, "cosine", 0.03, 3, 128, 512, "response"),
    "stanford_alpaca_13b": ("llama13b", "full_fsdp", "alpaca", 1e-5, "cosine", 0.03, 5, 128, 512, "response"),
    "stanford_alpaca_opt6.7b": ("opt6.7b", "full_fsdp", "alpaca", 2e-5, "cosine", 0.03, 3, 128, 512, "response"),
    "alpaca_lora_original": ("llama7b", "lora8bit", "alpaca_lora", 3e-4, "linear", 100, 3, 128, 256, "all"),
    "alpaca_lora_official": ("llama7b", "lora8bit", "alpaca_lora", 3e-4, "linear", 100, 10, 128, 512, "all"),
    "qlora_alpaca_7b": ("llama7b", "qlora", "qlora", 2e-4, "constant", 0, 10000, 16, None, "response"),
    "qlora_alpaca_13b": ("llama13b", "qlora", "qlora", 2e-4, "constant", 0, 10000, 16, None, "response"),
    "qlora_alpaca_33b": ("llama30b", "qlora", "qlora", 1e-4, "constant", 0, 5000, 32, None, "response"),
    "qlora_alpaca_65b": ("llama65b", "qlora", "qlora", 1e-4, "constant", 0, 2500, 64, None, "response"),
}


def test_every_experiment_has_a_row_in_the_recipe_table() -> None:
    assert set(RECIPES) == {n for g, n in FILES if g == "experiment"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_published_ones(name: str) -> None:
    model, method, prompt, rate, schedule, warmup, length, size, limit, loss_on = RECIPES[name]
    c = compose(f"experiment={name}")
    trainer = trainer_arguments.converted(c.trainer)
    assert (c.model.name, c.method.name, c.prompt.name, c.loss_on) == (model, method, prompt, loss_on)
    assert (trainer["learning_rate"], trainer["lr_scheduler_type"], trainer["warmup_steps"]) == (rate, schedule, warmup)
    assert trainer.get("max_steps", trainer["num_train_epochs"]) == length
    assert c.batch.global_size == size
    if limit:
        assert c.max_length == limit and c.source_max_length is None
    else:
        assert (c.source_max_length, c.target_max_length) == (384, 128)
    if name.startswith("stanford"):
        assert c.loss_average == "microbatch" and c.batch.per_device == 4 and c.data.validation is None
    if name.startswith("alpaca_lora"):
        assert c.data.validation == 2000 and c.seed == 42 and c.method.quantize.bits == 8
        assert c.batch.per_device == (4 if name.endswith("original") else 8)
        assert c.method.lora.r == (8 if name.endswith("original") else 16) and c.method.lora.alpha == 16
    if name.startswith("qlora"):
        assert (c.method.lora.r, c.method.lora.alpha, c.method.lora.targets) == (64, 16, "all-linear")
        assert c.method.lora.dropout == (0.1 if name.endswith(("7b", "13b")) else 0.05)
        assert trainer["max_grad_norm"] == 0.3 and trainer["adam_beta2"] == 0.999
        assert trainer["optim"] == "paged_adamw_32bit" and c.method.quantize.double


BAD_OVERRIDES = [
    ("sed=1", "did you mean 'seed'"),
    ("learning_rate=1e-4", "did you mean 'trainer.learning_rate'"),
    ("lora.r=8", "did you mean 'method.lora.r'"),
    ("model=llama7c", "did you mean 'llama7b'"),
    ("model=llama", "allowed: hub, llama13b"),
    ("method=lora4bit", "did you mean 'lora8bit'"),
    ("data=alpaca", "did you mean 'alpaca52k'"),
    ("prompt=alpca", "did you mean 'alpaca'"),
    ("tracker=wandbb", "did you mean 'wandb'"),
    ("strategy=fsdp2", "did you mean 'fsdp'"),
    ("experiment=stanford", "did you mean"),
    ("seed=abc", "a whole number"),
    ("seed=1.5", "a whole number"),
    ("seed=-1", "0 to 4294967295"),
    ("seed=null", "a whole number"),
    ("loss_on=answer", "response|all"),
    ("loss_average=tokens", "did you mean 'token'"),
    ("over_length=cut", "truncate|drop|error"),
    ("precision=bf32", "auto|bf16|fp16|fp32"),
    ("precision=16", "auto|bf16|fp16|fp32"),
    ("max_length=long", "a whole number"),
    ("max_length=0", "1 or more"),
    ("max_length=-5", "1 or more"),
    ("dry_run=maybe", "true|false"),
    ("dry_run=1", "true|false"),
    ("resume=[1]", "a text"),
    ("batch.global_size=0", "1 or more"),
    ("batch.global_size=many", "a whole number"),
    ("batch.per_device=-1", "1 or more"),
    ("batch.perdevice=1", "did you mean 'batch.per_device'"),
    ("batch=8", "a mapping"),
    ("launch.processes=0", "1 or more"),
    ("launch.processes=all", "auto"),
    ("launch.nodes=0", "1 or more"),
    ("data.validation=-1", "a fraction below 1"),
    ("data.validation=1.5", "a fraction below 1"),
    ("data.validation=some", "a number"),
    ("data.limit=0", "1 or more"),
    ("data.limit=1.5", "a whole number"),
    ("data.on_bad_row=ignore", "error|skip"),
    ("data.empty_output=remove", "keep|drop"),
    ("data.columns.output=null", "a text"),
    ("data.columns.question=q", "allowed: instruction, input, output"),
    ("data.shuffle_seed=-3", "0 or more"),
    ("data=custom", "data.path=FILE"),
    ("model=hub", "model.path=DIR_OR_HUB_ID"),
    ("model.path=''", "model.path is empty"),
    ("model.attention=flash", "flash_attention_2"),
    ("model.trust_remote_code=yes please", "true|false"),
    ("model.vocab_size=0", "1 or more"),
    ("model.sise=3", "allowed: name, path"),
    ("method.lora.r=8", "use method=lora"),
    ("method=lora method.lora.r=0", "1 or more"),
    ("method=lora method.lora.r=-4", "1 or more"),
    ("method=lora method.lora.r=eight", "a whole number"),
    ("method=lora method.lora.alpha=0", "above 0"),
    ("method=lora method.lora.dropout=1", "below 1"),
    ("method=lora method.lora.dropout=-0.1", "below 1"),
    ("method=lora method.lora.targets=[]", "all-linear"),
    ("method=lora method.lora.targets=q_proj", "a list such as"),
    ("method=lora method.lora.targets=5", "a list such as"),
    ("method=lora method.lora.rank=8", "allowed: r, alpha"),
    ("method=lora method.lora=null", "method.lora is missing"),
    ("method=qlora method.quantize.bits=3", "4|8"),
    ("method=qlora method.quantize.type=int4", "nf4|fp4"),
    ("method=qlora method.quantize.compute_dtype=bf16", "did you mean 'bfloat16'"),
    ("method=qlora strategy=deepspeed", "cannot shard a quantised base"),
    ("method=lora strategy=device_map launch.processes=2", "launch.processes=1"),
    ("source_max_length=384", "go together"),
    ("prompt=chat source_max_length=384 target_max_length=128", "goes with max_length"),
    ("prompt.with_input=hello", "lacks {instruction} and {input}"),
    ("prompt.without_input=hello", "lacks {instruction}"),
    ("tracker.projct=a", "did you mean 'tracker.project'"),
    ("trainer.learning_rte=1", "did you mean 'trainer.learning_rate'"),
    ("trainer.learning_rate=fast", "a number"),
    ("trainer.learning_rate=-1", "0 or more"),
    ("trainer.learning_rate=nan", "0 or more"),
    ("trainer.num_train_epochs=-1", "0 or more"),
    ("trainer.warmup_ratio=0.03", "did you mean 'trainer.warmup_steps'"),
    ("trainer.group_by_length=true", "train_sampling_strategy"),
    ("trainer.lr_scheduler_type=cosin", "did you mean 'cosine'"),
    ("trainer.optim=adam", "adamw_torch"),
    ("trainer.save_total_limit=0", "1 or more"),
    ("trainer.output_dir=x", "hydra.run.dir=DIR"),
    ("trainer.gradient_accumulation_steps=4", "batch.global_size"),
    ("trainer.per_device_train_batch_size=4", "batch.per_device"),
    ("trainer.seed=1", "use seed"),
    ("trainer.bf16=true", "precision="),
    ("trainer.fsdp=full_shard", "strategy=fsdp"),
    ("trainer.report_to=wandb", "tracker="),
    ("trainer.load_best_model_at_end=true", "cannot be set"),
    ("trainer.hub_token=abc", "cannot be set"),
    ("trainer.max_steps=ten", "a whole number"),
    ("trainer.gradient_checkpointing=perhaps", "true|false"),
    ("train.py", "not an override"),
    ("seed", "not an override"),
    ("data.path=a=b,c={", "cannot be read"),
    ("prompt.stop=END", "a list of a text"),
    ("+modle=llama7b", "did you mean 'model'"),
    ("+foo=1", "unknown key 'foo'"),
]


def run_checks(words: list[str]) -> str:
    """What a user would be told, from the check of the words or from the composed config."""
    with pytest.raises(UserError) as told:
        cli.check_overrides(words, config.TrainConfig)
        compose(*words)
    return str(told.value)


@pytest.mark.parametrize(("line", "expected"), BAD_OVERRIDES, ids=[b for b, _ in BAD_OVERRIDES])
def test_bad_overrides_say_what_is_wrong_and_what_is_allowed(line: str, expected: str) -> None:
    words = [line] if line.startswith("model.trust") or "=" not in line else line.split(" ")
    message = run_checks(words)
    assert expected in message
    assert "Traceback" not in message and len(message.splitlines()) <= 4


def test_all_faults_are_told_at_once() -> None:
    message = run_checks(["sed=1", "model=llama7c", "trainer.learning_rte=1", "batch.per_device=x"])
    assert message.startswith("4 faults") and len(message.splitlines()) == 5


def test_faults_of_a_yaml_are_told_at_once_too() -> None:
    data = OmegaConf.to_container(cli_compose("model=llama7b"), resolve=True)
    data["model"]["nmae"] = "x"
    data["seed"] = "abc"
    data["batch"] = 3
    with pytest.raises(UserError) as told:
        config.load(data)
    message = str(told.value)
    assert "'model.nmae'; did you mean 'model.name'" in message and "seed=abc" in message and "batch=3" in message


def cli_compose(*overrides: str):
    cli.register("train", config.TrainConfig)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(cli.CONF)):
        return hydra.compose("train", list(overrides))


GOOD_OVERRIDES = [
    "trainer.learning_rate=1e-4",
    "trainer.eval_strategy=no",
    "trainer.save_strategy=epoch",
    "trainer.warmup_steps=10",
    "trainer.gradient_checkpointing=true",
    "trainer.lr_scheduler_kwargs={min_lr: 0.1}",
    "data.validation=0.05",
    "data.validation=2000",
    "data.validation=null",
    "launch.processes=4",
    "method=lora method.lora.targets=[q_proj,v_proj,k_proj]",
    "method=lora method.lora.targets=all-linear",
    "model=hub model.path=/some/where",
]


@pytest.mark.parametrize("line", GOOD_OVERRIDES)
def test_good_overrides_pass(line: str) -> None:
    words = [line] if "{" in line else line.split(" ")
    cli.check_overrides(words, config.TrainConfig)
    compose(*words)


def test_sweeps_are_checked_element_by_element() -> None:
    cli.check_overrides(["method=lora", "method.lora.r=4,8,16", "trainer.learning_rate=1e-4,3e-4"], config.TrainConfig)
    with pytest.raises(UserError, match="method.lora.r=x"):
        cli.check_overrides(["-m", "method.lora.r=4,x,16"], config.TrainConfig)


HEAVY = ("torch", "transformers", "peft", "datasets", "numpy", "pyarrow", "matplotlib", "wandb")


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["seed=abc"], ["model=nope"]])
def test_nothing_heavy_is_imported_to_help_compose_or_refuse(arguments: list[str]) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['train.py', *{arguments!r}]\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_bad_override_ends_with_code_2_and_no_traceback() -> None:
    done = subprocess.run([sys.executable, "train.py", "sed=1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: unknown key 'sed'") and len(done.stderr.splitlines()) == 1
