// The live stream: one for the whole page. Invariant: there is never more than one, none while the page is not seen,
// and after a failure the next try comes later each time.

import {ask} from './api.js';

const EVENTS = ['fleet', 'queues', 'job', 'progress', 'log'];
const SETTLE_MS = 150;
const HIDDEN_MS = 30000;
const LAST_WAIT_MS = 60000;

let source = null;
let opened = null;
let wanted = {jobs: [], logOf: null};
let handlers = {};
let settle = null;
let hidden = null;
let wait = 1000;
let tell = () => {};
let on = false;

// Calls `handler` with 'live', 'waiting' or 'off' whenever that changes.
export function onState(handler) {
  tell = handler;
}

export function start() {
  on = true;
  open();
}

export function stop() {
  on = false;
  close();
  tell('off');
}

// What the page that is shown wants to hear: ids of jobs, the job whose log is read, and a function for each kind of event.
// The workers and the queues are told to every page.
export function follow({jobs = [], logOf = null, ...handled}) {
  wanted = {jobs: [...jobs].sort().slice(0, 100), logOf};
  handlers = handled;
  clearTimeout(settle);
  settle = setTimeout(open, SETTLE_MS);
}

function address() {
  const query = new URLSearchParams();
  if (wanted.jobs.length) query.set('jobs', wanted.jobs.join(','));
  if (wanted.logOf) query.set('log', wanted.logOf);
  return `/v1/events?${query}`;
}

function open() {
  clearTimeout(settle);
  if (!on || document.hidden) return;
  const next = address();
  // The stream that is open tells of the queues too; a page that has just come wants them again.
  if (source && opened === next && !handlers.fleet && !handlers.queues) return;
  close();
  opened = next;
  source = new EventSource(next);
  source.onopen = () => {
    wait = 1000;
    tell('live');
  };
  source.onerror = failed;
  for (const name of EVENTS) {
    source.addEventListener(name, event => handlers[name]?.(JSON.parse(event.data)));
  }
}

function close() {
  source?.close();
  source = null;
  opened = null;
}

async function failed() {
  tell('waiting');
  // Broken off, or ended after its time: the browser asks again by itself.
  if (source?.readyState !== EventSource.CLOSED) return;
  close();
  settle = setTimeout(open, wait);
  wait = Math.min(wait * 2, LAST_WAIT_MS);
  try {
    // A stream that is refused does not say why; this does, and ends the session if that is why.
    await ask('/v1/session', {idle: true});
  } catch {
    // The next try comes anyway.
  }
}

document.addEventListener('visibilitychange', () => {
  clearTimeout(hidden);
  if (document.hidden) hidden = setTimeout(close, HIDDEN_MS);
  // Also where a stream is open still: a page that came unseen wants another.
  else if (on) open();
});
