"""Renders the chart with Helm's own engine and holds what comes out against the schemas of Kubernetes and the plain manifests.

usage: render.py (check | print) [CUSTOM_RESOURCES]
  check   compares compose/kubernetes/*.yaml with the chart, and validates; exits with 1 where something is wrong
  print   writes compose/kubernetes/*.yaml anew
  CUSTOM_RESOURCES   a file for the custom resources that were rendered, one JSON a line, which validate.mjs looks at

The plain manifests are what the chart makes of its own values, with a namespace: so there is one description of the pool.
"""

import json
import pathlib
import sys

import helm_python as helm
import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).parent
CHART = HERE.parent / "helm" / "ffpool"
NAMESPACE = "ffpool"
VERSIONS = ("1.30", kubernetes_validate.latest_version())
CUSTOM = ("keda.sh/", "monitoring.coreos.com/")

SCALED = {"worker": {"autoscaling": {"enabled": True}}, "deletionCost": {"enabled": True}, "monitoring": {"enabled": True}}
# Each set of values is rendered and validated. The first two are printed.
CASES = {
    "as it comes": {},
    "scaled and watched": SCALED,
    "by Prometheus": {"worker": {"autoscaling": {"enabled": True, "prometheus": "http://prometheus.monitoring:9090"}}},
    "to the worker": {"worker": {"autoscaling": {"enabled": True, "tolerance": 0}}},
    "cgroups and notices": {"worker": {"cgroups": True, "eviction": "aws"}},
    "pools": {
        "pools": {
            "cpu": {"replicas": 5},
            "gpu": {
                "env": {"FFPOOL_DEVICES": "nvenc:0=3"},
                "nodeSelector": {"accelerator": "nvidia"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "autoscaling": {"enabled": True, "max": 3},
            },
        }
    },
    "closed in": {
        "imagePullSecrets": [{"name": "registry"}],
        "dispatcher": {"service": {"annotations": {"a": "b"}}, "env": {"FFPOOL_API_NAMES": "pool.example"}},
        "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {
            "apiFrom": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "serversTo": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
        },
    },
    "open": {"networkPolicy": {"enabled": False}},
}
# What the schema of the values must refuse, and a word that its refusal has.
REFUSED = (
    ({"worker": {"drainSec": 5}}, "drainSec"),
    ({"worker": {"drainSecs": "long"}}, "drainSecs"),
    ({"worker": {"eviction": "alibaba"}}, "eviction"),
    ({"worker": {"autoscaling": {"tolerance": "none"}}}, "tolerance"),
    ({"pools": {"cpu": None}}, "pools"),
    ({"pools": {"returned": {}}}, "returned"),
    ({"pools": {"cpu": {"replica": 1}}}, "replica"),
    ({"dispatcher": {"env": {"AMQP_URL": "x"}}}, "AMQP_URL"),
)
PLAIN = {
    "ffpool.yaml": ("as it comes", ("dispatcher.yaml", "workers.yaml", "network.yaml")),
    "scaling.yaml": ("scaled and watched", ("scaling.yaml", "deletion-cost.yaml")),
    "monitoring.yaml": ("scaled and watched", ("monitoring.yaml",)),
}
NAMESPACE_MANIFEST = f"""apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def rendered(chart, values):
    """What the chart makes of values: the text of each template that makes something."""
    chart.validate_schema(values)
    texts = chart.render(values, name="ffpool", namespace=NAMESPACE)
    by_name = {pathlib.PurePosixPath(path).name: text for path, text in texts.items()}
    return {name: text for name, text in by_name.items() if name.endswith(".yaml") and list(resources(text))}


def resources(text):
    return (resource for resource in yaml.safe_load_all(text) if resource)


def faults(case, texts, custom):
    """What Kubernetes would refuse. Custom resources are put aside."""
    seen = set()
    for name, text in texts.items():
        for resource in resources(text):
            what = f"{case}: {name}: {resource['kind']} {resource['metadata']['name']}"
            key = (resource["kind"], resource["metadata"]["name"])
            if key in seen:
                yield f"{what}: twice"
            seen.add(key)
            if resource["metadata"].get("namespace") != NAMESPACE:
                yield f"{what}: is not in the namespace of the release"
            if resource["apiVersion"].startswith(CUSTOM):
                custom.append(resource)
                continue
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(resource, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    yield f"{what}: Kubernetes {version}: {error.message} at {list(error.path)}"
            yield from unlike_its_pods(what, resource)


def unlike_its_pods(what, resource):
    """What schemas do not see: selectors that miss their pods, mounts without volumes, secrets as values."""
    if resource["kind"] != "Deployment":
        return
    template = resource["spec"]["template"]
    missing = resource["spec"]["selector"]["matchLabels"].items() - template["metadata"]["labels"].items()
    if missing:
        yield f"{what}: its pods lack the labels {missing}"
    volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
    for container in template["spec"]["containers"] + template["spec"].get("initContainers", []):
        lost = {mount["name"] for mount in container.get("volumeMounts", [])} - volumes
        if lost:
            yield f"{what}: {container['name']} mounts {lost}, which are no volumes"
        names = [variable["name"] for variable in container.get("env", [])]
        if len(names) != len(set(names)):
            yield f"{what}: {container['name']} has a variable twice: {names}"


def loose(custom):
    """What KEDA must not do: count busy workers as idle, or go down while nobody answers."""
    for resource in custom:
        if resource["kind"] != "ScaledObject":
            continue
        (trigger,) = resource["spec"]["triggers"]
        asks = trigger["metadata"].get("valueLocation", trigger["metadata"].get("query", ""))
        if "desired_workers" not in asks or trigger["metadata"].get("unsafeSsl") == "true":
            yield f"ScaledObject {resource['metadata']['name']}: does not ask for desired workers, safely"
        if resource["spec"]["fallback"]["behavior"] != "currentReplicasIfHigher":
            yield f"ScaledObject {resource['metadata']['name']}: takes workers away while nobody can say how many are needed"
        try:
            kubernetes_validate.validate(autoscaler(resource["spec"]), VERSIONS[-1], strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"ScaledObject {resource['metadata']['name']}: its autoscaler: {error.message} at {list(error.path)}"


def autoscaler(scaled):
    """What KEDA makes of a ScaledObject, as far as it hands it on as it is."""
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": scaled["scaleTargetRef"]["name"]}
    spec = {"scaleTargetRef": target, "maxReplicas": scaled["maxReplicaCount"], "behavior": behavior}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"}, "spec": spec}


def plain(texts_by_case):
    """The plain manifests by their file's name."""
    for name, (case, templates) in PLAIN.items():
        parts = ["# Made from compose/helm/ffpool by `compose/check-kubernetes --print`; docs/kubernetes.md tells how to use it.\n"]
        if name == "ffpool.yaml":
            parts.append(NAMESPACE_MANIFEST)
        parts += [texts_by_case[case][template].strip("\n- ") + "\n" for template in templates]
        text = parts[0] + "---\n" + "---\n".join(parts[1:])
        yield name, "".join(line.rstrip() + "\n" for line in text.splitlines())


def refusals(chart):
    for values, word in REFUSED:
        try:
            rendered(chart, values)
        except helm.HelmError as error:
            if word not in str(error):
                yield f"values {values} are refused without saying why: {error}"
        else:
            yield f"values {values} are taken"


def main():
    mode, out = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    wrong, custom = [], []
    wrong += [f"helm lint: {finding['path']}: {finding['error']}" for finding in helm.lint(str(CHART))["messages"] if "icon" not in finding["error"]]
    with helm.Chart.load(str(CHART)) as chart:
        texts = {case: rendered(chart, values) for case, values in CASES.items()}
        wrong += refusals(chart)
    for case in CASES:
        wrong += faults(case, texts[case], custom)
    wrong += loose(custom)
    for name, text in plain(texts):
        if mode == "print":
            (HERE / name).write_text(text)
        elif not (HERE / name).exists() or (HERE / name).read_text() != text:
            wrong.append(f"compose/kubernetes/{name} is not what the chart makes: compose/check-kubernetes --print")
    if out:
        pathlib.Path(out).write_text("".join(json.dumps(resource) + "\n" for resource in custom))
    for fault in wrong:
        print(fault, file=sys.stderr)
    print(f"{len(CASES)} sets of values, {sum(len(list(resources(text))) for case in texts.values() for text in case.values())} resources, {len(wrong)} faults")
    sys.exit(1 if wrong else 0)


main()
