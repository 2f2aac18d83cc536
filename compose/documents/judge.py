"""Holds blocks against what there is, and runs none of them: programs, subcommands and flags, settings, who runs what and why not."""

import itertools
import re
import shutil
import subprocess
from pathlib import Path

from shell import functions, simple_commands

# Why nobody runs a block here, with the programs that only such a place has.
REASONS = {
    "needs a cloud account": {"aws", "az", "terraform"},
    "needs a Kubernetes cluster": {"kubectl", "helm"},
    "needs Docker and its images": {"docker"},
    "needs machines for Ansible": {"ansible-playbook", "ansible-vault"},
    "needs systemd": {"systemctl", "journalctl"},
    "changes the machine": {"apt", "apt-get", "editor", "groupadd", "systemctl"},
    "needs servers of yours": set(),
    "needs an idle machine for minutes": set(),
}
# Programs of blocks that others run: these see to it that they are there.
OF_OTHERS = {"docker", "go", "java", "node", "npm"}
PROGRAMS = ["ffpool", "ffpool-dispatcher", "ffpool-worker", "ffpool-loadtest", "ffpool-stack"]
SETTING = re.compile(r"(?<![\w-])FFPOOL_[A-Z0-9_]*[A-Z0-9]")
ELLIPSES = {"...", "…"}


class Judge:
    """Knows the repository and the programs that were built of it."""

    def __init__(self, root, binaries):
        self.root, self.binaries = Path(root), Path(binaries)
        self.runs = (self.root / ".ci/run").read_text()
        listed = subprocess.run(["bash", "-c", "compgen -bk"], capture_output=True, text=True, check=True)
        self.builtins = set(listed.stdout.split())
        self.asked = {}

    def faults(self, blocks):
        """What is wrong with the blocks of one page."""
        known = set().union(*(functions(block.text) for block in blocks))
        faults = []
        for block in blocks:
            if block.verdict != "file":
                faults += [f"{block.place}: {fault}" for fault in self.faults_of(block, known)]
        return faults

    def faults_of(self, block, known):
        text = "\n".join(command.text for command in block.commands())
        syntax = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        if syntax.returncode:
            return [syntax.stderr.strip()]
        try:
            commands = simple_commands(text)
        except ValueError as error:
            return [f"cannot be taken apart: {error}"]
        faults = [fault for words in commands if (fault := self.use(words))]
        if not commands:
            faults.append("is no command: settings are `ini`")
        if block.verdict == "never" and block.what not in REASONS:
            faults.append(f"no such reason: {block.what}; there are: {', '.join(REASONS)}")
        elsewhere = {"never": REASONS.get(block.what, set()), "by": OF_OTHERS}.get(block.verdict, set())
        for words in commands:
            if words[0] not in known | elsewhere and not self.is_there(words[0]):
                faults.append(f"no such program: {words[0]}")
        if block.verdict == "by":
            faults += self.proxy_faults(block.what, commands, block.page)
        return faults

    def is_there(self, program):
        places = [self.root / place / program for place in ("", "compose", "docs/examples")]
        return (
            program in self.builtins
            or program in PROGRAMS
            or Path(program).name in PROGRAMS
            or any(place.is_file() for place in places)
            or shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            or shutil.which(program)
        )

    def use(self, words):
        """What a program of ours says against its arguments, asked with `--help` behind them: that runs nothing."""
        program, *arguments = in_container(words) if words[0] == "docker" else words
        if Path(program).name not in PROGRAMS:
            return None
        asked = (Path(program).name, *(word for word in arguments if word not in ELLIPSES))
        if asked not in self.asked:
            command = [self.binaries / asked[0], *asked[1:], "--help"]
            said = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
            self.asked[asked] = said.stderr.strip().splitlines()[0] if said.returncode else None
        fault = self.asked[asked]
        return f"`{' '.join(asked)}`: {fault}" if fault else None

    def proxy_faults(self, path, commands, page):
        """Whether a script or a test that is run names the words of these commands."""
        place = self.root / path
        if not place.is_file():
            return [f"no such script or test: {path}"]
        text = place.read_text()
        is_test = path.endswith(".rs") and ("/tests/" in path or "#[test]" in text or "::test" in text)
        is_check = path == ".ci/run" or path.startswith("compose/check-")
        if not is_check and not is_test and path not in self.runs:
            return [f"{path} is neither a test nor a check, nor called by .ci/run"]
        said = without_comments(text, "//" if path.endswith(".rs") else "#")
        if page in said and "```sh" in said:
            return []  # it takes the commands out of the page itself
        unknown = [" ".join(words) for words in commands if not telling(words)]
        untold = [f"nothing tells by what {path} would be known to run `{command}`" for command in unknown]
        missing = {word for words in commands for word in telling(words) if not names(said, word)}
        return untold + [f"{path} does not contain `{word}`" for word in sorted(missing)]

    def settings(self):
        """Every variable that a program, a script or a test of ours reads."""
        known = set()
        for program in PROGRAMS[:3]:
            said = subprocess.run([self.binaries / program, "--help"], capture_output=True, text=True, check=True)
            known |= set(re.findall(r"\[env: (FFPOOL_\w+)", said.stdout))
        tracked = subprocess.run(["git", "-C", self.root, "ls-files", "compose", ".ci", "*.rs"], capture_output=True, text=True)
        for name in tracked.stdout.split():
            if name.endswith(".md") or name.startswith(("compose/grafana/", "compose/documents/")):
                continue
            text = (self.root / name).read_text(errors="replace")
            read = r'"(FFPOOL_\w+)"' if name.endswith(".rs") else r"\b(FFPOOL_[A-Z0-9_]+)"
            known |= set(re.findall(read, text))
        return known


def in_container(words):
    """What `docker compose run` runs: the service's own program, unless another is named."""
    if words[1:3] != ["compose", "run"]:
        return words
    service, *arguments = itertools.dropwhile(lambda word: word.startswith("-"), words[3:])
    return arguments if arguments and arguments[0] in PROGRAMS else [service, *arguments]


def telling(words):
    """The words by which a command is known again: the program, its subcommands; of an address what follows /v1."""
    for word in words:
        if "/v1/" in word:
            return [part for part in re.split(r"[/?]", word.split("/v1/")[1]) if re.fullmatch(r"[a-z-]+", part)]
    program = Path(words[0]).name
    found = [] if program in PROGRAMS else [program]
    for word in words[1:]:
        if not re.fullmatch(r"[a-z][a-z-]+", word):
            break
        found.append(word)
    return found


def without_comments(text, mark):
    """A source without the lines that are comments: what is only told of is not run."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(mark))


def names(text, word):
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None
