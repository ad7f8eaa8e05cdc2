"""A web service that takes orders, and does the work behind its answers: broker, client and worker in one process.

    python embedded_in_a_service.py 8080
    curl -d 'some text' http://127.0.0.1:8080/          answers with the id of a job
    curl http://127.0.0.1:8080/ID                       answers with its state, and its result

An order that was answered is on disk: kill the process, start it again, and it is worked on. The day when one process
is not enough, `zbroker start` on the same directory takes the broker out of it, and nothing else changes.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from zbroker import Broker
from zclient import Client, NotFound
from zworker import Worker

worker = Worker(concurrency=2)


@worker.task("count-words")
def count_words(text: str) -> int:
    """The work that no visitor should have to wait for."""
    return len(text.split())


class Service(ThreadingHTTPServer):
    """The web server, with the client that its handlers use from their threads."""

    def __init__(self, port: int, client: Client) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.client = client


class Handler(BaseHTTPRequestHandler):
    """POST: take an order. GET: tell what became of it."""

    server: Service

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        job = self.server.client.send("count-words", {"text": text})
        self.answer(202, {"id": job.id})

    def do_GET(self) -> None:
        try:
            status = self.server.client.get(self.path.strip("/"))
        except (NotFound, ValueError):
            self.answer(404, {"error": "no such order"})
        else:
            self.answer(200, {"state": status.state, "words": status.result})

    def answer(self, code: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    with Broker(data="orders") as broker, Client(broker.endpoint) as client:
        worker.endpoints = broker.endpoint
        with worker, Service(port, client) as service:
            print(f"ready http://127.0.0.1:{service.server_port}", flush=True)
            try:
                service.serve_forever()
            except KeyboardInterrupt:
                print("stopped")


if __name__ == "__main__":
    main()
