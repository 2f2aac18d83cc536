"""What the check reads out of pages and shell text."""

import tempfile
import unittest
from pathlib import Path

import pages
from judge import Judge, telling, without_comments
from shell import functions, simple_commands


def fenced(language, text, comment=""):
    return f"{comment}\n```{language}\n{text}\n```\n"


class Pages(unittest.TestCase):
    def test_a_block_says_in_a_comment_above_it_who_runs_it(self):
        for comment, verdict, what in [
            ("", "here", ""),
            ("<!-- run: exit 3 -->", "here", "3"),
            ("<!-- run: background -->", "background", ""),
            ("<!-- run: by compose/check-x -->", "by", "compose/check-x"),
            ("<!-- run: never, needs systemd -->", "never", "needs systemd"),
        ]:
            (block,) = pages.blocks("p.md", fenced("sh", "true", comment))
            self.assertEqual((block.verdict, block.what, block.place), (verdict, what, "p.md:2"))

    def test_what_is_no_command_counts_only_as_a_file(self):
        self.assertEqual(pages.blocks("p.md", fenced("json", "{}") + fenced("", "x")), [])
        (block,) = pages.blocks("p.md", fenced("json", "{}", "<!-- run: file job.json -->"))
        self.assertEqual((block.verdict, block.what, block.text), ("file", "job.json", "{}"))

    def test_a_comment_that_says_nothing_known_is_a_fault(self):
        for text in [
            fenced("sh", "true", "<!-- run: perhaps -->"),
            fenced("json", "{}", "<!-- run: background -->"),
            fenced("sh", "true", "<!-- run: file x -->"),
            "<!-- run: background -->\n\n" + fenced("sh", "true"),
            "```sh\ntrue\n",
        ]:
            with self.assertRaises(ValueError, msg=text):
                pages.blocks("p.md", text)

    def test_a_console_block_is_commands_and_what_they_print(self):
        (block,) = pages.blocks("p.md", fenced("console", "$ a \\\n>  b\nx\n…\n$ c"))
        self.assertEqual([(c.text, c.shown) for c in block.commands()], [("a \\\n b", ["x", "…"]), ("c", [])])

    def test_what_is_shown_must_come_in_order(self):
        came = "job #17 completed after 4s, 1 attempt\n  output   /tmp/x\nlast\n"
        self.assertIsNone(pages.unseen(["job #2 completed after 12s, 1 attempt", "…", "output …"], came))
        self.assertEqual(pages.unseen(["last", "output …"], came), "output …")
        self.assertEqual(pages.unseen(["job #2 failed after 12s, 1 attempt"], came), "job #2 failed after 12s, 1 attempt")
        self.assertEqual(pages.unseen(["-%  encode"], "50.0%  encode"), "-%  encode")


class Shell(unittest.TestCase):
    def test_commands_are_found_in_lists_pipes_and_substitutions(self):
        text = "A=b sudo one 'x y' && two | three 2>/dev/null; four \"$(five \"$V\" | six)\" <(seven)  # eight\nnine\\\n ten"
        words = [command[0] for command in simple_commands(text)]
        self.assertEqual(sorted(words), sorted(["one", "two", "three", "four", "five", "six", "seven", "nine"]))
        self.assertIn(["one", "x y"], simple_commands(text))
        self.assertIn(["three"], simple_commands(text))

    def test_here_documents_and_functions_are_looked_through(self):
        text = "f() { inner \"$@\"; }\ncat > file <<END\nnot a command\nEND\nf x"
        self.assertEqual(functions(text), {"f"})
        self.assertEqual([command[0] for command in simple_commands(text)], ["inner", "cat", "f"])


class Telling(unittest.TestCase):
    def test_subcommands_tell_but_values_do_not(self):
        self.assertEqual(telling(["ffpool", "jobs", "list", "--status", "running"]), ["jobs", "list"])
        self.assertEqual(telling(["compose/rights/apply", "tenant", "acme-in"]), ["apply", "tenant", "acme-in"])
        self.assertEqual(telling(["api", "-X", "POST", "$U/v1/workers/worker-1/drain"]), ["workers", "drain"])

    def test_a_program_alone_tells_nothing(self):
        self.assertEqual(telling(["ffpool-dispatcher", "..."]), [])


class Proxies(unittest.TestCase):
    """Scripts and tests that are said to run a block."""

    def setUp(self):
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.root / ".ci").mkdir()
        (self.root / "compose").mkdir()
        (self.root / ".ci/run").write_text("step x compose/check-x\n")
        (self.root / "compose/check-x").write_text("# not ffpool jobs list\n    # nor this\nffpool workers list # as ever\n")
        self.judge = Judge(self.root, self.root)

    def faults(self, *words):
        return self.judge.proxy_faults("compose/check-x", [list(words)], "docs/x.md")

    def test_what_a_script_names_is_run_by_it(self):
        self.assertEqual(self.faults("ffpool", "workers", "list"), [])

    def test_a_script_that_reads_the_page_itself_runs_what_stands_there(self):
        (self.root / "compose/check-x").write_text("sed -n '/^```sh$/,/^```$/p' docs/x.md | bash\n")
        self.assertEqual(self.faults("go", "run"), [])

    def test_what_stands_only_in_a_comment_is_not_run(self):
        self.assertEqual(self.faults("ffpool", "jobs"), ["compose/check-x does not contain `jobs`"])

    def test_a_command_by_which_nothing_is_known_is_a_fault(self):
        self.assertEqual(len(self.faults("ffpool-dispatcher", "...")), 1)

    def test_in_rust_an_attribute_is_no_comment(self):
        self.assertEqual(without_comments("#[test]\n/// top\nfn f() {}", "//"), "#[test]\nfn f() {}")


if __name__ == "__main__":
    unittest.main()
