"""From a command line to one function: check the overrides, let Hydra compose, validate, report errors as one line.

Every entrypoint is `@entrypoint(...)` around a function that takes its dataclass. Nothing heavy is imported here.
"""

import dataclasses
import functools
import gc
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

try:
    import hydra
except ModuleNotFoundError:  # the first of the packages that an entrypoint needs
    print(
        f"error: Hydra is not installed for {sys.executable}: use the project's environment (. .venv/bin/activate; make "
        ".venv/installed makes it), or pip install -r requirements.txt",
        file=sys.stderr,
    )
    sys.exit(2)
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString, Sweep
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alpaca import config as config_module
from alpaca import schema, sweep_words, trainer_arguments
from alpaca.errors import Interrupted, UserError, WorkerFailed, is_write_error

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
_STARTED = time.strftime("%Y-%m-%d/%H-%M-%S") + f"-{time.time_ns() // 1000 % 1_000_000:06d}-{os.getpid()}"


def evaluation_folder(*, _root_: Any) -> str:
    """outputs/ and the time; of a comparison, what is compared, so that the same command again finds its verdicts."""
    if _root_.get("task") != "judge":
        return f"outputs/{_STARTED}"
    keys = ("run", "model", "adapter", "predictions", "versus", "data.path")
    given = {k: str(v) for k in keys if (v := OmegaConf.select(_root_, k)) is not None}
    names = [
        re.sub(r"\W+", "-", Path(given[k]).stem)
        for k in ("run", "predictions", "adapter", "model", "versus")
        if k in given
    ]
    key = hashlib.sha256(repr([(k, os.path.abspath(v)) for k, v in given.items()]).encode()).hexdigest()[:8]
    return f"outputs/judge/{'-'.join(n[:30] for n in names)}-{key}"


def _register_resolvers() -> None:
    """What conf/ uses besides values; at import, so that a worker that only unpickles a job has them too."""
    OmegaConf.register_new_resolver("run_stamp", lambda: _STARTED, replace=True)
    OmegaConf.register_new_resolver("evaluation_folder", evaluation_folder, replace=True)
    OmegaConf.register_new_resolver("job_name", sweep_words.job_name, replace=True)
    OmegaConf.register_new_resolver("package_file", lambda p: str(Path(__file__).parent / p), replace=True)


_register_resolvers()


def entrypoint(
    name: str, root: type, load: Callable[[Any], Any], *, folder: Path = CONF, texts: tuple[str, ...] = ()
) -> Callable[[Callable[[Any, Path], None]], Callable[[], None]]:
    """Wrap `function(config, run_dir)`: `folder`/`name`.yaml is composed over the defaults of the dataclass `root`.

    Values of the keys in `texts` are taken as they stand, whatever signs they hold: no quotes for Hydra are needed.
    """

    def wrap(function: Callable[[Any, Path], None]) -> Callable[[], None]:
        register(name, root)
        script = str(Path(sys.modules[function.__module__].__file__ or "").absolute())

        @functools.wraps(function)
        def task(composed: Any) -> None:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                from alpaca import multirun

                multirun.run_job(script, output_dir(), list(HydraConfig.get().overrides.task), resolved(composed))
                return
            with_errors(lambda: function(load(resolved(composed)), output_dir()))

        @functools.wraps(function)
        def main() -> None:
            if sys.argv[1:2] == ["--job"]:
                from alpaca import multirun

                place = Path(sys.argv[2])
                with_errors(lambda: multirun.run_here(lambda data, path: function(load(data), path), place))
                return
            gc.freeze()  # what Hydra's import made stays: neither composing nor the end of the process searches it
            try:
                command()
            except KeyboardInterrupt:  # before anything has begun
                fail("stopped by Ctrl-C", 130)

        def command() -> None:
            sys.argv[1:] = [quote(argument, texts) for argument in sys.argv[1:]]
            sweep = sweep_folder()
            with_errors(lambda: check_overrides(sys.argv[1:], root, folder))
            if {"--help", "-h"} & set(sys.argv[1:]):
                print_help(name, folder, sys.modules[function.__module__].__doc__ or "")
                return
            run = hydra.main(version_base="1.3", config_path=str(folder), config_name=name)(task)
            if sweep is None:
                with_errors(lambda: run_one(run))
            else:
                run_sweep(run, sweep)

        return main

    return wrap


def run_one(run: Callable[[], Any]) -> None:
    """Compose and run. An output folder that Hydra cannot make is the user's to mend."""
    try:
        run()
    except KeyboardInterrupt:
        raise Interrupted("stopped by Ctrl-C") from None
    except OSError as error:
        if error.filename is None or not is_write_error(error):
            raise
        raise UserError(f"{error.filename} cannot be written ({error.strerror}): hydra.run.dir=DIR") from error


def resolved(composed: Any) -> Any:
    """The composed config as plain data. Raises UserError for an interpolation that leads nowhere."""
    try:
        return OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}: write the value itself") from None


def sweep_folder() -> Path | None:
    """Make the arguments of many jobs ready for Hydra; the folder of their sweep, or None for a single run."""
    found: list[Path | None] = [None]

    def prepare() -> None:
        sys.argv[1:], found[0] = sweep_words.prepare(sys.argv[1:], _STARTED, fixed_keys(sys.argv[1:]))

    with_errors(prepare)
    if {"--cfg", "-c", "--info", "-i", "--hydra-help"} & set(sys.argv[1:]):
        return None
    return found[0]


def fixed_keys(arguments: list[str]) -> list[str]:
    """Keys of the overrides that have one value in every job of a sweep."""
    parser = OverridesParser.create()
    keys = []
    for word in _overrides(arguments):
        try:
            override = parser.parse_override(word)
        except Exception:  # told by check_overrides
            continue
        if not override.is_sweep_override():
            keys.append(override.key_or_group)
    return keys


def run_sweep(run: Callable[[], Any], folder: Path) -> NoReturn:
    """Run every job and summarise, also after Ctrl-C. The exit code is 0 only when all jobs completed."""
    code = 0
    try:
        run()
    except KeyboardInterrupt:
        code = 130
    from alpaca import summary

    if not folder.is_dir():
        raise SystemExit(code)
    raise SystemExit(summary.conclude(folder) and (code or 1))


def quote(argument: str, texts: tuple[str, ...]) -> str:
    """`key=any text` as an override that Hydra reads as exactly that text, for the keys in `texts`."""
    key, equals, value = argument.partition("=")
    if key not in texts or not equals or value == "null":
        return argument
    value = re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", value)  # no interpolation
    value = re.sub(r'(\\*)"', lambda m: m[1] * 2 + '\\"', value)
    value = re.sub(r"(\\+)\Z", lambda m: m[1] * 2, value)
    return f'{key}="{value}"'


def register(name: str, root: type) -> None:
    """Offer the dataclass's defaults to Hydra as `schema_<name>`."""
    store = ConfigStore.instance()
    store.store(name=f"schema_{name}", node=_defaults(root))
    defaults = store.repo[f"schema_{name}.yaml"].node
    for key, kind in schema.fields(root).items():
        if kind == dict[str, Any] or dataclasses.is_dataclass(kind):
            OmegaConf.set_struct(defaults[key], False)  # trainer.anything=… needs no plus: names are checked here


def _defaults(root: type) -> dict[str, Any]:
    """The defaults of a dataclass tree; a field without one is left out, so that a YAML must give it."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(root):
        kind = schema.fields(root)[field.name]
        if dataclasses.is_dataclass(kind):
            result[field.name] = _defaults(kind)  # type: ignore[arg-type]
        elif field.default is not dataclasses.MISSING:
            result[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            result[field.name] = schema.to_plain(field.default_factory())
        else:
            result[field.name] = "???"
    return result


def output_dir() -> Path:
    """The run folder that Hydra gave this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def with_errors(work: Callable[[], None]) -> None:
    """Run `work`; a user error becomes one message and exit code 2, an interruption its own code, a lost worker 1."""
    try:
        work()
    except UserError as error:
        fail(str(error), 2)
    except Interrupted as stop:
        fail(str(stop), stop.code)
    except WorkerFailed as failure:
        fail(str(failure), 1)


def fail(message: str, code: int) -> NoReturn:
    """Print to stderr and leave; after a pipe was closed there is nobody to print to."""
    prefix = "error: " if code == 2 else ""
    print(prefix + message, file=sys.stderr, flush=True)
    raise SystemExit(code)


def check_overrides(arguments: list[str], root: type, folder: Path = CONF) -> None:
    """Every fault in the overrides on the command line, before Hydra reads them. Raises UserError."""
    faults: list[str] = []
    words = _overrides(arguments)
    parser = OverridesParser.create()
    for word in words:
        try:
            override = parser.parse_override(word)
        except Exception as error:
            faults.append(_unreadable(word, error))
            continue
        faults += _check(override, root, folder)
    config_module.raise_all(faults)


def _overrides(arguments: list[str]) -> list[str]:
    """The arguments that are overrides: not flags, nor the value that follows one."""
    with_value = {
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--config-dir",
        "-cd",
        "--package",
        "-p",
        "--cfg",
        "-c",
    }
    with_value |= {"--info", "-i", "--experimental-rerun"}
    result, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in with_value:
            skip = argument not in ("--info", "-i")
        elif not argument.startswith("-"):
            result.append(argument)
    return (
        [] if any(a in with_value - {"--cfg", "-c", "--package", "-p", "--info", "-i"} for a in arguments) else result
    )


def _unreadable(word: str, error: Exception) -> str:
    if "=" not in word and not word.startswith("~"):
        return f"{word!r} is not an override: write key=value (see --help)"
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{word!r} cannot be read ({first}): put a value with spaces or signs in quotes, such as 'key=\"a, b\"'"


def _check(override: Override, root: type, folder: Path) -> list[str]:
    key = override.key_or_group
    if key.split(".")[0].split("/")[0] == "hydra":
        return []
    if override.is_delete():
        known = (folder / key).is_dir() or key in schema.keys(root) or key.startswith("trainer.")
        return [] if known else [_unknown(key, root)]
    values = _values(override)
    if (folder / key).is_dir():
        return [fault for value in values for fault in _check_choice(folder, key, value)]
    path = key.split(".")
    if path[0] == "trainer" and len(path) > 1 and "trainer" in schema.fields(root):
        return [f for value in values for f in _check_trainer(path, value)]
    try:
        kind = schema.type_at(root, path)
    except (KeyError, IndexError):
        return [_unknown(key, root)]
    faults: list[str] = []
    for value in values:
        if not (isinstance(value, str) and "${" in value):
            _check_value(value, kind, key, faults)
    return faults


def _check_trainer(path: list[str], value: Any) -> list[str]:
    """`trainer.name=value`, or a key inside a field that is a mapping."""
    if len(path) == 2 or path[1] not in trainer_arguments.known():
        return trainer_arguments.problem(path[1], value)
    if schema.takes_mapping(trainer_arguments.known()[path[1]]):
        return []
    return [f"unknown key {'.'.join(path)!r}: trainer.{path[1]} holds one value"]


def _check_value(value: Any, kind: Any, key: str, faults: list[str]) -> None:
    """A mapping given on the command line is merged into what the files hold, so its missing keys are no fault."""
    own: list[str] = []
    schema.convert(value, kind, key, own)
    faults += [f for f in own if not (isinstance(value, dict) and " is missing:" in f)]


def _values(override: Override) -> list[Any]:
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return [_plain(v) for v in value.list]
    if isinstance(value, Sweep):
        return []
    return [_plain(value)]


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def _check_choice(folder: Path, group: str, value: Any) -> list[str]:
    if value is None and group == "experiment":
        return []
    if isinstance(value, list):
        return [fault for v in value for fault in _check_choice(folder, group, v)]
    allowed = _choices(folder / group)
    name = str(value).removesuffix(".yaml")
    if name in allowed:
        return []
    return [f"{group}={schema.show(value)} is not there{schema.nearest(name, allowed)} (allowed: {', '.join(allowed)})"]


def _choices(group: Path) -> list[str]:
    return sorted(p.relative_to(group).as_posix().removesuffix(".yaml") for p in group.rglob("*.yaml"))


def _unknown(key: str, root: type) -> str:
    allowed = schema.keys(root)
    trainer = [f"trainer.{k}" for k in trainer_arguments.known()] if "trainer" in allowed else []
    hint = schema.nearest(key, allowed + trainer)
    parent = key.rpartition(".")[0]
    siblings = [a.rpartition(".")[2] for a in allowed if a.rpartition(".")[0] == parent]
    if not siblings:
        siblings = list(schema.fields(root))
    return f"unknown key {key!r}{hint} (allowed: {', '.join(siblings)})"


def print_help(name: str, folder: Path, about: str) -> None:
    """The choices of every group and the composed config. Hydra's own page takes twice the time."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(folder)):
        composed = hydra.compose(name, _overrides(sys.argv[1:]))
    named = {*composed, "experiment"}
    groups = {g.name: _choices(g) for g in sorted(folder.iterdir()) if g.is_dir() and g.name in named}
    print(about.strip())
    if groups:
        print("\nChoices (group=name):")
    for group, choices in groups.items():
        print(f"  {group:<11} {' | '.join(choices)}")
    print("\nSettings (key=value):")
    print("\n".join("  " + line for line in OmegaConf.to_yaml(composed, resolve=False).splitlines()))
    print(
        "\nFlags: -m (every combination of comma-separated values; sweep.resume=DIR runs what is missing), --cfg job (print the config), --hydra-help."
    )
