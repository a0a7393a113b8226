"""Where a tokenizer's files are, and whether they are sound enough to load: a local folder, or a fetch from the hub.

Loads no tokenizer and executes nothing. No message repeats a key: what a library says about the hub is left out.
"""

import json
import re
import threading
from pathlib import Path
from typing import Any

from alpaca.errors import UserError

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
MODEL_FILE = "tokenizer.model"
JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
VOCABULARY_FILES = ("tokenizer.json", MODEL_FILE, "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
WAY_OUT = "give a folder with a tokenizer: model.tokenizer=DIR"
_HUB_FILES = [*JSON_FILES, *VOCABULARY_FILES, "config.json", "merges.txt", "*.tiktoken", "chat_template*", "*.jinja"]
_HUB_SECONDS = 15  # the most that is spent on finding out whether the hub answers


def tokenizer_folder(source: str, *, revision: str | None, with_code: bool) -> Path:
    """The local folder of `source`, a folder or a hub id; of the latter the tokenizer's files alone are fetched.

    `with_code` fetches Python files too. Raises `UserError` where there is neither a folder nor a repository within
    reach; without a network it looks into the cache and takes at most some 15 seconds.
    """
    if not source.strip():
        raise UserError(f"the tokenizer's name is empty; {WAY_OUT}")
    folder = Path(source).expanduser()
    try:
        if folder.exists():
            return folder
    except OSError as error:
        raise UserError(f"{_shown(source)} cannot be read ({error.strerror}); mend it, or {WAY_OUT}") from error
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source):
        raise UserError(f"{_shown(source)} is not there: looked for a folder with a tokenizer; {WAY_OUT}")
    return _fetch(source, revision, _HUB_FILES + (["*.py"] if with_code else []))


def read_settings(folder: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` and `special_tokens_map.json` say, of a folder that can hold a tokenizer.

    Raises `UserError` where a file is unreadable, no JSON object, or there is no vocabulary at all.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: a tokenizer is loaded from its folder; {WAY_OUT}")
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); mend it, or {WAY_OUT}") from error
    if not names & set(VOCABULARY_FILES):
        raise UserError(f"{folder} holds no tokenizer: looked for {', '.join(VOCABULARY_FILES)}; {WAY_OUT}")
    if "vocab.json" in names and not names & {"tokenizer.json", MODEL_FILE, "merges.txt"}:
        raise UserError(f"{folder} has a vocab.json without the merges.txt that goes with it; {WAY_OUT}")
    read = {name: read_json(folder / name) for name in JSON_FILES if name in names}
    settings = {**read.get("special_tokens_map.json", {}), **read.get("tokenizer_config.json", {})}
    for name in NAMED_TOKENS:
        if not isinstance(token_text(settings.get(name)), str | None):
            raise UserError(f"{folder}: {name}={settings[name]!r} is not allowed: it takes a token's text; {WAY_OUT}")
    return settings


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `UserError` naming the file where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend it, or {WAY_OUT}") from error
    except (ValueError, RecursionError):
        raise UserError(f"{path} is damaged: it is not JSON; copy it again, or {WAY_OUT}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; copy it again, or {WAY_OUT}")
    return content


def token_text(token: Any) -> Any:
    """The text of a token that a settings file gives as a string or as an object; None where it is empty or missing."""
    text = token.get("content") if isinstance(token, dict) else token
    return None if text == "" else text


def _fetch(source: str, revision: str | None, patterns: list[str]) -> Path:
    """The local folder of a hub repository, from the cache alone where the hub does not answer."""
    from huggingface_hub import snapshot_download

    unanswered = _hub_error(source, revision)
    try:
        return Path(
            snapshot_download(
                source, revision=revision, allow_patterns=patterns, local_files_only=unanswered is not None
            )
        )
    except Exception as error:  # the hub's client raises a dozen unrelated kinds, down to plain OSError
        raise UserError(_hub_fault(source, revision, unanswered or error)) from None


def _hub_error(source: str, revision: str | None) -> Exception | None:
    """Why the hub cannot give this repository, or None.

    One request without retries, on a thread of its own: name resolution has a time limit that no client can set.
    """
    from huggingface_hub import HfApi

    answer: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(source, revision=revision, timeout=8)
            answer.append(None)
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_SECONDS)
    return answer[0] if answer else TimeoutError()


def _hub_fault(source: str, revision: str | None, error: Exception) -> str:
    """One line for the user; from the error only its kind, since its text can hold an address with a key."""
    from huggingface_hub import errors

    name = _shown(source)
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated: accept its terms on the hub and log in with `hf auth login`, or {WAY_OUT}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r} on the hub: mend model.revision, or {WAY_OUT}"
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return f"{name} is neither a folder here nor a repository on the hub that this login can see; {WAY_OUT}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{name} is neither a folder here nor in the cache, and HF_HUB_OFFLINE forbids to fetch it; {WAY_OUT}"
    return f"{name} is neither a folder here nor in the cache, and the hub cannot be reached; {WAY_OUT}"


def _shown(source: str) -> str:
    """A source as it may be printed: without an access token or the credentials of an address."""
    return re.sub(r"hf_\w{8,}", "hf_…", re.sub(r"//[^@/\s]*@", "//…@", source))
