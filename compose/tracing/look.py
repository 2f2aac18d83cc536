"""Runs jobs in a pool and looks at what became known of them: at the spans that a collector has handed on to keep.py, at exemplars in a
Prometheus, at fields in journald's journal. Ends with 1 and what was not so.

usage: look.py grpc|http FOLDER   in the shell of a pool of compose/dev's; compose/check-tracing sets everything up
"""

import functools
import glob
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

WITHIN = 60
PAUSE = 0.1
PUBLISHER = "00f067aa0ba902b7"
BY_AMQP = "4bf92f3577b34da6a3ce929d0e0e4736"
BY_HTTP = "0af7651916cd43dd8448eb211c80319c"
KINDS = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
FOLDER = pathlib.Path(sys.argv[2])
MEDIA = pathlib.Path(os.environ["FFPOOL_MEDIA_ROOT"])


def expect(is_so, what):
    if not is_so:
        sys.exit(f"check-tracing: {what}")


def until(what, look):
    """What `look` finds, as soon as that is something; `look` raises Missing with what it saw instead."""
    ends = time.monotonic() + WITHIN
    while True:
        try:
            return look()
        except Missing as missing:
            expect(time.monotonic() < ends, f"not within {WITHIN} s: {what}: {missing}")
        time.sleep(PAUSE)


class Missing(Exception):
    pass


# -------------------------------------------------------------------------------------------------------------- jobs


def ffpool(*arguments, trace=None, codes=(0,)):
    environment = dict(os.environ)
    if trace:
        environment["TRACEPARENT"] = f"00-{trace}-{PUBLISHER}-01"
    done = subprocess.run(["ffpool", *arguments, "--output", "json"], env=environment, capture_output=True, text=True, check=False)
    expect(done.returncode in codes, f"ffpool {' '.join(arguments)} ended with {done.returncode}: {done.stderr}{done.stdout}")
    return json.loads(done.stdout)


def submit(name, *flags, trace=None):
    """The id of a job that takes a moment."""
    flags = ("--scenario", "240p15-h264", "--param", "duration=1", "--param", "preset=ultrafast", "--to", str(MEDIA / "out" / name), *flags)
    return ffpool("submit", *flags, trace=trace)[0]["id"]


def ended(job, state):
    found = ffpool("jobs", "watch", job, codes=(0, 3))
    expect(found["state"] == state, f"{job} is to be {state}: {found}")
    return found


def own_trace(job):
    return job.replace("-", "")


def chosen(low):
    """An id whose trace is in any share (low 0) or in no share below the whole (low 0xff...): the 56 random bits decide."""
    return str(uuid.UUID(int=(time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | 0x80 << 56 | low))


# ------------------------------------------------------------------------------------------------------------- spans


def listed():
    """The spans of a job that comes over AMQP and succeeds, as docs/tracing.md lists them."""
    row = re.compile(r"\| `([^`]+)` \| (dispatcher|worker) \| (\w+) \| ([^|]+) \|")
    page = pathlib.Path("docs/tracing.md").read_text(encoding="utf-8")
    spans = {name: (f"ffpool-{by}", KINDS[kind], below.strip()) for name, by, kind, below in row.findall(page)}
    said = int(re.search(r"has these (\d+)", page).group(1))
    expect(len(spans) == said, f"docs/tracing.md lists {len(spans)} spans and says {said}")
    return spans


def spans_of(trace):
    text = (FOLDER / "spans").read_text(encoding="utf-8")
    # The last line may be half written.
    lines = (json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines())
    return [span for span in lines if span["trace"] == trace]


def heard(trace, names, count=1):
    """The spans of a trace, when it has so many of each name."""

    def look():
        spans = spans_of(trace)
        had = [span["name"] for span in spans]
        lacking = [name for name in names if had.count(name) < count]
        if lacking:
            raise Missing(f"trace {trace} has no {lacking}; it has {sorted(had)}")
        return spans

    return until("the collector has heard of all", look)


def one_tree(spans, root):
    """Whether all hang together, below `root`: one trace, from one beginning."""
    ids = {span["id"] for span in spans}
    expect(len(ids) == len(spans), f"two spans have one id: {spans}")
    loose = [f"{span['service']} {span['name']}" for span in spans if span["parent"] not in ids and span["parent"] != root]
    expect(not loose, f"hang in the air: {loose}")
    first = [span for span in spans if span["parent"] == root]
    expect(len(first) == 1, f"one beginning is expected: {[span['name'] for span in first]}")
    return first[0]


def named(spans, name):
    found = [span for span in spans if span["name"] == name]
    expect(len(found) == 1, f"one span {name} is expected: {found}")
    return found[0]


def known_systems(spans):
    """Whether each span at a server says which, by OpenTelemetry's conventions."""
    systems = {
        "ledger": ("db.system.name", "postgresql"),
        "publish jobs": ("messaging.system", "rabbitmq"),
        "process jobs": ("messaging.system", "rabbitmq"),
        "claim": ("messaging.system", "nats"),
        "commit": ("messaging.system", "nats"),
    }
    for span in spans:
        for begin, (key, value) in systems.items():
            if span["name"].startswith(begin):
                expect(span["attributes"].get(key) == value, f"{span['name']} has not {key}={value}: {span}")


def told_whole(trace):
    """The job came over AMQP by `ffpool submit`, which has a span of its own above it."""
    spans, rows, publish = heard(trace, [*listed(), "publish jobs.default"]), listed(), "publish jobs.default"
    expect(one_tree(spans, PUBLISHER) == named(spans, publish), "it begins with the publisher's")
    worker = next(name for name, (by, kind, _) in rows.items() if by == "ffpool-worker" and kind == KINDS["consumer"])
    above = {"the publisher's": publish, "the worker's `process`": worker}
    for name, (service, kind, below) in rows.items():
        span, parent = named(spans, name), named(spans, above.get(below, below.strip("`")))
        expect((span["service"], span["kind"]) == (service, kind), f"{name} is by {service} and of kind {kind}: {span}")
        expect(span["parent"] == parent["id"], f"{name} stands below {parent['name']}: {span}")
        expect(span["start"] <= span["end"] and not span["failed"], f"{name} is well and has a length: {span}")
    more = {span["name"] for span in spans} - {*rows, publish}
    expect(not more, f"docs/tracing.md does not list {more}")
    known_systems(spans)
    print(f"one trace of {len(spans)} spans, from the publisher's traceparent to the end on record")


def told_of_both_attempts(job):
    names = ["attempt", "wait", "prepare", "process jobs.default.medium", "process jobs.events"]
    spans = heard(own_trace(job), names, count=2)
    heard(own_trace(job), ["job", "delay", "ledger failed", "ledger finished", "encode", "verify"])
    spans = heard(own_trace(job), names, count=2)
    one_tree(spans, "")
    first, second = sorted((span for span in spans if span["name"] == "attempt"), key=lambda span: span["start"])
    expect(first["failed"] and first["attributes"]["error.type"] == "input_missing" and not first["links"], f"the first: {first}")
    expect(not second["failed"] and second["links"] == [first["id"]], f"the second is linked with the first: {first} {second}")
    whole = named(spans, "job")
    expect(not whole["failed"] and whole["attributes"]["ffpool.job.attempts"] == "2", f"the job is well in the end: {whole}")
    expect({first["parent"], second["parent"]} == {whole["id"]}, "both attempts stand below the job")
    known_systems(spans)
    print(f"one trace of {len(spans)} spans for a job that was tried twice, its attempts linked")


# --------------------------------------------------------------------------------------------------------- exemplars


def prometheus():
    """The address of one that scrapes the pool and keeps exemplars; it ends with us."""
    place = FOLDER / "prometheus"
    place.mkdir()
    targets = [{"targets": pathlib.Path(os.environ["FFPOOL_DEV_DIR"], "metrics").read_text(encoding="utf-8").split()}]
    config = {"scrape_configs": [{"job_name": "ffpool", "scrape_interval": "1s", "scrape_timeout": "1s", "static_configs": targets}]}
    # JSON is YAML too.
    (place / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    address = os.environ["CHECK_PROMETHEUS"]
    command = ["setpriv", "--pdeathsig", "KILL", "prometheus", "--enable-feature=exemplar-storage", "--log.level=warn",
               f"--web.listen-address={address}", f"--config.file={place}/config.yaml", f"--storage.tsdb.path={place}/data"]
    with open(place / "log", "wb") as log:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return address


def has_exemplars(address, trace):
    for series in ("ffpool_queue_wait_seconds", "ffpool_worker_attempt_seconds"):
        asked = urllib.parse.urlencode({"query": f"{series}_bucket", "start": time.time() - 600, "end": time.time() + 600})

        def look(series=series, asked=asked):
            try:
                with urllib.request.urlopen(f"http://{address}/api/v1/query_exemplars?{asked}", timeout=5) as answer:
                    data = json.load(answer)["data"]
            except (urllib.error.URLError, OSError) as error:
                raise Missing(error) from error
            traces = {one["labels"].get("trace_id") for found in data for one in found["exemplars"]}
            if trace not in traces:
                raise Missing(f"exemplars of {series} have the traces {traces}")

        until(f"Prometheus has {series} with the trace of the job", look)
    print("Prometheus leads from both histograms to that trace")


# ----------------------------------------------------------------------------------------------------------- journal


def journal(*matches):
    found = subprocess.run(["journalctl", *map("--file={}".format, glob.glob("/run/log/journal/*/*.journal")), "--output=json", *matches],
                           capture_output=True, text=True, check=False)
    return [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]


def values(entry, field):
    """All of a field: a line within spans that have the same field has it several times."""
    value = entry.get(field, [])
    return value if isinstance(value, list) else [value]


def told_to_the_journal(job, spans):
    """journald took each field of a line apart, so that lines are found by job, and by the trace that the collector has."""
    process = named(spans, "process jobs.default.medium")
    expected = {
        "_TRANSPORT": "journal",
        "SYSLOG_IDENTIFIER": "ffpool-worker",
        "FFPOOL_JOB": job,
        "FFPOOL_ATTEMPT": "1",
        "FFPOOL_QUEUE": "default",
        "FFPOOL_TRACE_ID": own_trace(job),
        "FFPOOL_SPAN_ID": process["id"],
    }

    def look():
        lines = journal(f"FFPOOL_JOB={job}", "SYSLOG_IDENTIFIER=ffpool-worker")
        said = {line["MESSAGE"] for line in lines}
        if not {"the attempt begins", "the attempt ended"} <= said:
            raise Missing(f"the lines are {said}")
        return lines

    lines = until("both lines of the attempt are in the journal", look)
    for line in lines:
        if line["MESSAGE"] not in ("the attempt begins", "the attempt ended"):
            continue
        for field, value in expected.items():
            expect(value in values(line, field), f"{line['MESSAGE']!r} has not {field}={value}: {line}")
    begins = next(line for line in lines if line["MESSAGE"] == "the attempt begins")
    expect(values(begins, "FFPOOL_SCENARIO") == ["240p15-h264"], f"a field of the line itself: {begins}")
    ends = next(line for line in lines if line["MESSAGE"] == "the attempt ended")
    expect(values(ends, "FFPOOL_OUTCOME") == ["finished"], f"a field of the line itself: {ends}")
    by_trace = journal(f"FFPOOL_TRACE_ID={own_trace(job)}")
    expect(len(by_trace) >= 2, f"lines are found by the trace too: {by_trace}")
    others = journal(f"FFPOOL_JOB={uuid.uuid4()}")
    expect(not others, f"a job that there is not has no lines: {others}")
    expect(journal("SYSLOG_IDENTIFIER=ffpool-dispatcher"), "the dispatcher's lines are there too")
    print(f"journald has {len(lines)} lines of the job, each field apart")


# -------------------------------------------------------------------------------------------------------------- both


def grpc():
    """Everything is told, by gRPC."""
    address = prometheus()
    job = submit("amqp.mp4", "--amqp", trace=BY_AMQP)
    told_whole(BY_AMQP)
    ended(job, "completed")
    # Before the next job, whose trace takes the place of this one where both took as long.
    has_exemplars(address, BY_AMQP)
    late = MEDIA / "in" / "late.mp4"
    late.unlink(missing_ok=True)
    job = submit("late.mp4", "--input", str(late))

    def failed_once():
        failures = ffpool("jobs", "show", job)["failures"]
        if failures != 1:
            raise Missing(f"{failures} failures")

    until("its first attempt has found no input", failed_once)
    beside = MEDIA / "in" / "late.new"
    shutil.copy(MEDIA / "out" / "amqp.mp4", beside)
    beside.rename(late)
    ended(job, "completed")
    told_of_both_attempts(job)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def http_():
    """A half is told, and what fails, by HTTP; logs go to journald."""
    unseen = submit("unseen.mp4", "--id", chosen((1 << 56) - 1))
    ended(unseen, "completed")
    # From a server, so that it is fetched.
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=MEDIA / "out"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen = submit("seen.mp4", "--id", chosen(0), "--input", f"http://127.0.0.1:{server.server_port}/unseen.mp4")
    ended(seen, "completed")
    names = [*(set(listed()) - {"process jobs.ledger"}), "fetch", "publish jobs.default.medium", "POST /v1/jobs"]
    spans = heard(own_trace(seen), names)
    expect(one_tree(spans, "")["name"] == "POST /v1/jobs", "it begins with who handed it in")
    expect(named(spans, "fetch")["parent"] == named(spans, "prepare")["id"], "the source is fetched within prepare")
    known_systems(spans)
    print(f"one trace of {len(spans)} spans by HTTP, with what was fetched")
    told_to_the_journal(seen, spans)

    failed = submit("failed.mp4", "--id", chosen((1 << 56) - 2), "--input", str(MEDIA / "in" / "absent.mp4"), "--max-retries", "0")
    ended(failed, "failed")
    spans = heard(own_trace(failed), ["job", "attempt", "process jobs.default.medium", "prepare", "ledger failed"])
    for name in ("job", "attempt", "process jobs.default.medium"):
        span = named(spans, name)
        expect(span["failed"] and span["attributes"]["error.type"] == "input_missing", f"{name} says what failed: {span}")
    sampled = submit("sampled.mp4", "--id", chosen((1 << 56) - 3), trace=BY_HTTP)
    ended(sampled, "completed")
    one_tree(heard(BY_HTTP, ["job", "attempt", "encode", "ledger finished"]), PUBLISHER)
    expect(not spans_of(own_trace(unseen)), f"what is not in the share and ended well is not told: {spans_of(own_trace(unseen))}")
    print("of a half share: what is in it, what its publisher has sampled and what failed is told, nothing else")


{"grpc": grpc, "http": http_}[sys.argv[1]]()
