// Holds dashboards and provisioning against Grafana's own types: every field is one that Grafana has, each value of its type; a panel is
// one that Grafana draws, with that panel's own options; a query and the options of a data source are Prometheus'. Then breaks copies in
// many ways, each of which must be refused. Exits with 1 where something does not fit.
//
// usage: node validate.mjs FOLDER   compose/grafana. Lies where node_modules is: compose/check-dashboards puts it there
//
// The types say what Grafana works with after it has filled in its defaults; so what has none is all that is demanded here. Of who
// provides dashboards, and of Alertmanager's options, Grafana publishes no types: what its documentation lists stands here.

import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Ajv } from "ajv";
import { createGenerator } from "ts-json-schema-generator";
import { parse } from "yaml";

const HERE = dirname(fileURLToPath(import.meta.url));
const PANELS = "@grafana/schema/dist/types/raw/composable";
const panelTypes = (type) => `${PANELS}/${type}/panelcfg/x/types.gen`;
const fileOf = (type) => join(HERE, "node_modules", `${panelTypes(type)}.d.ts`);

// What is Grafana's, and what is Prometheus' in it: each names what the other has too, so each is read by itself.
const BOARD = `
import type * as dashboard from "@grafana/schema/dist/types/raw/dashboard/x/types.gen";
export type Board = Omit<dashboard.Dashboard, "panels"> & { panels: object[] };
`;
const QUERY = `
import type { Dataquery } from "@grafana/grafana-foundation-sdk/dist/prometheus/types.gen";
export type Query = Omit<Dataquery, "_implementsDataqueryVariant">;
`;

// https://grafana.com/docs/grafana/latest/administration/provisioning/
const PROVISIONING = `
import type { DataSourceJsonData, DataSourceSettings } from "@grafana/data/dist/types/types/datasource";
import type { PromOptions } from "@grafana/prometheus/dist/types/types";
type Given = "name" | "type" | "uid" | "orgId" | "access" | "url" | "user" | "database" | "basicAuth" | "basicAuthUser" | "withCredentials"
  | "isDefault" | "version";
type Source<T extends string, Options> = Omit<Pick<DataSourceSettings, Given>, "type" | "access"> & {
  type: T; access: "proxy" | "direct"; editable: boolean; jsonData: Options; secureJsonData: Record<string, string>;
};
type Alerts = DataSourceJsonData & { implementation: "prometheus" | "mimir" | "cortex"; handleGrafanaManagedAlerts: boolean };
export interface Sources {
  apiVersion: 1;
  prune: boolean;
  deleteDatasources: { name: string; orgId: number }[];
  datasources: (Source<"prometheus", PromOptions> | Source<"jaeger", DataSourceJsonData> | Source<"alertmanager", Alerts>)[];
}
export interface Providers {
  apiVersion: 1;
  providers: {
    name: string; type: "file"; orgId: number; folder: string; folderUid: string; disableDeletion: boolean; allowUiUpdates: boolean;
    updateIntervalSeconds: number; options: { path: string; foldersFromFilesStructure: boolean };
  }[];
}
`;

// Puts together what Grafana keeps apart: a panel, its options, and what it says of each field.
function panelSource(type) {
  const hasFields = readFileSync(fileOf(type), "utf8").includes("export interface FieldConfig");
  const custom = hasFields ? `& { custom: ${type}.FieldConfig }` : "";
  return `
import type * as ${type} from "${panelTypes(type)}";
export type Panel_${type} = Omit<dashboard.Panel, "type" | "options" | "fieldConfig" | "targets"> & {
  type: "${type}";
  options: ${type}.Options;
  fieldConfig: Omit<dashboard.FieldConfigSource, "defaults"> & { defaults: Omit<dashboard.FieldConfig, "custom"> ${custom} };
  targets: object[];
};`;
}

// Fields that Grafana has defaults for are not optional in its types: only these are demanded.
function relaxed(node) {
  if (Array.isArray(node)) return node.map(relaxed);
  if (node === null || typeof node !== "object") return node;
  const kept = Object.entries(node).filter(([key, value]) => key !== "required" || !Array.isArray(value));
  return Object.fromEntries(kept.map(([key, value]) => [key, relaxed(value)]));
}

// Makes a check of each type of a source: it tells what is wrong with a value, and nothing where all is well.
function checksOf(file, source) {
  const path = join(HERE, file);
  writeFileSync(path, source);
  const generator = createGenerator({ path, type: "*", skipTypeCheck: true, additionalProperties: false, expose: "export" });
  const ajv = new Ajv({ strict: false, allErrors: true });
  return (name, required) => {
    const { definitions } = relaxed(generator.createSchema(name));
    definitions[name].required = required;
    const validate = ajv.compile({ $ref: `#/definitions/${name}`, definitions });
    const said = (error) => `${error.instancePath || "/"} ${error.message}${detail(error)}`;
    return (value) => (validate(value) ? [] : validate.errors.map(said));
  };
}

function checks(types) {
  const board = checksOf("board.ts", BOARD + types.map(panelSource).join(""));
  const provisioning = checksOf("provisioning.ts", PROVISIONING);
  return {
    board: board("Board", ["uid", "title", "schemaVersion", "panels"]),
    panels: new Map(types.map((type) => [type, board(`Panel_${type}`, ["type", "title", "gridPos", "targets"])])),
    query: checksOf("query.ts", QUERY)("Query", ["refId", "expr"]),
    sources: provisioning("Sources", ["apiVersion", "datasources"]),
    providers: provisioning("Providers", ["apiVersion", "providers"]),
  };
}

function detail({ params }) {
  const said = params.additionalProperty ?? params.allowedValues?.join(", ") ?? params.allowedValue;
  return said === undefined ? "" : `: ${said}`;
}

// A row holds panels; nothing else does.
const listed = (value) => (Array.isArray(value) ? value : []);
const panelsOf = (board) => listed(board.panels).flatMap((panel) => (panel.type === "row" ? listed(panel.panels) : [panel]));

function faultsOf(board, { board: whole, panels, query }) {
  const faults = whole(board);
  for (const panel of panelsOf(board)) {
    const check = panels.get(panel.type) ?? (() => [`Grafana draws no ${panel.type}`]);
    const queries = listed(panel.targets).flatMap(query);
    faults.push(...[...check(panel), ...queries].map((fault) => `panel ${panel.id} (${panel.title}): ${fault}`));
  }
  return faults;
}

// Each leaves of a file what is no dashboard, or no provisioning.
const BREAKS = {
  board: {
    "a panel that Grafana does not draw": (board) => { board.panels[0].type = "timeserie"; },
    "an unknown field of the dashboard": (board) => { board.refreshes = "30s"; },
    "an unknown field of a panel": (board) => { board.panels[0].gridPosition = board.panels[0].gridPos; },
    "an unknown option of a panel": (board) => { board.panels[0].options = { legends: {} }; },
    "an unknown field of a query": (board) => { board.panels[0].targets[0].expression = "up"; },
    "a text where a number belongs": (board) => { board.panels[0].gridPos.w = "8"; },
    "a number where a text belongs": (board) => { board.panels[0].fieldConfig.defaults.unit = 1; },
    "a value that is none of the list": (board) => { board.graphTooltip = 7; },
    "a variable of a kind that there is not": (board) => { board.templating.list[0].type = "datasources"; },
    "a link of a kind that there is not": (board) => { board.links[0].type = "board"; },
    "a query without an expression": (board) => { delete board.panels[0].targets[0].expr; },
    "a dashboard without a title": (board) => { delete board.title; },
    "panels that are no list": (board) => { board.panels = {}; },
  },
  sources: {
    "an unknown field of a data source": (file) => { file.datasources[0].default = true; },
    "an unknown option of Prometheus": (file) => { file.datasources[0].jsonData.timeInterva = "15s"; },
    "an unknown field of what leads to a trace": (file) => {
      file.datasources[0].jsonData.exemplarTraceIdDestinations[0].datasourceId = "x";
    },
    "a kind of data source that there is not": (file) => { file.datasources[1].type = "jeager"; },
    "a text where yes or no belongs": (file) => { file.datasources[0].isDefault = "yes"; },
  },
  providers: {
    "an unknown field of a provider": (file) => { file.providers[0].disableDeletions = true; },
    "an unknown option of a provider": (file) => { file.providers[0].options.paths = "/"; },
  },
};

const folder = process.argv[2];
const all = (of, read) => readdirSync(join(folder, of)).map((name) => [join(of, name), read(readFileSync(join(folder, of, name), "utf8"))]);
const files = {
  board: all("dashboards", JSON.parse),
  sources: all("provisioning/datasources", parse),
  providers: all("provisioning/dashboards", parse),
};
const panels = files.board.flatMap(([, board]) => panelsOf(board));
// The folders of the package are the panels that there are.
const named = [...new Set(panels.map((panel) => String(panel.type)))];
const known = named.filter((type) => /^[a-z0-9]+$/.test(type) && existsSync(fileOf(type)));
const check = checks(known);
const judge = { ...check, board: (board) => faultsOf(board, check) };
const faults = [];
let refused = 0;
for (const [kind, found] of Object.entries(files)) {
  if (found.length === 0) faults.push(`there is no file of ${kind}`);
  for (const [name, content] of found) faults.push(...judge[kind](content).map((fault) => `${name}: ${fault}`));
  for (const [how, breakIt] of Object.entries(BREAKS[kind])) {
    const copy = structuredClone(found[0][1]);
    breakIt(copy);
    if (judge[kind](copy).length > 0) refused += 1;
    else faults.push(`${found[0][0]} with ${how} is not refused`);
  }
}
for (const fault of faults) console.error(fault);
const what = `${files.board.length} dashboards with ${panels.length} panels (${known.join(", ")}) and their provisioning`;
console.log(`${what}: ${faults.length} faults; ${refused} broken copies refused`);
process.exit(faults.length === 0 && panels.length > 0 ? 0 : 1);
