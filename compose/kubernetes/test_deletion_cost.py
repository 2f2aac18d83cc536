"""Runs the chart's `deletion-cost` against a play of both its sides: a command line that lists workers, and an API server.

What the command line says stands in workers.txt, which a test in producer/src/cli/fleet.rs holds equal to what it prints.

Exits with 1, and says what was seen, where a cost is wrong, is written without a change, or is lost.
"""

import http.server
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time

SCRIPT = pathlib.Path(__file__).parent.parent / "helm" / "ffpool" / "files" / "deletion-cost"
BOUND_SECS = 60
# Nobody is there; cpu-a is idle, cpu-b has one slot in use, cpu-c three; cpu-a too; cpu-b is idle, and cpu-c gone.
NOBODY, FIRST, BUSIER, IDLER = (pathlib.Path(__file__).parent / "workers.txt").read_text().split("\n\n")

patches = []
answers = {}


class ApiServer(http.server.BaseHTTPRequestHandler):
    """Takes changes of pods, and answers as `answers` says."""

    def do_PATCH(self):
        pod = self.path.rsplit("/", 1)[1]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cost = body["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"]
        right = (
            self.path == f"/api/v1/namespaces/media/pods/{pod}"
            and self.headers["Authorization"] == "Bearer token-of-the-pod"
            and self.headers["Content-Type"] == "application/merge-patch+json"
        )
        status = answers.get(pod, 200) if right else 400
        patches.append((pod, cost, status))
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


class Play:
    """The folder with what the script finds, and the script that looks again and again."""

    def __init__(self, folder, port):
        self.workers, self.looks = folder / "workers", folder / "looks"
        self.say("")
        for name, text in {"token": "token-of-the-pod", "namespace": "media", "ca.crt": ""}.items():
            (folder / name).write_text(text)
        program = folder / "ffpool"
        program.write_text(f'#!/bin/sh\necho >>"{self.looks}"\nsaid=$(cat "{self.workers}") && [ -n "$said" ] && printf "%s\\n" "$said"\n')
        program.chmod(0o755)
        environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "FFPOOL_POD_ACCOUNT": str(folder),
            "FFPOOL_POD_SERVER": f"http://127.0.0.1:{port}",
        }
        self.script = subprocess.Popen(["sh", SCRIPT, "1"], env=environment, stderr=(folder / "said").open("w"))

    def say(self, text):
        """What the command line says from now on; nothing: it fails."""
        new = self.workers.with_suffix(".new")
        new.write_text(text)
        new.rename(self.workers)

    def look_twice(self):
        """Until the script has looked at what is said now, and has done what follows from it."""
        seen = self.count()
        until(lambda: self.count() >= seen + 3, lambda: f"{self.count()} looks")

    def count(self):
        return len(self.looks.read_text().splitlines()) if self.looks.exists() else 0


def until(true, seen):
    end = time.monotonic() + BOUND_SECS
    while not true():
        assert time.monotonic() < end, f"not within {BOUND_SECS} s: {seen()}"
        time.sleep(0.05)


def expect(*wanted):
    """Exactly these changes since the last time."""
    assert sorted(patches) == sorted(wanted), f"{patches} and not {list(wanted)}"
    patches.clear()


def check(play):
    for nothing in ["", NOBODY]:
        play.say(nothing)
        play.look_twice()
        expect()
    play.say(FIRST)
    play.look_twice()
    # Each once, however often it was looked.
    expect(("cpu-a", "0", 200), ("cpu-b", "100", 200), ("cpu-c", "300", 200))
    play.say(BUSIER)
    play.look_twice()
    expect(("cpu-a", "100", 200))
    # Nobody answers, or in words that are not known: nothing is written, and nothing forgotten.
    play.say("")
    play.look_twice()
    play.say("one two\nthree four\n")
    play.look_twice()
    play.say(BUSIER)
    play.look_twice()
    expect()
    # A change that was refused is tried again.
    answers["cpu-b"] = 500
    play.say(IDLER)
    until(lambda: patches.count(("cpu-b", "0", 500)) >= 2, lambda: patches)
    answers.clear()
    until(lambda: ("cpu-b", "0", 200) in patches, lambda: patches)
    assert {pod for pod, _, _ in patches} == {"cpu-b"}, patches


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        play = Play(pathlib.Path(folder), server.server_port)
        try:
            check(play)
            print("costs of deletion are those of the slots in use")
        except AssertionError:
            print((pathlib.Path(folder) / "said").read_text())
            raise
        finally:
            play.script.kill()
            play.script.wait()


main()
