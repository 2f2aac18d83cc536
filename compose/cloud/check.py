"""Holds the cloud templates against the schemas of those who will read them, without any cloud.

usage: check.py CLOUD_CONFIG_SCHEMA
Exits with 1, and names every fault, where a template names what does not exist, gives more rights than are needed, or sets a
machine up in a way that would not work. compose/check-cloud calls it.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import googleapiclient
import hcl2
import jsonschema
import yaml
from azure.mgmt.compute.v2024_11_01 import models as azure
from cfnlint.decode import cfn_yaml

HERE = pathlib.Path(__file__).parent
UNIT = HERE.parent / "systemd" / "ffpool-worker.service"
LIFECYCLE = "/usr/local/sbin/ffpool-lifecycle"


def aws():
    """The CloudFormation template: by cfn-lint, and what it does not know of."""
    path = HERE / "aws.yaml"
    linted = subprocess.run([pathlib.Path(sys.executable).parent / "cfn-lint", path], capture_output=True, text=True, check=False)
    if linted.returncode:
        yield f"cfn-lint: {linted.stdout}{linted.stderr}"
    resources = cfn_yaml.load(str(path))["Resources"]
    data = resources["LaunchTemplate"]["Properties"]["LaunchTemplateData"]
    options = data["MetadataOptions"]
    if (options["HttpTokens"], options["HttpPutResponseHopLimit"]) != ("required", 1):
        yield f"the metadata service answers more than a worker needs: {options}"
    for policy in resources["Role"]["Properties"]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            if "*" in as_list(statement["Resource"]) or any(action.endswith("*") for action in as_list(statement["Action"])):
                yield f"a right without bounds: {statement}"
    text = data["UserData"]["Fn::Base64"]["Fn::Sub"]
    known = resources.keys() | cfn_yaml.load(str(path))["Parameters"].keys()
    for name in re.findall(r"\$\{([^}]+)\}", text):
        if name not in known and not name.startswith("AWS::"):
            yield f"user data names {name}, which is nothing here"
    config = re.sub(r"\$\{[^}]+\}", "900", text)
    yield from cloud_config("aws", config)
    yield from lifecycle(file_of(config, LIFECYCLE))


def gcp():
    """The Terraform file: parsed, and its blocks held against Google's own description of the interface they are sent to."""
    parsed = hcl2.loads((HERE / "gcp.tf").read_text())
    resources = {kind: body for resource in parsed["resource"] for kind, named in plain(resource).items() for body in named.values()}
    documents = pathlib.Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "compute.v1.json"
    schemas = json.loads(documents.read_text())["schemas"]
    template = resources["google_compute_instance_template"]
    group = resources["google_compute_region_instance_group_manager"]
    for block, schema in (
        (template["scheduling"], "Scheduling"),
        (template["shielded_instance_config"], "ShieldedInstanceConfig"),
        (template["network_interface"], "NetworkInterface"),
        (template["service_account"], "ServiceAccount"),
        (group["version"], "InstanceGroupManagerVersion"),
        (group["update_policy"], "InstanceGroupManagerUpdatePolicy"),
    ):
        for name, value in block[0].items():
            known = schemas[schema]["properties"].get(camel(name))
            if known is None:
                yield f"{schema} has no {camel(name)}"
            elif "enum" in known and value not in known["enum"]:
                yield f"{schema}.{camel(name)} cannot be {value}"
    if template["scheduling"][0]["provisioning_model"] != "SPOT" or "access_config" in template["network_interface"][0]:
        yield "the machines are not spot, or can be reached from outside"
    text = plain(parsed["locals"])[0]["cloud_config"]
    yield from cloud_config("gcp", re.sub(r"\$\{[^}]+\}", "x", text))


def azure_set():
    """The Resource Manager template: the scale set as Azure's own library reads it; what it does not know, it drops."""
    template = json.loads((HERE / "azure.json").read_text())
    (scale_set,) = [it for it in template["resources"] if it["type"].endswith("/virtualMachineScaleSets")]
    body = {key: value for key, value in scale_set.items() if key not in ("type", "apiVersion", "dependsOn", "name")}
    # Expressions stand where numbers are expected.
    text = json.dumps(body).replace('"[parameters(\'capacity\')]"', "1").replace('"[parameters(\'scratchGiB\')]"', "100")
    given = json.loads(text)
    read = azure.VirtualMachineScaleSet.deserialize(given)
    yield from lost("", given, read.serialize(keep_readonly=True))
    profile = given["properties"]["virtualMachineProfile"]
    if not profile["scheduledEventsProfile"]["terminateNotificationProfile"]["enable"] or profile["priority"] != "Spot":
        yield "the machines are not spot, or nobody is told before they go"
    names = template["parameters"].keys() | template["variables"].keys()
    for name in re.findall(r"(?:parameters|variables)\('([^']+)'\)", json.dumps(template)):
        if name not in names:
            yield f"{name} is neither a parameter nor a variable"
    yield from cloud_config("azure", "\n".join(template["variables"]["cloudConfig"]))


def lost(place, given, read):
    """What stands in `given` and not in `read`."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(read, dict) or key not in read:
                yield f"Azure knows no {place}.{key}"
            else:
                yield from lost(f"{place}.{key}", value, read[key])
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from lost(f"{place}[{index}]", value, read[index])


def cloud_config(cloud, text):
    """What cloud-init, systemd and the shell would say of a machine's set-up."""
    if not text.lstrip().startswith("#cloud-config"):
        yield f"{cloud}: cloud-init does not read it: its first line is no #cloud-config"
    config = yaml.safe_load(text)
    schema = json.loads(pathlib.Path(sys.argv[1]).read_text())
    known = {key for part in schema["$defs"].values() for key in part.get("properties", {})}
    unknown = config.keys() - known
    if unknown or not {"write_files", "runcmd"} <= config.keys():
        yield f"{cloud}: cloud-config: unknown are {unknown or 'none'}, of {list(config)}"
        return
    for error in jsonschema.Draft4Validator(schema).iter_errors(config):
        yield f"{cloud}: cloud-config: {error.message} at {list(error.path)}"
    scripts = [entry["content"] for entry in config["write_files"] if entry["content"].startswith("#!")]
    for script in [*scripts, "\n".join(config["runcmd"])]:
        read = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
        if read.returncode:
            yield f"{cloud}: {read.stderr}"
    with tempfile.TemporaryDirectory() as folder:
        units = pathlib.Path(folder)
        # With programs that are here.
        (units / UNIT.name).write_text(re.sub("^ExecStart=.*", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M))
        for entry in config["write_files"]:
            if entry["path"].startswith("/etc/systemd/system/"):
                path = units / pathlib.PurePosixPath(entry["path"]).relative_to("/etc/systemd/system")
                path.parent.mkdir(exist_ok=True)
                path.write_text(entry["content"].replace(LIFECYCLE, "/bin/true"))
        for unit in sorted(path for path in units.iterdir() if path.is_file()):
            said = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
            if said.returncode or "ffpool" in said.stderr:
                yield f"{cloud}: {unit.name}: {said.stderr}"


def lifecycle(script):
    """The script that stands between the worker and the auto scaling group, with a play of both."""
    for state, word, wanted in (
        ("InService", "look", []),
        ("InService", "ended", []),
        ("Terminated", "look", ["systemctl stop --no-block ffpool-worker"]),
        ("Terminated", "ended", ["complete-lifecycle-action", "--instance-id i-1"]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            play(place / "curl", f'case $* in *api/token*) echo token ;; *lifecycle-state*) echo {state} ;; *instance-id*) echo i-1 ;; esac')
            for program in ("systemctl", "aws"):
                play(place / program, f'echo {program} "$@" >>"{place}/done"')
            path = f"{folder}:{os.environ['PATH']}"
            ran = subprocess.run(["sh", "-s", word], input=script, env={"PATH": path}, capture_output=True, text=True, check=False)
            done = (place / "done").read_text() if (place / "done").exists() else ""
            if ran.returncode or (not wanted and done) or not all(part in done for part in wanted):
                yield f"ffpool-lifecycle {word} when {state}: exit code {ran.returncode}, {done!r}, {ran.stderr}"


def play(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def file_of(config, path):
    (content,) = [entry["content"] for entry in yaml.safe_load(config)["write_files"] if entry["path"] == path]
    return content


def as_list(value):
    return value if isinstance(value, list) else [value]


def camel(name):
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def plain(value):
    """What the parser gives, without its quotes, its marks and the frame of a text over several lines."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items() if not str(key).startswith("__")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str):
        text = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        if text.startswith("<<-"):
            lines = text.split("\n")[1:-1]
            indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
            return "\n".join(line[indent:] for line in lines)
        return text
    return value


def main():
    faults = [f"{name}: {fault}" for name, check in (("aws.yaml", aws), ("gcp.tf", gcp), ("azure.json", azure_set)) for fault in check()]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"3 templates, {len(faults)} faults")
    sys.exit(1 if faults else 0)


main()
