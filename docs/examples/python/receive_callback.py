#!/usr/bin/env python3
"""Receives ffpool's callbacks, proves that they are ffpool's, and prints one line for each end of a job.

usage: receive_callback.py PORT      listens on the loopback address; a proxy that speaks TLS goes before it

Environment:
  FFPOOL_CALLBACK_SECRET  <key id>:<secret>, several with commas: what the dispatcher signs with

Give each job the callback_url of this program. Only Python's own library is needed.
"""

import hashlib
import hmac
import http.server
import json
import os
import sys
import time

CLOCK_SECS = 300       # how far the sender's clock may be from ours; an older message may be somebody's recording
BODY_BYTES = 1 << 20   # more than ffpool ever sends
KEPT = 10_000          # deliveries that are remembered; a real receiver asks its database


def secrets_of(text):
    """The secret of each key id."""
    return dict(pair.split(":", 1) for pair in text.split(","))


def is_genuine(header, body, secrets, now):
    """Whether the signature is by one of our secrets, over this very body, made just now."""
    try:
        fields = dict(part.split("=", 1) for part in header.split(","))
        at, key, signature = fields["t"], fields["k"], fields["v1"]
        is_recent = abs(now - int(at)) <= CLOCK_SECS
    except (KeyError, ValueError):
        return False
    secret = secrets.get(key)
    if secret is None:
        return False
    ours = hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    # Compared in constant time, so that nobody finds the signature byte by byte.
    return hmac.compare_digest(ours.encode(), signature.encode()) and is_recent


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers 204 to what is ffpool's, also when it comes again; then nothing is tried again."""

    secrets = {}
    seen = {}

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > BODY_BYTES:
            return self.answer(413)
        body = self.rfile.read(int(length))
        # Judged before it is parsed: what a stranger sent is not even JSON to us.
        if not is_genuine(self.headers.get("X-FFpool-Signature", ""), body, self.secrets, time.time()):
            return self.answer(401)
        told = json.loads(body)
        # The same end may be told more than once; its delivery id is the same each time.
        if told["delivery"] not in self.seen:
            self.handle_end(told)
            self.seen[told["delivery"]] = True
            while len(self.seen) > KEPT:
                del self.seen[next(iter(self.seen))]
        return self.answer(204)

    def handle_end(self, told):
        """What your program does about it. Answer within ten seconds: put long work into a queue of your own."""
        files = " ".join(file["url"] for file in told["artifacts"])
        print(f"{told['job']['id']} {told['state']} {files}", flush=True)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, _format, *_arguments):
        """Keeps standard error for what is wrong with this program."""


def main():
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    if not os.environ.get("FFPOOL_CALLBACK_SECRET"):
        sys.exit("receive_callback.py: FFPOOL_CALLBACK_SECRET is not set")
    Receiver.secrets = secrets_of(os.environ["FFPOOL_CALLBACK_SECRET"])
    Receiver.timeout = 30
    with http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver) as server:
        print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
