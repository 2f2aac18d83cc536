// One job: how far it is, why, what happened, what it used, what it proved.

import {ask, path, post} from './api.js';
import {curve, share, timeline} from './charts.js';
import {h, put, renew} from './dom.js';
import {at, amount, bytes, count, NONE, number, percent, quoted, secondsBetween, span, words} from './format.js';
import {action, ago, badge, confirm, copy, facts, head, link, load, section, table} from './parts.js';

const ENDED = ['completed', 'failed', 'cancelled', 'rejected'];
const LINES = 500;
const SAMPLES = 600;

export async function job({place, name, signal, follow, may, title}) {
  let shown = await ask(path`/v1/jobs/${name}`, {signal});
  title(`Job ${shown.number}`);
  const heading = h('div');
  const picture = h('div', {class: 'picture'});
  const far = h('div');
  const why = h('div');
  const story = h('div');
  const used = h('div');
  const proof = h('div');
  const rest = h('div');
  const course = courseOf();
  const log = logOf();

  const drawHead = () => {
    const held = heading.contains(document.activeElement);
    put(heading, head(`Job ${shown.number}`, badge(shown.state), shown.paused && badge('paused')),
      h('p', {class: 'lead'}, shown.scenario || 'unreadable', ' · ', shown.queue, ' · ', shown.priority, shown.tenant ? ` · ${shown.tenant}` : ''),
      h('div', {class: 'row'}, buttons()));
    if (held) heading.querySelector('h1').focus({preventScroll: true});
  };
  const buttons = () => {
    const order = (verb, text, options) => action(text, () => post(path`/v1/jobs/${shown.id}/` + verb), options);
    const ended = ENDED.includes(shown.state);
    const waits = ['blocked', 'delayed', 'queued', 'running'].includes(shown.state);
    const sure = (verb, text, said) => action(text, async () => await confirm(`${text} job ${shown.number}?`, said, {yes: text, danger: true}) ? post(path`/v1/jobs/${shown.id}/` + verb) : null, {className: 'danger'});
    return [
      may('control') && waits && !shown.paused && order('pause', 'Pause'),
      may('control') && shown.paused && !ended && order('resume', 'Resume', {className: 'main'}),
      may('control') && shown.queue === 'live' && shown.state === 'running' && sure('finish', 'Finish', 'The live recording ends now, and what there is is kept.'),
      may('control') && !ended && shown.state !== 'cancelling' && sure('cancel', 'Cancel', 'It ends, and what it has made so far is thrown away.'),
      may('control') && ['failed', 'cancelled'].includes(shown.state) && order('retry', 'Retry', {className: 'main'}),
      // What could not be read cannot be handed in again.
      shown.spec && copy(() => commandOf(shown.spec), 'Copy as command'),
      copy(shown.id, 'Copy id'),
    ];
  };
  // Once: what has completed makes no other, and one that cannot be shown is left out.
  const drawPicture = () => {
    if (!shown.has_thumbnail || picture.childElementCount) return;
    put(picture, h('figure', {class: 'thumbnail'},
      h('img', {src: path`/v1/jobs/${shown.id}/thumbnail`, alt: `A frame of what job ${shown.number} made`, decoding: 'async', onerror: () => put(picture)}),
      h('figcaption', {class: 'muted'}, 'A frame of its output')));
  };
  const drawFar = () => {
    const progress = shown.progress;
    const running = ['running', 'cancelling'].includes(shown.state);
    const done = shown.state === 'completed' ? 100 : progress?.percent;
    put(far, done !== null && done !== undefined || running
      ? h('div', {class: 'bigshare'}, h('progress', {max: 100, value: done ?? 0, 'aria-label': `Progress of job ${shown.number}`}), h('strong', {}, done === null || done === undefined ? words(progress?.phase ?? 'begins') : percent(done)))
      : null,
    shown.chunks && h('p', {}, share(shown.chunks.percent, 100, `${shown.chunks.done} of ${shown.chunks.total} chunks are made`), ' ', link(`/jobs?part_of=${shown.id}`, 'Show them')),
    facts([
      ['Phase', running && progress ? words(progress.phase) : null],
      ['Frames a second', running && progress?.fps ? number(progress.fps) : null],
      ['Speed', running && progress?.speed ? `${number(progress.speed)} ×` : null],
      ['Left', running && progress?.eta_secs ? span(progress.eta_secs) : null],
      ['Written', running && progress?.size_bytes ? bytes(progress.size_bytes) : null],
      ['Live', running && progress?.live ? `run ${progress.live.run}, ${progress.live.is_up ? 'media come in' : 'the source is away'}, ${count(progress.live.dropped)} frames dropped, ${count(progress.live.sinks_down)} sinks down` : null],
      ['Worker', shown.worker && link(`/workers/${encodeURIComponent(shown.worker)}`, shown.worker)],
      ['Attempt', shown.attempt ? `${shown.attempt}, ${shown.failures} of ${shown.max_retries} retries used` : null],
      ['Recorded', ago(shown.created_at)],
      ['Started', shown.started_at && ago(shown.started_at)],
      ['Ended', shown.ended_at && ago(shown.ended_at)],
      ['Due again', shown.due_at && at(shown.due_at)],
      ['Deadline', shown.deadline && at(shown.deadline)],
      ['Failure', shown.failure && `${words(shown.failure.cause)}: ${shown.failure.message}`],
      ['Evidence', shown.failure?.evidence && h('code', {}, shown.failure.evidence)],
      ['Cost', shown.cost && `${amount(shown.cost.amount)} ${shown.cost.currency}`],
      ['Energy', shown.energy_joules && `${amount(shown.energy_joules / 3600)} Wh`],
      ['Trace', shown.trace_id && (shown.trace_url ? link(shown.trace_url, shown.trace_id, {rel: 'external noreferrer'}) : h('code', {}, shown.trace_id))],
    ]),
    course.draw(),
    shown.faults.length > 0 && faultsOf(shown.faults));
  };
  const drawRest = () => {
    renew(story, shown.attempts.length > 0 && attemptsOf(shown), eventsOf(shown.events));
    renew(used, usageOf(shown.attempts));
    renew(proof, shown.manifest ? manifestOf(shown.manifest) : h('p', {class: 'muted'}, shown.state === 'completed' ? 'It has no manifest: the engine makes no files.' : 'A job that has completed has a manifest with the proof of what it made.'));
    renew(rest, shown.callbacks?.length > 0 && callbacksOf(shown.callbacks),
      h('details', {}, h('summary', {}, 'The job as it was asked for'), code(shown.spec ?? 'It could not be read.')));
  };
  const readWhy = idle => load(why, async () => {
    const told = await ask(path`/v1/jobs/${shown.id}/explain`, {signal, idle});
    return h('ul', {class: 'sentences'}, told.sentences.map(sentence => h('li', {}, sentence)));
  });
  const read = async () => {
    try {
      shown = {...await ask(path`/v1/jobs/${shown.id}`, {signal, idle: true})};
      drawHead();
      drawPicture();
      drawFar();
      drawRest();
      await readWhy(true);
    } catch {
      // The next change reads it again.
    }
  };

  drawHead();
  drawPicture();
  drawFar();
  drawRest();
  put(place, heading, picture, section('Progress', far), section('Why', why),
    section('What happened', story), log.section, section('What it used', used), section('Proof', proof), section('Definition', rest));
  follow({
    jobs: [shown.id],
    logOf: shown.id,
    job: event => {
      const changed = ['state', 'attempt', 'paused', 'frozen_since', 'ended_at', 'reason'].some(key => event[key] !== shown[key]);
      shown = {...shown, ...event, progress: event.progress ?? shown.progress};
      drawHead();
      drawFar();
      if (changed) read();
    },
    progress: event => {
      if (ENDED.includes(shown.state)) return;
      shown = {...shown, progress: event};
      course.add(event);
      // Who is on a link there stays on it.
      if (!far.contains(document.activeElement)) drawFar();
    },
    log: event => log.add([event]),
  });
  const drawCourse = async () => {
    await course.read(shown.id, signal);
    if (!far.contains(document.activeElement)) drawFar();
  };
  await Promise.all([readWhy(false), log.read(shown.id, signal), drawCourse()]);
}

// How far the newest attempt was, from its beginning: what the ledger has kept of it, and what comes while the page is open.
function courseOf() {
  let attempt = 0;
  let points = [];
  // When it had lasted for how long: the page's own clock may be wrong.
  let known = {secs: 0, at: performance.now()};
  return {
    read: async (id, signal) => {
      // Without it the curve begins when the page was opened.
      const curves = await ask(`/v1/jobs/${id}/progress`, {signal}).catch(() => []);
      const last = curves.at(-1);
      if (!last || last.attempt < attempt) return;
      known = {secs: last.lasted_secs, at: performance.now()};
      attempt = last.attempt;
      points = last.points;
    },
    add: ({attempt: of, percent, fps}) => {
      if (of < attempt) return;
      if (of > attempt) {
        points = [];
        known = {secs: 0, at: performance.now()};
      }
      attempt = of;
      points.push({at_secs: known.secs + (performance.now() - known.at) / 1000, percent, fps});
      if (points.length > SAMPLES) points = points.filter((_, index) => index % 2 === 0);
    },
    draw: () => {
      if (points.length < 3) return null;
      const at = points.map(one => one.at_secs);
      const long = span(at.at(-1) - at[0]);
      const part = share => points[Math.floor((points.length - 1) * share)];
      const told = what => [0, 0.25, 0.5, 0.75].map(share => what(part(share))).join(', ');
      const most = Math.max(...points.map(one => one.fps ?? 0));
      return [
        h('h3', {}, `Attempt ${attempt}, over ${long}`),
        h('div', {class: 'halves'},
          h('figure', {}, curve(points.map(one => one.percent ?? 0), {at, max: 100, label: `Progress, in quarters of ${long}: ${told(one => percent(one.percent))}, at last ${percent(points.at(-1).percent)}`}), h('figcaption', {}, 'Progress, 0 to 100 %')),
          h('figure', {}, curve(points.map(one => one.fps ?? 0), {at, label: `Frames a second, in quarters of ${long}: ${told(one => number(one.fps))}, at last ${number(points.at(-1).fps)}`, className: 'second'}), h('figcaption', {}, 'Frames a second, at most ', number(most)))),
      ];
    },
  };
}

function logOf() {
  const lines = h('pre', {class: 'log', role: 'group', tabindex: '0', 'aria-label': 'Log of the tool'});
  const stay = h('input', {type: 'checkbox', id: 'log-follow', checked: true});
  // Keys of the lines that are on the page.
  const seen = new Set();
  let empty = true;
  const add = found => {
    const keyOf = line => `${line.attempt}/${line.seq}`;
    const fresh = found.filter(line => !seen.has(keyOf(line)));
    if (!fresh.length) return;
    if (empty) put(lines);
    empty = false;
    for (const line of fresh) {
      seen.add(keyOf(line));
      lines.append(h('span', {class: 'line', 'data-key': keyOf(line)}, h('span', {class: 'muted'}, `${line.attempt}: `), line.line, '\n'));
    }
    while (lines.childElementCount > 2 * LINES) {
      seen.delete(lines.firstElementChild.dataset.key);
      lines.firstElementChild.remove();
    }
    if (stay.checked) lines.scrollTop = lines.scrollHeight;
  };
  return {
    section: section('Log', h('p', {class: 'row tight'}, stay, h('label', {for: 'log-follow'}, 'Follow new lines')), lines),
    add,
    read: async (id, signal) => {
      try {
        add(await ask(`/v1/jobs/${id}/log?lines=${LINES}`, {signal}));
        if (empty) put(lines, h('span', {class: 'muted'}, 'No line was written yet.'));
      } catch (error) {
        if (error.name !== 'AbortError') put(lines, error.message);
      }
    },
  };
}

function attemptsOf(shown) {
  const now = Date.now();
  const from = Math.min(...shown.attempts.map(attempt => Date.parse(attempt.started_at)));
  const spans = shown.attempts.slice(-20).map(attempt => ({
    from: Date.parse(attempt.started_at), to: attempt.ended_at ? Date.parse(attempt.ended_at) : now, kind: `span-${attempt.outcome ?? 'running'}`,
  }));
  const to = Math.max(...spans.map(each => each.to));
  return [
    timeline(spans, {from, to, label: `${shown.attempts.length} attempts over ${span((to - from) / 1000)}, the first above`}),
    table('Attempts', [
      {title: 'Attempt', cell: attempt => String(attempt.attempt)},
      {title: 'Outcome', cell: attempt => badge(attempt.outcome ?? 'running')},
      {title: 'Worker', className: 'text', cell: attempt => attempt.worker},
      {title: 'Started', className: 'num wide', cell: attempt => ago(attempt.started_at)},
      {title: 'Took', className: 'num', cell: attempt => span(secondsBetween(attempt.started_at, attempt.ended_at ?? new Date(now).toISOString()))},
      {title: 'Why', className: 'text wide', cell: attempt => attempt.failure ? `${words(attempt.failure.cause)}: ${attempt.failure.message}` : NONE},
    ], shown.attempts),
  ];
}

function eventsOf(events) {
  const detail = event => {
    const entries = Object.entries(event.detail ?? {}).filter(([, value]) => value !== null && typeof value !== 'object');
    return entries.map(([key, value]) => `${words(key)} ${value}`).join(', ');
  };
  const shown = events.slice(-200);
  return h('ol', {class: 'events'}, shown.map(event => h('li', {},
    h('time', {datetime: event.at, class: 'muted'}, at(event.at)), ' ', badge(event.state), ' ',
    h('span', {}, words(event.kind), event.attempt ? ` · attempt ${event.attempt}` : ''), ' ', h('span', {class: 'muted'}, detail(event)))));
}

function usageOf(attempts) {
  const rows = attempts.filter(attempt => attempt.usage);
  return table('Resource use by attempt', [
    {title: 'Attempt', cell: attempt => String(attempt.attempt)},
    {title: 'Wall time', className: 'num', cell: ({usage}) => span(usage.wall_ms / 1000)},
    {title: 'Processor', className: 'num', cell: ({usage}) => span(usage.cpu_ms / 1000)},
    {title: 'Cores', className: 'num', cell: ({usage}) => usage.wall_ms ? number(usage.cpu_ms / usage.wall_ms) : NONE},
    {title: 'Peak memory', className: 'num', cell: ({usage}) => bytes(usage.peak_memory_bytes)},
    {title: 'Read', className: 'num wide', cell: ({usage}) => bytes(usage.input_bytes)},
    {title: 'Written', className: 'num wide', cell: ({usage}) => bytes(usage.output_bytes)},
    {title: 'Energy', className: 'num wide', cell: ({usage}) => usage.energy_joules ? `${amount(usage.energy_joules / 3600)} Wh` : NONE},
    {title: 'Cost', className: 'num', cell: ({cost}) => cost ? `${amount(cost.amount)} ${cost.currency}` : NONE},
  ], rows, {empty: 'No attempt has told what it used.'});
}

function manifestOf(manifest) {
  return [
    table('Files', [
      {title: 'File', className: 'text', cell: file => [h('code', {}, file.url), file.name ? ` (${file.name})` : '']},
      {title: 'Size', className: 'num', cell: file => bytes(file.size_bytes)},
      {title: 'SHA-256', className: 'text', cell: file => h('code', {class: 'hash'}, file.sha256)},
      {title: 'Quality', className: 'num wide', cell: file => qualityOf(file.quality)},
    ], manifest.artifacts),
    facts([
      ['Verified', at(manifest.at)],
      ['By', manifest.worker],
      ['Tool', manifest.tool],
      ['Engine', manifest.engine && `${manifest.engine.engine}: ${manifest.engine.reason}`],
      ['Device', manifest.device],
      ['Fallback', manifest.fallback],
      ['Sandbox', manifest.sandbox?.length ? manifest.sandbox.join(', ') : 'none'],
      ['Chunks', manifest.chunks?.length ? count(manifest.chunks.length) : null],
      ['Arguments', h('code', {class: 'wrap'}, manifest.arguments.map(quoted).join(' '))],
    ]),
    h('div', {class: 'row'}, copy(() => JSON.stringify(manifest, null, 2), 'Copy the manifest')),
    h('details', {}, h('summary', {}, 'The whole manifest'), code(manifest)),
  ];
}

function qualityOf(quality) {
  if (!quality) return NONE;
  const scores = [['VMAF', quality.vmaf?.mean], ['PSNR', quality.psnr?.average ?? quality.psnr?.y], ['SSIM', quality.ssim]];
  return scores.filter(([, score]) => typeof score === 'number').map(([name, score]) => `${name} ${number(score)}`).join(', ') || `${count(quality.frames)} frames`;
}

function callbacksOf(callbacks) {
  return table('Callbacks', [
    {title: 'To', className: 'text', cell: callback => h('code', {}, callback.url)},
    {title: 'State', cell: callback => badge(callback.state)},
    {title: 'Outcome', cell: callback => words(callback.outcome ?? 'not yet')},
    {title: 'Tries', className: 'num', cell: callback => count(callback.tries.length)},
    {title: 'Last answer', className: 'text wide', cell: callback => callback.tries.at(-1)?.error ?? callback.tries.at(-1)?.status ?? NONE},
  ], callbacks);
}

export function faultsOf(faults) {
  return table('What is wrong with it', [
    {title: 'Where', cell: fault => h('code', {}, fault.path)},
    {title: 'What', className: 'text', cell: fault => fault.message},
  ], faults);
}

export function code(value) {
  return h('pre', {class: 'code', role: 'group', tabindex: '0', 'aria-label': 'JSON'}, typeof value === 'string' ? value : JSON.stringify(value, null, 2));
}

// The job as a command that hands it in again. Secrets in addresses are left out of what the API shows, and so here.
function commandOf({id, ...spec}) {
  return `ffpool submit - <<'JOB'\n${JSON.stringify(spec, null, 2)}\nJOB\n`;
}
