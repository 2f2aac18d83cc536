#!/usr/bin/env node
// Publishes one job to ffpool as MessagePack over AMQP, shows its progress from NATS, asks the API for its outcome, and exits
// with 0 if it completed.
//
// usage: node publish.js SCENARIO OUTPUT [INPUT]      without INPUT a test picture of two seconds is encoded
//
// `npm ci` first. Environment:
//   FFPOOL_AMQP_URL     amqp://user:password@host:5672/%2f; amqps://... with ?cacertfile=ca.pem, and where the broker asks for
//                       a certificate &certfile=me.pem&keyfile=me.pem
//   FFPOOL_NATS_URL     nats://host:4222, or tls://... with the same parameters
//   FFPOOL_API_URL      https://host:8080
//   FFPOOL_API_KEY      a key that may read
//   FFPOOL_API_CA_FILE  the authority of the API's certificate, unless the system knows it
//   TRACEPARENT         the W3C trace to which the job belongs (optional)

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { setTimeout as pause } from "node:timers/promises";
import { createSecureContext } from "node:tls";
import { encode } from "@msgpack/msgpack";
import amqp from "amqplib";
import { connect as connectToNats } from "nats";

const QUEUE = "batch"; // live, default or batch: the exchange is jobs.<queue>
const PRIORITY = "medium"; // high, medium or low: the routing key; high.gpu for the pool gpu
const PUBLISH_MS = 30_000; // from the connection to the broker's confirm
const ANSWER_MS = 15_000; // for an answer of the API
const LOOK_MS = 1_000; // between two questions
const PATIENCE_MS = 60_000; // how long the API may be away, or may not know the job
const ENDS = ["completed", "failed", "cancelled", "rejected"];

/** What went wrong, as one sentence for a person. */
class Trouble extends Error {}

/**
 * The job. Its id follows from what it says, so publishing it again, even after a crash, makes no second job. A program with
 * ids of its own (an order, a row) takes those instead: any UUID will do.
 */
function jobOf(scenario, output, input) {
  const job = { scenario, output, queue: QUEUE, priority: PRIORITY };
  if (input) job.input = input;
  else job.parameters = { duration: 2 };
  return { id: uuidOf(JSON.stringify(job)), ...job };
}

/** A UUID made of a text (version 8: SHA-256, cut to size). */
function uuidOf(text) {
  const bytes = createHash("sha256").update(text).digest().subarray(0, 16);
  bytes[6] = (bytes[6] & 0x0f) | 0x80;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function setting(name) {
  if (!process.env[name]) throw new Trouble(`${name} is not set`);
  return process.env[name];
}

/** A setting that is a URL. What is wrong with one is not shown: there may be a password in it. */
function urlOf(name, ...schemes) {
  const text = setting(name);
  try {
    const url = new URL(text);
    if (schemes.includes(url.protocol.slice(0, -1)) && url.hostname) return url;
  } catch {
    // the same as any other that is none
  }
  throw new Trouble(`${name} is no URL of ${schemes.join(" or ")}`);
}

/** A file that the setting `name` names. */
function fileOf(name, file) {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new Trouble(`${name}: ${file} cannot be read: ${error.message}`);
  }
}

/** Certificates as `tls` takes them, tried. */
function tried(name, files) {
  try {
    createSecureContext(files);
    return files;
  } catch (error) {
    throw new Trouble(`${name}: its certificates cannot be used: ${error.message}`);
  }
}

/** A broker's URL, and the certificate files that it names, as RabbitMQ's own clients write them. */
function brokerOf(name, ...schemes) {
  const url = urlOf(name, ...schemes);
  const files = {};
  const names = { cacertfile: "ca", certfile: "cert", keyfile: "key" };
  for (const [parameter, part] of Object.entries(names)) {
    const file = url.searchParams.get(parameter);
    if (file) files[part] = fileOf(name, file);
    url.searchParams.delete(parameter);
  }
  return { url, files: tried(name, files) };
}

/** What it takes to ask the API. */
function apiOf() {
  const file = process.env.FFPOOL_API_CA_FILE;
  const files = file ? tried("FFPOOL_API_CA_FILE", { ca: fileOf("FFPOOL_API_CA_FILE", file) }) : {};
  return { url: urlOf("FFPOOL_API_URL", "http", "https"), key: setting("FFPOOL_API_KEY"), files };
}

/** Resolves when the broker has stored the job. */
async function publish({ url, files }, job) {
  url.searchParams.set("heartbeat", "10");
  const user = decodeURIComponent(url.username);
  const connection = await amqp.connect(url.href, { ...files, timeout: PUBLISH_MS }).catch((error) => {
    const refused = /ACCESS_REFUSED|403/.test(error.message);
    throw new Trouble(refused ? "RabbitMQ does not accept this user and password" : `RabbitMQ cannot be reached: ${error.message}`);
  });
  let deadline;
  try {
    await new Promise((resolve, reject) => {
      // A broker that is short of memory or disk takes nothing from publishers and answers nothing.
      let late = "the broker did not confirm the job";
      connection.on("blocked", (reason) => (late = `the broker takes no messages at present (${reason})`));
      const again = "start again with the same arguments, which is safe";
      deadline = setTimeout(() => reject(new Trouble(`${late}; ${again}`)), PUBLISH_MS);
      connection.on("error", (error) => reject(new Trouble(`the connection broke: ${error.message}; ${again}`)));
      connection.on("close", () => reject(new Trouble(`the connection was closed; ${again}`)));
      publishOn(connection, job, user).then(resolve, reject);
    });
  } finally {
    clearTimeout(deadline);
    connection.removeAllListeners("close");
    await Promise.race([connection.close().catch(() => {}), pause(1_000, undefined, { ref: false })]);
  }
}

/** Persistent, mandatory and confirmed. */
async function publishOn(connection, job, user) {
  const channel = await connection.createConfirmChannel();
  const exchange = `jobs.${QUEUE}`;
  const options = {
    contentType: "application/msgpack",
    persistent: true,
    mandatory: true,
    messageId: job.id,
    userId: user, // the broker vouches for it; by it a tenant's jobs are known
    headers: process.env.TRACEPARENT ? { traceparent: process.env.TRACEPARENT } : {},
  };
  await new Promise((resolve, reject) => {
    // A returned message is confirmed as well, and the return comes first.
    channel.on("return", () => reject(new Trouble(`no queue is bound to ${exchange} under ${PRIORITY}: is a dispatcher running?`)));
    channel.on("error", (error) => reject(new Trouble(`RabbitMQ refused the job: ${error.message}`)));
    channel.publish(exchange, PRIORITY, Buffer.from(encode(job)), options, (nack) => {
      if (nack) reject(new Trouble("the broker could not store the job; start again, which is safe"));
      else resolve();
    });
  });
}

/** Prints what the worker tells of its progress. A signal may be lost, so the end is never taken from here. */
async function showProgress({ url, files }, id) {
  const login = url.username ? { user: decodeURIComponent(url.username), pass: decodeURIComponent(url.password) } : {};
  const tls = url.protocol === "tls:" ? { tls: files } : {};
  const nats = await connectToNats({ servers: url.host, ...login, ...tls, timeout: ANSWER_MS }).catch((error) => {
    throw new Trouble(`NATS cannot be reached: ${error.message}`);
  });
  nats.subscribe(`ffpool.v1.progress.${id}`, {
    callback: (error, message) => {
      if (error) return console.error(`progress: ${error.message}`);
      const { phase, percent } = message.json();
      console.log(`${id}: ${phase} ${(percent ?? 0).toFixed(0)} %`);
    },
  });
  // The server has heard of the subscription when this is over: what comes after it is heard.
  await nats.flush();
  return nats;
}

/** One question to the API: the status and the answer. */
function ask(api, path) {
  const url = new URL(path, api.url);
  const options = { headers: { "X-API-Key": api.key }, ...api.files, timeout: ANSWER_MS };
  return new Promise((resolve, reject) => {
    const request = (url.protocol === "http:" ? http : https).get(url, options, async (answer) => {
      try {
        let text = "";
        for await (const piece of answer.setEncoding("utf8")) text += piece;
        resolve({ status: answer.statusCode, text });
      } catch (error) {
        reject(error);
      }
    });
    request.on("timeout", () => request.destroy(new Error(`no answer within ${ANSWER_MS} ms`)));
    request.on("error", reject);
  });
}

/** The job as it ended. */
async function outcome(api, id) {
  let patienceEnds = Date.now() + PATIENCE_MS;
  for (;;) {
    const { status, text } = await ask(api, `/v1/jobs/${id}`).catch((error) => ({ status: 0, text: error.message }));
    if (status === 200) {
      const job = JSON.parse(text);
      if (ENDS.includes(job.state)) return job;
      patienceEnds = Date.now() + PATIENCE_MS;
    } else if (![0, 404, 429, 500, 503].includes(status)) {
      // 404: the dispatcher has not read the broker's copy of the job yet.
      throw new Trouble(`the API answered ${status}: ${text}`);
    } else if (Date.now() > patienceEnds) {
      throw new Trouble(`the job was published, but cannot be followed: ${status || ""} ${text}`);
    }
    await pause(LOOK_MS);
  }
}

/** What the ledger says about a job that did not complete. */
function why(job) {
  if (job.faults.length > 0) return job.faults.map(({ path, message }) => `${path}: ${message}`).join("; ");
  return job.failure?.message ?? job.reason ?? "no reason is on record";
}

async function main() {
  const [scenario, output, input] = process.argv.slice(2);
  if (!output) throw new Trouble("usage: node publish.js SCENARIO OUTPUT [INPUT]");
  // All that can be wrong with a setting is said before anything is published.
  const broker = brokerOf("FFPOOL_AMQP_URL", "amqp", "amqps");
  const signals = brokerOf("FFPOOL_NATS_URL", "nats", "tls");
  const api = apiOf();
  const job = jobOf(scenario, output, input);
  // Before the job is published, so that nothing of it is missed.
  const nats = await showProgress(signals, job.id);
  try {
    await publish(broker, job);
    console.log(`${job.id}: published`);
    const ended = await outcome(api, job.id);
    if (ended.state !== "completed") throw new Trouble(`job ${job.id} ${ended.state}: ${why(ended)}`);
    console.log(`${job.id}: completed as attempt ${ended.attempt}: ${job.output}`);
  } finally {
    await nats.close();
  }
}

main().catch((error) => {
  console.error(`publish.js: ${error instanceof Trouble ? error.message : error.stack}`);
  process.exitCode = 1;
});
