#!/usr/bin/env python3
"""Publishes one job to ffpool over AMQP, follows it over HTTP until it has ended, and exits with 0 if it completed.

usage: publish.py SCENARIO OUTPUT [INPUT]      without INPUT a test picture of two seconds is encoded

Needs pika 1.2 or newer (Debian: python3-pika). Environment:
  FFPOOL_AMQP_URL     amqp://user:password@host:5672/%2f; amqps://... with ?cacertfile=ca.pem, and where the broker asks for a
                      certificate &certfile=me.pem&keyfile=me.pem
  FFPOOL_API_URL      https://host:8080
  FFPOOL_API_KEY      a key that may read
  FFPOOL_API_CA_FILE  whom to trust besides the system's authorities (optional)
  TRACEPARENT         the W3C trace to which the job belongs (optional)
"""

import contextlib
import http.client
import json
import logging
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import pika
import pika.exceptions

QUEUE = "default"      # live, default or batch: the exchange is jobs.<queue>
PRIORITY = "high"      # high, medium or low: the routing key; high.gpu for the pool gpu
PUBLISH_SECS = 30      # from the connection to the broker's confirm
SILENCE_SECS = 60      # the API sends a comment every 15 seconds; a stream as silent as this is dead
PATIENCE_SECS = 60     # how long the API may be away, or may not know the job
ENDS = ("completed", "failed", "cancelled", "rejected")


class Trouble(Exception):
    """What went wrong, as one sentence for a person."""


def job_of(scenario, output, source):
    """The job. Its id follows from what it says, so publishing it again, even after a crash, makes no second job.

    A program with ids of its own (an order, a row) takes those instead: any UUID will do.
    """
    job = {"scenario": scenario, "output": output, "queue": QUEUE, "priority": PRIORITY}
    if source:
        job["input"] = source
    else:
        job["parameters"] = {"duration": 2}
    name = json.dumps(job, sort_keys=True)
    return {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, name)), **job}


@contextlib.contextmanager
def deadline(seconds, doing):
    """Ends a wait that has no bound of its own."""
    def end(_signal, _frame):
        raise Trouble(f"{doing} took longer than {seconds} s; start again with the same arguments, which is safe")
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def setting(name):
    if not os.environ.get(name):
        raise Trouble(f"{name} is not set")
    return os.environ[name]


def url_of(name, *schemes):
    """A setting that is a URL, in its parts. What is wrong with one is not shown: there may be a password in it."""
    try:
        parts = urllib.parse.urlsplit(setting(name))
        if parts.scheme in schemes and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise Trouble(f"{name} is no URL of {' or '.join(schemes)}")


def load(name, file, loading):
    """Has a certificate's file loaded that the setting `name` names."""
    try:
        loading()
    except OSError as error:
        raise Trouble(f"{name}: {file} cannot be read: {error.strerror or error}") from None


def amqp_parameters(name):
    """pika's settings for a URL that names certificate files as RabbitMQ's own clients do."""
    parts = url_of(name, "amqp", "amqps")
    files = dict(urllib.parse.parse_qsl(parts.query))
    try:
        parameters = pika.URLParameters(urllib.parse.urlunsplit(parts._replace(query="")))
    except ValueError as error:
        raise Trouble(f"{name}: {error}") from None
    if parts.scheme == "amqps":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which verifies certificate and host
        authorities = files.get("cacertfile")
        if authorities:
            load(name, authorities, lambda: tls.load_verify_locations(authorities))
        else:
            tls.load_default_certs()
        if "certfile" in files:
            load(name, files["certfile"], lambda: tls.load_cert_chain(files["certfile"], files.get("keyfile")))
        parameters.ssl_options = pika.SSLOptions(tls, parameters.host)
    parameters.heartbeat = 10
    # A broker that is short of memory or disk takes nothing from publishers and answers nothing.
    parameters.blocked_connection_timeout = PUBLISH_SECS
    return parameters


def api_trust():
    """Whom to trust where the API is asked."""
    tls = ssl.create_default_context()
    file = os.environ.get("FFPOOL_API_CA_FILE")
    if file:
        load("FFPOOL_API_CA_FILE", file, lambda: tls.load_verify_locations(file))
    return tls


def publish(parameters, job):
    """Returns when the broker has stored the job."""
    headers = {"traceparent": os.environ["TRACEPARENT"]} if os.environ.get("TRACEPARENT") else None
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,                               # persistent
        message_id=job["id"],
        user_id=parameters.credentials.username,       # the broker vouches for it; by it a tenant's jobs are known
        headers=headers,
    )
    exchange = f"jobs.{QUEUE}"
    try:
        with deadline(PUBLISH_SECS, "publishing"), contextlib.closing(pika.BlockingConnection(parameters)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            # Mandatory and confirmed: this returns when every queue has the message, and raises otherwise.
            channel.basic_publish(exchange, PRIORITY, json.dumps(job).encode(), properties, mandatory=True)
    except pika.exceptions.UnroutableError:
        raise Trouble(f"no queue is bound to {exchange} under {PRIORITY}: is a dispatcher running?") from None
    except pika.exceptions.NackError:
        raise Trouble("the broker could not store the job; start again, which is safe") from None
    except pika.exceptions.ConnectionBlockedTimeout:
        raise Trouble("the broker takes no messages at present: it is short of memory or disk") from None
    except pika.exceptions.ProbableAuthenticationError:
        raise Trouble("RabbitMQ does not accept this user and password") from None
    except pika.exceptions.ChannelClosedByBroker as error:
        raise Trouble(f"RabbitMQ refused the job: {error.reply_text}") from None
    except ssl.SSLError as error:
        raise Trouble(f"RabbitMQ and this program do not trust each other: {error}") from None
    except (pika.exceptions.AMQPError, OSError) as error:
        raise Trouble(f"the job may not have been published: {error!r}; start again, which is safe") from None


def events(stream):
    """The (event, data) pairs of a stream of server-sent events."""
    event, data = "message", []
    for line in stream:
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif not name and not value and data:
            yield event, json.loads("\n".join(data))
            event, data = "message", []


def follow(api, key, tls, job_id):
    """The job as it ended. Connects again when the stream breaks: it begins with the present state."""
    request = urllib.request.Request(f"{api}/v1/jobs/{job_id}/events", headers={"X-API-Key": key})
    patience_ends = time.monotonic() + PATIENCE_SECS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=SILENCE_SECS, context=tls) as stream:
                try:
                    for event, data in events(stream):
                        if event == "progress":
                            print(f"{job_id}: {data['phase']} {data['percent'] or 0:.0f} %")
                        elif event == "job" and data["state"] in ENDS:
                            return data
                        elif event == "job":
                            print(f"{job_id}: {data['state']}")
                finally:
                    # Patience begins where a stream ends, however long it was open.
                    patience_ends = time.monotonic() + PATIENCE_SECS
            last = "the stream ended"
        except urllib.error.HTTPError as error:
            # 404: the dispatcher has not read the broker's copy of the job yet.
            if error.code not in (404, 429, 500, 503):
                raise Trouble(f"the API answered {error.code}: {error.read(2000).decode(errors='replace')}") from None
            last = f"the API answered {error.code}"
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        if time.monotonic() > patience_ends:
            raise Trouble(f"the job was published, but cannot be followed: {last}")
        time.sleep(1)


def why(job):
    """What the ledger says about a job that did not complete."""
    faults = [f"{fault['path']}: {fault['message']}" for fault in job["faults"]]
    failure = [job["failure"]["message"]] if job["failure"] else []
    return "; ".join(faults or failure or [job["reason"] or "no reason is on record"])


def main():
    if len(sys.argv) not in (3, 4):
        raise Trouble(__doc__.split("\n\n")[1])
    job = job_of(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else None)
    # pika writes what it also raises.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    # All that can be wrong with a setting is said before anything is published.
    broker = amqp_parameters("FFPOOL_AMQP_URL")
    api, key, tls = url_of("FFPOOL_API_URL", "http", "https").geturl(), setting("FFPOOL_API_KEY"), api_trust()
    publish(broker, job)
    print(f"{job['id']}: published")
    ended = follow(api, key, tls, job["id"])
    if ended["state"] != "completed":
        raise Trouble(f"job {job['id']} {ended['state']}: {why(ended)}")
    print(f"{job['id']}: completed as attempt {ended['attempt']}: {job['output']}")


if __name__ == "__main__":
    try:
        main()
    except Trouble as trouble:
        sys.exit(f"publish.py: {trouble}")
