// Holds custom resources against the schemas of their definitions: KEDA's and the Prometheus operator's. Exits with 1 where
// one does not fit.
// usage: node validate.mjs RESOURCES   a file with one JSON a line. Lies where node_modules is: compose/check-kubernetes

import { readFileSync } from "node:fs";
import * as keda from "@kubernetes-models/keda/keda.sh/v1alpha1";
import * as operator from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const MODELS = {
  ScaledObject: keda.ScaledObject,
  TriggerAuthentication: keda.TriggerAuthentication,
  PodMonitor: operator.PodMonitor,
};

let faults = 0;
const lines = readFileSync(process.argv[2], "utf8").split("\n").filter((line) => line !== "");
for (const line of lines) {
  const resource = JSON.parse(line);
  try {
    const Model = MODELS[resource.kind];
    if (Model === undefined) throw new Error("there is no schema for this kind here");
    new Model(resource).validate();
  } catch (error) {
    faults += 1;
    console.error(`${resource.kind} ${resource.metadata.name}: ${error.message}`);
  }
}
console.log(`${lines.length} custom resources, ${faults} faults`);
process.exit(faults === 0 && lines.length > 0 ? 0 : 1);
