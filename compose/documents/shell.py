"""Takes shell text apart into simple commands, as far as documentation goes: quotes, pipes, lists, substitutions, here-documents,
functions on one line. It runs nothing.
"""

import re
import shlex

SEPARATORS = ";&|()\n"
HERE_DOCUMENT = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?(.*)\n(?:.*\n)*?\s*\1(?=\n|$)")
COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
FUNCTION = re.compile(r"^(\w+)\(\) *\{(.*)\}$", re.MULTILINE)
SUBSTITUTION = re.compile(r"[$<]\(([^()]*)\)")
ASSIGNMENT = re.compile(r"^\w+=")
# What stands before a command and is none.
PREFIXES = {"!", "if", "then", "else", "elif", "while", "until", "do", "{", "exec", "time", "sudo", "env", "nice"}
# What ends a construct or has no command in it.
ENDS = {"}", "fi", "done", "esac"}


def functions(text):
    """Names of the functions that are defined."""
    return {name for name, _ in FUNCTION.findall(text)}


def simple_commands(text):
    """Lists of words, each a program and its arguments, without assignments and redirections."""
    text = COMMENT.sub("", text.replace("\\\n", " "))
    text = HERE_DOCUMENT.sub(r"\2", text)
    text = FUNCTION.sub(r"\2", text)
    inner = []
    while found := SUBSTITUTION.search(text):
        inner.append(found[1])
        text = text[: found.start()] + "_" + text[found.end() :]
    commands = []
    for part in [text, *inner]:
        commands += pieces(part)
    return commands


def pieces(text):
    """The simple commands of text without substitutions."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=SEPARATORS + "<>")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    commands, words, is_target = [], [], False
    for token in [*lexer, "\n"]:
        if token and set(token) <= set(SEPARATORS):
            commands.append(words)
            words = []
        elif token and set(token) <= set("<>&"):
            is_target = True
            if words and words[-1].isdigit():
                words.pop()
        elif is_target:
            is_target = False
        else:
            words.append(token)
    return [bare for bare in map(without_prefixes, commands) if bare]


def without_prefixes(words):
    while words and (ASSIGNMENT.match(words[0]) or words[0] in PREFIXES):
        words = words[1:]
    return [] if words and (words[0] in ENDS or words[0] == "for") else words
