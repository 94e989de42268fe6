"""Answers an Ollama's probes on the port that is given, so that a daemon beside it is ready. No model is behind it."""

import http.server
import json
import sys

ANSWERS = {
    "/api/version": {"version": "0.12.0"},
    "/api/tags": {"models": [{"name": "quiet:1b", "model": "quiet:1b", "size": 1}]},
    "/api/ps": {"models": []},
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(ANSWERS.get(self.path))

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        # What loads a model, and unloads it.
        self.answer({"model": "quiet:1b", "done": True} if self.path == "/api/generate" else None)

    def answer(self, answer):
        body = json.dumps(answer or {"error": "not found"}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
