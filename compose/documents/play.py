"""Types what a page says into a shell, as a reader would, and compares what is seen.

Each page has a shell of its own, whose variables, functions and directory last from block to block. What goes on in the
background goes on for the pages that follow. Nothing here waits without a bound.
"""

import os
import select
import signal
import subprocess
import time
from pathlib import Path

from pages import unseen

# The longest that one command, or what it is to show from the background, may take on a busy machine.
PATIENCE_SECS = 300
LAST_LINES = 15


class Failed(Exception):
    """A block did not do what the page says."""


class Lost(Failed):
    """So much so that the rest of the page makes no sense."""


class Reader:
    """The shell in which one page is typed."""

    def __init__(self, directory, scratch, environment, stand_ins):
        self.directory, self.scratch, self.stand_ins = Path(directory), Path(scratch), stand_ins
        self.count = 0
        answers, self.told = os.pipe()
        self.answers = os.fdopen(answers, "rb", buffering=0)
        # A session of its own, so that all that it started can be ended with it.
        self.shell = subprocess.Popen(
            ["bash", "--norc"], cwd=directory, env=environment, stdin=subprocess.PIPE, text=True, pass_fds=[self.told],
            start_new_session=True,
        )
        os.close(self.told)
        # Ends the sourced file in which a command fails; at the prompt it does nothing.
        self.shell.stdin.write("trap 'return $? 2>/dev/null' ERR\n")

    def reads(self, block):
        """Does what one block says."""
        if block.verdict == "file":
            (self.directory / block.what).write_text(self.made_real(block.text) + "\n")
            return
        commands = block.commands()
        for number, command in enumerate(commands):
            text = self.made_real(command.text)
            if block.verdict == "background":
                self.background(text, command.shown, block.place)
                continue
            wanted = block.exit_code if number == len(commands) - 1 else 0
            code, output = self.type(text, block.place)
            missing = unseen(command.shown, output)
            if code != wanted:
                raise Failed(f"{block.place}: ended with {code}, not {wanted}\n{told(text, output)}")
            if missing is not None:
                raise Failed(f"{block.place}: never showed: {missing}\n{told(text, output)}")

    def made_real(self, text):
        """Addresses that a page makes up, as those of this pool."""
        for made_up, real in self.stand_ins():
            text = text.replace(made_up, real)
        return text

    def type(self, text, place):
        """Exit code and output of what is typed: it goes as far as its first line that fails."""
        self.count += 1
        typed, seen = self.scratch / f"{self.count}.typed", self.scratch / f"{self.count}.seen"
        typed.write_text(text + "\n")
        line = f". {typed} >{seen} 2>&1 </dev/null {self.told}>&-; printf '%s\\n' $? >&{self.told}\n"
        try:
            self.shell.stdin.write(line)
            self.shell.stdin.flush()
            answer = self.answer()
        except BrokenPipeError:
            answer = ""
        output = seen.read_text(errors="replace") if seen.exists() else ""
        if not answer:
            why = f"took longer than {PATIENCE_SECS} s" if answer is None else "ended the shell"
            raise Lost(f"{place}: {why}\n{told(text, output)}")
        return int(answer), output

    def answer(self):
        """A line from the shell; nothing where it has ended, None where it takes too long."""
        line, deadline = b"", time.monotonic() + PATIENCE_SECS
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.answers], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                return None
            part = self.answers.read(1)
            if not part:
                return b""
            line += part
        return line

    def background(self, text, shown, place):
        """Starts what goes on, in the shell's own directory and with its variables."""
        self.count += 1
        seen = self.scratch / f"{self.count}.seen"
        self.type(f"{{ {text}\n}} >{seen} 2>&1 &", place)
        deadline = time.monotonic() + PATIENCE_SECS
        while (missing := unseen(shown, seen.read_text(errors="replace") if seen.exists() else "")) is not None:
            if time.monotonic() > deadline:
                raise Lost(f"{place}: never showed: {missing}\n{told(text, seen.read_text(errors='replace'))}")
            time.sleep(0.2)

    def leave(self):
        """Ends the shell; what it started in the background goes on."""
        self.shell.stdin.close()
        try:
            self.shell.wait(10)
        except subprocess.TimeoutExpired:
            self.end()
        self.answers.close()

    def end(self):
        """Ends what this shell started, and the shell. Whoever starts parts of their own ends them at SIGTERM."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.shell.pid, how)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + 60
            # A shell that has ended counts as a member until it is waited for.
            while self.shell.poll() is None or group_lives(self.shell.pid):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def told(text, output):
    """What was typed and the end of what came."""
    lines = output.splitlines()[-LAST_LINES:]
    return "\n".join(f"    {line}" for line in [f"$ {text}", *lines])
