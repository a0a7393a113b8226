"""A stand-in for the Hugging Face hub on 127.0.0.1: as much of its HTTP interface as an upload takes."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Repositories by name: file -> bytes. Takes the token "good"; `full` refuses commits. Weights go by Git LFS."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.full = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Create, ask how each file goes, upload the large ones, commit."""

    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if self.headers.get("Authorization") != "Bearer good":
            self.reply(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            names = [f["path"] for f in json.loads(body)["files"]]
            modes = {n: "lfs" if n.endswith((".safetensors", ".gguf")) else "regular" for n in names}
            self.reply(200, {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self.offer(json.loads(body)["objects"])
        elif self.server.full:
            self.reply(403, {"error": "storage quota exceeded"})
        else:
            self.commit(self.path.removeprefix("/api/models/").removesuffix("/commit/main"), body)

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.server.repositories:
            self.reply(409, {"error": "You already created this model repo", "url": f"{self.server.address}/{name}"})
            return
        self.server.repositories[name] = {}
        self.server.private[name] = asked.get("private", False) or asked.get("visibility") == "private"
        self.reply(200, {"url": f"{self.server.address}/{name}", "name": name, "id": name})

    def offer(self, objects: list[dict[str, Any]]) -> None:
        places = [o | {"actions": {"upload": {"href": f"{self.server.address}/large/{o['oid']}"}}} for o in objects]
        self.reply(200, {"transfer": "basic", "objects": places})

    def do_PUT(self) -> None:
        self.server.large[self.path.removeprefix("/large/")] = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(200, {})

    def commit(self, name: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "lfsFile":
                self.server.repositories[name][line["value"]["path"]] = self.server.large[line["value"]["oid"]]
        address = f"{self.server.address}/{name}"
        self.reply(200, {"commitUrl": f"{address}/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True})

    def reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass
