"""A stand-in of the W&B server on this machine: what the pinned SDK asks of it, and a sweep whose suggestions are given.

It answers GraphQL by the name of the operation, takes the file stream of a run, and keeps what arrives.
"""

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "team"


@dataclass
class Run:
    """What arrived of a run."""

    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


class Server:
    """Listens on a free port of 127.0.0.1 until `close`."""

    def __init__(self, suggestions: list[dict[str, Any]] | None = None, stop: dict[str, int] | None = None) -> None:
        """`suggestions`: the parameters of each run; `stop`: run id -> history lines after which the agent is told to stop it."""
        self.suggestions, self.stop = list(suggestions or []), dict(stop or {})
        self.sweep: dict[str, Any] = {}
        self.project = "project"
        self.runs: dict[str, Run] = {}
        self.asked: list[str] = []
        self.given = 0
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with owner.lock:
                    text = json.dumps(owner.answer(self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path: str, body: bytes) -> Any:
        """The reply to one request."""
        if path == "/graphql":
            asked = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            self.asked.append(name[1] if name else "")
            reply = getattr(self, f"on_{self.asked[-1]}", lambda **given: {})
            return {"data": reply(**(asked.get("variables") or {}))}
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            self.take(self.runs.setdefault(stream[1], Run()), json.loads(body))
        return {}

    def take(self, run: Run, sent: dict[str, Any]) -> None:
        """Keep a piece of a run's file stream."""
        for name, part in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]] if name.endswith(("y.jsonl", "y.json")) else []
            if name == "wandb-history.jsonl":
                run.history += lines
            elif name == "wandb-summary.json":
                run.summary = lines[-1]
        if sent.get("complete"):
            run.exit_code = sent.get("exitcode")

    def on_Viewer(self, **given: Any) -> Any:
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}",
                           "teams": {"edges": []}}}  # fmt: skip

    def on_UpsertSweep(self, config: str, projectName: str | None = None, **given: Any) -> Any:
        import yaml

        self.sweep = yaml.safe_load(config)
        self.project = projectName or self.project
        place = {"name": self.project, "entity": {"name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": "sweep1", "project": place}, "configValidationWarnings": []}}

    def on_SweepWithRuns(self, **given: Any) -> Any:
        sweep = {"id": "1", "name": "sweep1", "state": "RUNNING", "config": json.dumps(self.sweep)}
        return {"project": {"sweep": sweep | {"runs": {"edges": []}}}}

    def on_CreateAgent(self, **given: Any) -> Any:
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def on_Heartbeat(self, runState: str, **given: Any) -> Any:
        running = [name for name, runs in json.loads(runState).items() if runs]
        commands: list[dict[str, Any]] = []
        for name in running:
            if name in self.stop and name in self.runs and len(self.runs[name].history) >= self.stop[name]:
                commands.append({"type": "stop", "run_id": name})
        if not running and self.given < len(self.suggestions):
            args = {k: {"value": v} for k, v in self.suggestions[self.given].items()}
            commands.append(
                {"type": "run", "run_id": f"run{self.given}", "program": self.sweep["program"], "args": args}
            )
            self.given += 1
        elif not running:
            commands.append({"type": "exit"})
        return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}

    def on_UpsertBucket(self, name: str, config: str | None = None, **given: Any) -> Any:
        run = self.runs.setdefault(name, Run())
        run.config |= {k: v["value"] for k, v in json.loads(config or "{}").items()}
        place = {"name": self.project, "entity": {"name": ENTITY}}
        bucket = {"id": name, "name": name, "displayName": name, "project": place, "historyLineCount": len(run.history),
                  "sweepName": "sweep1"}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def on_CreateRunFiles(self, files: list[str], runName: str | None = None, **given: Any) -> Any:
        places = [{"name": name, "uploadUrl": f"{self.address}/upload/{name}"} for name in files]
        return {"createRunFiles": {"runID": runName or "", "uploadHeaders": [], "files": places}}

    def on_RunResumeStatus(self, **given: Any) -> Any:
        return {"model": {"id": "1", "name": self.project, "entity": {"name": ENTITY, "id": "1"}, "bucket": None}}
