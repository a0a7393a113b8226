"""An OpenAI-compatible server in its own process that answers with rows of a file, with faults on demand.

python tests/generation/server.py ROWS.jsonl PORT_FILE '{"items": 20, "latency": 0.0, "rate": 0.3, "faults": ["500"]}'
The reply is a function of the prompt, a fault of the prompt and the attempt: neither depends on timing.
GET /stats says what was served; POST /settings changes the settings.
"""

import asyncio
import hashlib
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "items": 20,
    "latency": 0.0,
    "rate": 0.0,
    "faults": [],
    "status": None,
    "code": "",
    "queue": False,
    "context": None,
    "poison": None,
    "judge": "fair",
    "cut_at": None,
    "credit": None,
}
SAID = (
    "Both are fine, one is longer.\n\nVerdict: [[{}]]", "**Verdict: {}**", "结论：【【{}】】", "<think>Verdict: [[A]]? No.</think>[[{}]]",
    '```json\n{{"reason": "A and B differ", "verdict": "{}"}}\n```', "{}", "Comparing.\n\n### Final verdict\nThe better answer is {}.",
)  # fmt: skip
"""The ways in which a judge says what it says."""


class Server:
    def __init__(self, rows: list[dict[str, str]], settings: dict[str, Any]) -> None:
        self.rows, self.settings = rows, DEFAULTS | settings
        self.stats = {"requests": 0, "answered": 0, "prompt_tokens": 0, "completion_tokens": 0, "flying": 0, "peak": 0}
        self.attempts: dict[str, int] = {}
        self.times: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self.served: dict[str, int] = {}
        self.next = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if k}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = first.split(" ")
                if not await self.route(method, path, body, headers, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def route(self, method: str, path: str, body: bytes, headers: dict[str, str], writer: Any) -> bool:
        if path == "/stats":
            extra = {
                "times": self.times,
                "bodies": self.bodies[-5:],
                "most_answers": max(self.served.values(), default=0),
            }
            return await self.send(
                writer, 200, {**self.stats, **extra, "repeated": sum(n - 1 for n in self.served.values())}
            )
        if path == "/settings":
            self.settings |= json.loads(body)
            return await self.send(writer, 200, self.settings)
        return await self.complete(json.loads(body), path, writer)

    async def complete(self, request: dict[str, Any], path: str, writer: Any) -> bool:
        s = self.settings
        self.stats["requests"] += 1
        self.times.append(asyncio.get_running_loop().time())
        self.bodies.append(request)
        self.stats["flying"] += 1
        self.stats["peak"] = max(self.stats["peak"], self.stats["flying"])
        try:
            if (
                s["credit"] is not None and self.stats["requests"] > s["credit"]
            ):  # at once: what came before is still answered
                return await self.send(writer, 400, {"error": {"message": "your credit balance is too low"}})
            await asyncio.sleep(s["latency"])
            prompt = request.get("prompt") or request["messages"][0]["content"]
            key = hashlib.sha256(prompt.encode()).hexdigest()
            attempt = self.attempts[key] = self.attempts.get(key, 0) + 1
            if s["status"]:
                error = {"message": f"no {s['status']}", "code": s["code"] or None, "type": None, "param": None}
                return await self.send(writer, s["status"], {"error": error})
            if s["poison"] and s["poison"] in prompt:
                return await self.send(writer, 500, {"error": {"message": "out of memory"}})
            if s["context"] and len(prompt) // 4 + request["max_tokens"] > s["context"]:
                message = f"This model's maximum context length is {s['context']} tokens"
                return await self.send(writer, 400, {"error": {"message": message, "code": "context_length_exceeded"}})
            rng = random.Random(f"{key} {attempt}")
            fault = rng.choice(s["faults"]) if s["faults"] and rng.random() < s["rate"] else ""
            return await self.reply(request, path, prompt, key, fault, writer)
        finally:
            self.stats["flying"] -= 1

    async def reply(self, request: Any, path: str, prompt: str, key: str, fault: str, writer: Any) -> bool:
        if fault in ("429", "429 retry-after", "500"):
            error = {"error": {"message": "try again", "code": None, "type": None}}
            more = "retry-after: 1\r\n" if fault == "429 retry-after" else ""
            return await self.send(writer, int(fault[:3]), error, more)
        if fault == "timeout":
            await asyncio.sleep(30)
            return False
        if fault == "slow":
            await asyncio.sleep(0.3)
        text = self.text(prompt, key, fault)
        if most := self.settings["cut_at"]:
            fault, text = ("cut", text[: 4 * most]) if len(text) > 4 * most else (fault, text)
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
        usage["total_tokens"] = sum(usage.values())
        chat = path.endswith("/chat/completions")
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": "length" if fault == "cut" else "stop", **said}
        kind = "chat.completion" if chat else "text_completion"
        body = {
            "id": f"r-{key[:12]}",
            "object": kind,
            "created": 0,
            "model": "teacher-1",
            "choices": [choice],
            "usage": usage,
        }
        if fault == "drop":
            data = json.dumps(body).encode()
            writer.write(
                f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode()
            )
            writer.write(data[: len(data) // 2])
            await writer.drain()
            return False
        if fault == "garbage":
            data = b"<html>bad gateway"
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n" + data)
            await writer.drain()
            return True
        for name in ("prompt_tokens", "completion_tokens"):
            self.stats[name] += usage[name]
        self.stats["answered"] += 1
        self.served[key] = self.served.get(key, 0) + 1
        return await self.send(writer, 200, body)

    def text(self, prompt: str, key: str, fault: str) -> str:
        if fault == "rubbish":
            return "lorem " * 40
        if "[Answer A]\n" in prompt or "[回答 A]\n" in prompt:
            return self.judged(prompt, key)
        if "\nPassage:\n" in prompt:
            return self.grounded(prompt.split("\nPassage:\n")[1])
        n = self.settings["items"]
        chunks = len(self.rows) // n
        chunk = int(key, 16) % chunks if not self.settings["queue"] else self.next % chunks
        self.next += 1
        rows = self.rows[chunk * n : chunk * n + n]
        if fault == "duplicate":
            rows = rows + rows
        if '{"items": [{"instruction": "…"' in prompt:
            return json.dumps({"items": rows}, ensure_ascii=False)
        parts = [
            f"{i}. Instruction: {r['instruction']}\n{i}. Input:\n{r['input'] or '<noinput>'}\n{i}. Output:\n{r['output']}\n###"
            for i, r in enumerate(rows, 1)
        ]
        text = "\n".join(parts)
        return text[: len(text) // 2] if fault == "cut" else text

    def judged(self, prompt: str, key: str) -> str:
        """fair: the longer answer wins, two of one length tie; first: always the one in front; garbage: nothing."""
        how = self.settings["judge"]
        first, second = re.findall(r"\[(?:Answer|回答) [AB]\]\n(.*?)\n\[(?:End|回答)", prompt, re.S)
        if how == "garbage" or how == "half garbage" and int(key, 16) % 2:
            return "It depends. " * 9
        winner = "A" if len(first) > len(second) or how == "first" else "B" if len(first) < len(second) else "tie"
        return SAID[int(key, 16) % len(SAID)].format(winner)

    def grounded(self, passage: str) -> str:
        """Two items whose outputs are sentences of the passage, and one that is made up."""
        said = [s.strip() for s in passage.split(".") if len(s.split()) > 4]
        outputs = [said[0], said[-1], "Quixotic zebras juggle nineteen purple umbrellas nightly"]
        parts = []
        for i, output in enumerate(outputs, 1):
            words = " ".join(output.split()[:5])
            parts.append(
                f"{i}. Instruction: Question {i} asks: {words} what {len(passage)}?\n{i}. Input:\n<noinput>\n{i}. Output:\n{output}\n###"
            )
        return "\n".join(parts)

    async def send(self, writer: Any, status: int, body: Any, more: str = "") -> bool:
        data = json.dumps(body, ensure_ascii=False).encode()
        head = f"HTTP/1.1 {status} S\r\ncontent-type: application/json\r\n{more}content-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()
        return True


async def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().split("\n") if line.strip()]
    server = Server(rows, json.loads(sys.argv[3]))
    listening = await asyncio.start_server(server.connection, "127.0.0.1", 0)
    partial = Path(sys.argv[2] + ".partial")
    partial.write_text(str(listening.sockets[0].getsockname()[1]))
    partial.rename(sys.argv[2])
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
