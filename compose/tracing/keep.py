"""Keeps what a collector hands on: takes OTLP by HTTP, reads it with OpenTelemetry's own definitions, and appends one JSON object a span
to FOLDER/spans. FOLDER/port says where it listens.

usage: keep.py FOLDER
"""

import gzip
import http.server
import json
import pathlib
import sys
import threading

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

FOLDER = pathlib.Path(sys.argv[1])
FAILED = 2


def plain(value):
    kind = value.WhichOneof("value")
    return str(getattr(value, kind)) if kind else ""


def spans_in(request):
    for resource in request.resource_spans:
        service = {one.key: plain(one.value) for one in resource.resource.attributes}.get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "service": service,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": span.kind,
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "links": [link.span_id.hex() for link in span.links],
                    "failed": span.status.code == FAILED,
                    "attributes": {one.key: plain(one.value) for one in span.attributes},
                }


class Keeper(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        lines = [json.dumps(span) + "\n" for span in spans_in(ExportTraceServiceRequest.FromString(body))]
        with alone:
            kept.write("".join(lines))
            kept.flush()
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


# Lines of two requests must not mix.
alone = threading.Lock()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keeper)
with open(FOLDER / "spans", "a", encoding="utf-8") as kept:
    beside = FOLDER / "port.new"
    beside.write_text(str(server.server_port))
    beside.rename(FOLDER / "port")
    server.serve_forever()
