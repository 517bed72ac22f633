"""A back end for the example: two users, whose tokens are "ann-token" and "bob-token"."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USERS = {"Bearer ann-token": 1001, "Bearer bob-token": 1002}


class Backend(BaseHTTPRequestHandler):
    def answer(self, status, reply):
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def user(self):
        return USERS.get(self.headers.get("Authorization"))

    def do_GET(self):
        if self.path != "/auth":
            return self.answer(404, {})
        uid = self.user()
        self.answer(200 if uid else 401, {"uid": uid})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/read" or not self.user():
            return self.answer(404, {})
        print("user", self.user(), "has read message", json.loads(body)["id"], flush=True)
        self.answer(200, {})


ThreadingHTTPServer(("127.0.0.1", 8080), Backend).serve_forever()
