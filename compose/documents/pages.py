"""Reads pages of Markdown into the blocks that somebody must answer for: commands, and files that commands need.

What happens to a block stands in a comment on the line above its fence:

    (no comment)                     commands are run here, each must end with 0
    <!-- run: exit 3 -->             the last command must end with 3
    <!-- run: background -->         is started, and goes on; what the block shows must be seen
    <!-- run: by compose/check-x --> that script or test runs it
    <!-- run: never, REASON -->      nobody can, for a reason of judge.REASONS
    <!-- run: file job.json -->      is no command: it is written to that file before commands are run

In a `console` block lines that begin with `$ ` are commands, those between are what they print. Numbers in these stand for any
number, `…` for anything, a line of it alone for any lines.
"""

import re
from dataclasses import dataclass, field

COMMANDS = {"sh", "bash", "console"}
FENCE = re.compile(r"^( *)(```+) *(\S*) *$")
COMMENT = re.compile(r"^ *<!-- run: (.*?) *-->$")


@dataclass
class Command:
    """What is typed, and what is seen then."""

    text: str
    shown: list = field(default_factory=list)


@dataclass
class Block:
    """A fenced block; `verdict` is one of here, background, by, never, file."""

    page: str
    line: int
    language: str
    text: str
    verdict: str = "here"
    what: str = ""

    @property
    def place(self):
        return f"{self.page}:{self.line}"

    @property
    def exit_code(self):
        return int(self.what) if self.verdict == "here" and self.what else 0

    def commands(self):
        if self.language != "console":
            return [Command(self.text)]
        commands = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                commands.append(Command(line[2:]))
            elif commands and not commands[-1].shown and commands[-1].text.endswith("\\"):
                commands[-1].text += "\n" + line.removeprefix("> ")
            elif commands:
                commands[-1].shown.append(line)
            else:
                raise ValueError(f"{self.place}: begins with no command ($ ...)")
        return commands


def verdict(words, place):
    """The verdict and its object, of a comment's words."""
    if words == "background":
        return "background", ""
    for pattern, kind in [
        (r"exit (\d+)", "here"),
        (r"by (\S+)", "by"),
        (r"never, (.+)", "never"),
        (r"file ([\w.-]+)", "file"),
    ]:
        found = re.fullmatch(pattern, words)
        if found:
            return kind, found[1]
    raise ValueError(f"{place}: no such verdict: {words}")


def blocks(page, text):
    """The blocks of a page that are commands or files, in order."""
    found, lines, number = [], text.splitlines(), 0
    while number < len(lines):
        opened = FENCE.match(lines[number])
        if not opened:
            comment = COMMENT.match(lines[number])
            if comment and not (number + 1 < len(lines) and FENCE.match(lines[number + 1])):
                raise ValueError(f"{page}:{number + 1}: no block follows the comment")
            number += 1
            continue
        indent, fence, language = opened.groups()
        start = number
        number += 1
        while number < len(lines) and lines[number].strip() != fence:
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{start + 1}: the block has no end")
        body = "\n".join(line.removeprefix(indent) for line in lines[start + 1 : number])
        number += 1
        comment = COMMENT.match(lines[start - 1]) if start else None
        if not comment and language not in COMMANDS:
            continue
        place = f"{page}:{start + 1}"
        kind, what = verdict(comment[1], place) if comment else ("here", "")
        if (kind == "file") == (language in COMMANDS):
            raise ValueError(f"{place}: a block of commands is run, any other is a file")
        found.append(Block(page, start + 1, language, body, kind, what))
    return found


def pattern(line):
    """A regular expression for a line that a page shows."""
    parts = []
    for part in re.split(r"(…|\d+|\s+)", line.strip()):
        if part == "…":
            parts.append(".*")
        elif part.isdigit():
            parts.append(r"\d+")
        elif part.isspace():
            parts.append(r"\s+")
        else:
            parts.append(re.escape(part))
    return re.compile("".join(parts))


def unseen(shown, output):
    """The first line that is shown and did not come, in order; None where all came."""
    lines = iter(output.splitlines())
    for line in shown:
        if line.strip() in ("", "…"):
            continue
        wanted = pattern(line)
        if not any(wanted.fullmatch(came.strip()) for came in lines):
            return line
    return None
