"""The model server of `loopback`, with the batch APIs of OpenAI and Anthropic and their faults.

    python benchmarks/loopback_batches.py --seconds 0.1

``POST /faults`` with JSON sets what goes wrong. ``fail``, ``expire`` and ``garble`` are shares in [0, 1] of
the requests of a batch, at most twice for one request. ``whole`` is a number of batches, of two requests or
more, that fail as a whole, and ``away`` a number of requests of any kind that get status 503. Requests with
the text ``refuse`` are refused.
``kill`` is a process that is sent SIGKILL when the next batch is created, ``before`` or ``after`` that as
``moment`` says, but not for the next ``skip`` ones; with the moment ``reset`` the batch is created and the
connection closed.
``GET /batch-counts`` returns what was asked and paid.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from datetime import datetime, timezone
from typing import Any

from loopback import Server, answer

USAGE = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}


def openai_reply(body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer(body)}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    kind = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
    return {**kind, "choices": [choice], "usage": USAGE}


def anthropic_reply(body: dict[str, Any]) -> dict[str, Any]:
    system = body.get("system") or ""
    if not isinstance(system, str):
        system = "".join(block["text"] for block in system)
    chat: dict[str, Any] = {"messages": [{"role": "system", "content": system}, *body["messages"]]}
    if "output_config" in body or "output_format" in body:
        chat["response_format"] = True
    content = [{"type": "text", "text": answer(chat)}]
    kind = {"id": "m", "type": "message", "role": "assistant", "model": body["model"]}
    usage = {"input_tokens": 50, "output_tokens": 10}
    return {**kind, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}


class BatchServer(Server):
    def __init__(self, latency: float, seconds: float) -> None:
        super().__init__(latency)
        self.seconds = seconds
        self.batch_faults: dict[str, Any] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.numbers = 0
        self.drawn = 0
        self.tries: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.did: Counter[str] = Counter()

    def new_id(self, kind: str) -> str:
        self.numbers += 1
        return f"{kind}_{self.numbers}"

    async def reply(self, verb: str, path: str, body: bytes, reader: asyncio.StreamReader) -> tuple[int, Any]:
        path, _, query = path.partition("?")
        params = dict(part.split("=") for part in query.split("&") if part)
        if path == "/faults":
            self.batch_faults |= json.loads(body)
            return 200, {}
        if path == "/batch-counts":
            twice = sum(times - 1 for times in self.paid.values())
            return 200, {
                **self.did, "requests": self.requests, "batches": len(self.batches), "files": len(self.files),
                "paid": self.paid.total(), "paid_twice": twice,
            }  # fmt: skip
        parts = path.removeprefix("/v1").strip("/").split("/")
        if parts[0] in ("files", "batches") or parts[:2] == ["messages", "batches"]:
            if self.batch_faults.get("away"):
                self.batch_faults["away"] -= 1
                self.did["away"] += 1
                return 503, {"error": {"message": "overloaded"}}
            self.advance()
            api = "anthropic" if parts[0] == "messages" else "openai"
            return await self.batch(api, verb, parts[1:] if api == "anthropic" else parts, params, body)
        if parts == ["messages"]:
            self.requests += 1
            return 200, anthropic_reply(json.loads(body))
        return await super().reply(verb, path, body, reader)

    async def batch(
        self, api: str, verb: str, parts: list[str], params: dict[str, str], body: bytes
    ) -> tuple[int, Any]:
        match verb, *parts:
            case "POST", "files":
                file_id = self.new_id("file")
                self.files[file_id] = form_file(body)
                return 200, {"id": file_id, "object": "file"}
            case "GET", "files":
                names = [{"id": file_id, "filename": name} for file_id, (name, _) in self.files.items()]
                return 200, {"data": names, "has_more": False}
            case "GET", "files", file_id, "content":
                return (200, self.files[file_id][1]) if file_id in self.files else (404, {})
            case "DELETE", "files", file_id:
                self.files.pop(file_id, None)
                return 200, {"id": file_id, "deleted": True}
            case "POST", "batches":
                return await self.create(api, json.loads(body))
            case "GET", "batches":
                return 200, self.listed(api, params)
            case "GET", "batches", batch_id:
                return (200, self.shown(batch_id)) if batch_id in self.batches else (404, {})
            case "GET", "batches", batch_id, "results":
                return 200, self.batches[batch_id]["results"]
            case "DELETE", "batches", batch_id:
                del self.batches[batch_id]["results"]
                self.batches[batch_id]["deleted"] = True
                return 200, {}
        return 404, {"error": {"message": f"no {verb} {parts}"}}

    async def create(self, api: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.batch_faults.get("skip"):
            self.batch_faults["skip"] -= 1
            pid, moment = None, None
        else:
            pid, moment = self.batch_faults.pop("kill", None), self.batch_faults.get("moment")
        if moment != "reset" and pid is None:
            moment = None
        if pid and moment == "before":
            os.kill(pid, signal.SIGKILL)
            return 0, None
        batch_id = self.new_id("batch")
        if api == "openai":
            lines = self.files[body["input_file_id"]][1].splitlines()
            requests = [json.loads(line) for line in lines]
            wrong = len({request["body"]["model"] for request in requests}) != 1
            assert all(request["url"] == body["endpoint"] for request in requests)
            requests = [{"custom_id": r["custom_id"], "params": r["body"]} for r in requests]
        else:
            requests, wrong = body["requests"], False
        assert len({request["custom_id"] for request in requests}) == len(requests)
        assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", request["custom_id"]) for request in requests)
        whole = bool(self.batch_faults.get("whole")) and len(requests) > 1
        if whole:
            self.batch_faults["whole"] -= 1
            self.did["whole"] += 1
        self.batches[batch_id] = {
            "api": api, "id": batch_id, "n": self.numbers, "at": time.time(), "requests": requests,
            "n_requests": len(requests), "whole": whole or wrong, "metadata": body.get("metadata"),
            "input": body.get("input_file_id"), "counts": Counter(),
        }  # fmt: skip
        self.did["submitted"] += len(requests)
        if pid and moment == "after":
            os.kill(pid, signal.SIGKILL)
            return 0, None
        if moment == "reset":
            self.batch_faults["moment"] = None
            self.did["reset"] += 1
            return 0, None
        return 200, self.shown(batch_id)

    def advance(self) -> None:
        """Answer the batches whose time has come."""
        for batch in self.batches.values():
            if "requests" in batch and time.time() >= batch["at"] + self.seconds:
                requests = batch.pop("requests")
                if not batch["whole"]:
                    self.work(batch, requests)
                batch["ended"] = True

    def work(self, batch: dict[str, Any], requests: list[dict[str, Any]]) -> None:
        counts: Counter[str] = batch["counts"]
        good, bad = [], []
        for request in requests:
            name, params = request["custom_id"], request["params"]
            self.tries[name] += 1
            kind = self.fault() if self.tries[name] <= 2 else "ok"
            if self.batch_faults.get("refuse") and self.batch_faults["refuse"] in json.dumps(params):
                kind = "refused"
            self.did[kind] += 1
            if kind in ("ok", "garble"):
                self.paid[name] += kind == "ok"
                counts["succeeded"] += 1
            else:
                counts["expired" if kind == "expire" else "errored"] += 1
            line = (openai_line if batch["api"] == "openai" else anthropic_line)(name, params, kind)
            text = json.dumps(line)
            (good if kind in ("ok", "garble") else bad).append(
                text[: len(text) // 2] if kind == "garble" else text
            )
        # In no order: results are joined by id.
        good.reverse()
        if batch["api"] == "openai":
            for key, lines in (("output_file_id", good), ("error_file_id", bad)):
                if lines:
                    batch[key] = self.new_id("file")
                    self.files[batch[key]] = (key, ("\n".join(lines) + "\n").encode())
        else:
            batch["results"] = ("\n".join(bad + good) + "\n").encode()

    def fault(self) -> str:
        """Return what befalls the next request. Multiples of the golden ratio fill [0, 1) evenly, so that
        the shares hold from a few requests on, in whatever order the requests come.
        """
        self.drawn += 1
        place = self.drawn * 0.618034 % 1
        for kind in ("fail", "expire", "garble"):
            place -= self.batch_faults.get(kind, 0.0)
            if place < 0:
                return kind
        return "ok"

    def listed(self, api: str, params: dict[str, str]) -> dict[str, Any]:
        mine = [b for b in self.batches.values() if b["api"] == api and not b.get("deleted")][::-1]
        after = params.get("after") or params.get("after_id")
        if after:
            mine = mine[[b["id"] for b in mine].index(after) + 1 :]
        # A small page, so that pages are turned.
        page = mine[: min(int(params.get("limit", 20)), 7)]
        return {"data": [self.shown(b["id"]) for b in page], "has_more": len(page) < len(mine)}

    def shown(self, batch_id: str) -> dict[str, Any]:
        batch = self.batches[batch_id]
        ended, counts, n = batch.get("ended"), batch["counts"], batch["n_requests"]
        if batch["api"] == "anthropic":
            left = 0 if ended else n
            names = ("succeeded", "errored", "canceled", "expired")
            return {
                "id": batch_id, "type": "message_batch",
                "processing_status": "ended" if ended else "in_progress",
                "created_at": datetime.fromtimestamp(batch["at"], timezone.utc).isoformat(),
                "request_counts": {"processing": left, **{name: counts[name] for name in names}},
                "results_url": "http://elsewhere.invalid/results" if ended else None,
            }  # fmt: skip
        status = "in_progress"
        if ended:
            status = "failed" if batch["whole"] else "expired" if counts["expired"] else "completed"
        errors = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]}
        return {
            "id": batch_id, "object": "batch", "status": status, "created_at": int(batch["at"]),
            "metadata": batch["metadata"], "errors": errors if status == "failed" else None,
            "request_counts": {"total": n, "completed": counts["succeeded"], "failed": counts["errored"]},
            "input_file_id": batch["input"], "output_file_id": batch.get("output_file_id"),
            "error_file_id": batch.get("error_file_id"),
        }  # fmt: skip


def openai_line(name: str, params: dict[str, Any], kind: str) -> dict[str, Any]:
    line: dict[str, Any] = {"id": "r", "custom_id": name, "response": None, "error": None}
    if kind == "expire":
        line["error"] = {"code": "batch_expired", "message": "This request could not be executed in time."}
    elif kind in ("fail", "refused"):
        status = 500 if kind == "fail" else 400
        error = {"message": "the server had an error" if kind == "fail" else "flagged by content filter",
                 "type": "server_error" if kind == "fail" else "invalid_request_error",
                 "param": None, "code": None if kind == "fail" else "content_filter"}  # fmt: skip
        line["response"] = {"status_code": status, "request_id": "r", "body": {"error": error}}
    else:
        line["response"] = {"status_code": 200, "request_id": "r", "body": openai_reply(params)}
    return line


def anthropic_line(name: str, params: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == "expire":
        return {"custom_id": name, "result": {"type": "expired"}}
    if kind in ("fail", "refused"):
        error = {
            "type": "api_error" if kind == "fail" else "invalid_request_error",
            "message": "Internal server error" if kind == "fail" else "blocked by content filter",
        }
        return {"custom_id": name, "result": {"type": "errored", "error": {"type": "error", "error": error}}}
    return {"custom_id": name, "result": {"type": "succeeded", "message": anthropic_reply(params)}}


def form_file(body: bytes) -> tuple[str, bytes]:
    """Return the name and the content of the file of a form."""
    boundary = body.split(b"\r\n", 1)[0]
    for part in body.split(boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        if name := re.search(rb'filename="([^"]+)"', head):
            return name[1].decode(), content.removesuffix(b"\r\n")
    raise ValueError("no file in the form")


async def main(latency: float, seconds: float) -> None:
    server = BatchServer(latency, seconds)
    served = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=2048, limit=2**22)
    print(f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}/v1", flush=True)
    await served.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=0.1)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.latency, arguments.seconds))
