// The workers: what they have, what they can and what they run.

import {ask, path, post} from './api.js';
import {share} from './charts.js';
import {h, put} from './dom.js';
import {bytes, count, number, plural} from './format.js';
import {action, ago, badge, choice, confirm, facts, field, head, jobLink, link, load, pager, section, table, tr} from './parts.js';

const SHOWN = 100;
const MIB = 1024 * 1024;

export async function workers({place, url, signal, follow, every, go}) {
  const list = h('div');
  const words = h('p', {class: 'muted', role: 'status'});
  const state = choice([['here', 'starting, ready, draining'], ['', 'all'], ...['starting', 'ready', 'draining', 'stopped', 'lost'].map(name => [name, name])], url.searchParams.get('state') ?? 'here');
  const name = h('input', {type: 'search', value: url.searchParams.get('name') ?? '', autocomplete: 'off', spellcheck: 'false'});
  const form = h('form', {class: 'filters', 'aria-label': 'Filter workers', onsubmit: event => {
    event.preventDefault();
    apply();
  }}, field('state', 'State', state), field('name', 'Name, host or pool', name), h('div', {class: 'row end'}, h('button', {type: 'submit'}, 'Filter')));
  const apply = () => {
    const query = new URLSearchParams();
    if (state.value !== 'here') query.set('state', state.value);
    if (name.value.trim()) query.set('name', name.value.trim());
    go(`/workers${query.size ? `?${query}` : ''}`);
  };
  state.addEventListener('change', apply);
  put(place, head('Workers'), form, words, list);

  const query = new URLSearchParams({limit: SHOWN});
  const wanted = url.searchParams.get('state') ?? 'here';
  for (const one of wanted === 'here' ? ['starting', 'ready', 'draining'] : wanted ? [wanted] : []) query.append('status', one);
  for (const key of ['name', 'cursor']) if (url.searchParams.get(key)) query.set(key, url.searchParams.get(key));
  const read = idle => load(list, async () => {
    const page = await ask(`/v1/workers?${query}`, {signal, idle});
    const found = page.items;
    put(words, page.next || url.searchParams.has('cursor') ? `${plural(found.length, 'worker', 'workers')} on this page, by name` : plural(found.length, 'worker', 'workers'));
    const rows = table('Workers', [
      {title: 'Worker', cell: worker => link(`/workers/${encodeURIComponent(worker.id)}`, worker.id)},
      {title: 'State', cell: worker => badge(worker.state)},
      {title: 'Slots', className: 'num', cell: worker => share(worker.capacity.used, worker.capacity.slots, `${worker.capacity.used} of ${worker.capacity.slots}`)},
      {title: 'Runs', className: 'num', cell: worker => count(worker.running.length)},
      {title: 'Cores', className: 'num wide', cell: worker => number(worker.capacity.cpu_percent / 100)},
      {title: 'Memory', className: 'num wide', cell: worker => bytes(worker.capacity.memory_mb * MIB)},
      {title: 'Pools', className: 'wide', cell: worker => worker.pools.join(', ')},
      {title: 'Sandbox', className: 'wide', cell: worker => sandboxOf(worker.ability)},
      {title: 'Last heard', className: 'num wide', cell: worker => ago(worker.last_seen)},
    ], found, {empty: 'No worker is like this. A worker appears within a second of its start.'});
    return [rows, pager(url, page.next, {first: 'First', order: 'By name', next: 'Next'})];
  });
  let last = '';
  follow({fleet: event => {
    const now = JSON.stringify(event);
    if (last && now !== last && !list.contains(document.activeElement)) read(true);
    last = now;
  }});
  every(30, () => { if (!list.contains(document.activeElement)) read(true); });
  await read(false);
}

const RUNS = [
  {title: 'Job', cell: jobLink},
  {title: 'Scenario', className: 'text', cell: job => job.scenario},
  {title: 'Progress', className: 'progress', cell: job => share(job.progress?.percent ?? 0, 100, `${number(job.progress?.percent ?? 0)} %`)},
  {title: 'Since', className: 'num', cell: job => ago(job.started_at)},
];

export async function worker({place, name, signal, may, session, follow, every, title}) {
  title(name);
  const find = async idle => {
    try {
      return await ask(path`/v1/workers/${name}`, {signal, idle});
    } catch (error) {
      if (error.status !== 404) throw error;
      throw Object.assign(new Error('No worker has this name. The list of workers has all that are known.'), {title: 'No such worker'});
    }
  };
  const heading = h('div');
  const room = h('div');
  const able = h('div');
  const runs = h('div');
  let headed = '';
  const drawHead = found => {
    const now = JSON.stringify([found.state, found.host, found.version, found.pools]);
    // What is drawn anew under the pointer is not pressed.
    if (now === headed) return;
    headed = now;
    const held = heading.contains(document.activeElement);
    put(heading, head(found.id, badge(found.state)),
      h('p', {class: 'lead'}, found.host, ' · version ', found.version, ' · pools ', found.pools.join(', ')),
      may('control') && !session.tenant && found.state === 'ready' && h('div', {class: 'row'}, action('Drain', async () =>
        await confirm(`Drain ${found.id}?`, 'It takes no more work, finishes what it has and stops. Only a new start brings it back.', {yes: 'Drain', danger: true}) ? post(path`/v1/workers/${found.id}/drain`) : null, {className: 'danger'})));
    if (held) heading.querySelector('h1').focus({preventScroll: true});
  };
  const draw = found => {
    drawHead(found);
    put(room, share(found.capacity.used, found.capacity.slots, `${found.capacity.used} of ${found.capacity.slots} slots in use`), facts([
      ['Cores', number(found.capacity.cpu_percent / 100)],
      ['Memory', bytes(found.capacity.memory_mb * MIB)],
      ['Scratch', bytes(found.capacity.disk_mb * MIB)],
      ['First heard', ago(found.first_seen)],
      ['Last heard', ago(found.last_seen)],
    ]));
    put(able, facts([
      ['Sandbox', sandboxOf(found.ability)],
      ['Limits', found.ability.cgroups ? 'a control group for each attempt' : 'none that hold'],
      ['Encoders', found.ability.encoders.join(', ') || 'none'],
      ['Lost encoders', found.ability.lost?.map(lost => `${lost.encoder}: ${lost.why}`).join('; ')],
      ['Devices', found.ability.devices?.map(device => device.name ?? device.id ?? device.device).filter(Boolean).join(', ')],
      ['GStreamer', found.ability.gstreamer?.version],
      ['Stores', found.ability.stores?.join(', ') || 'files alone'],
      ['Features', found.ability.features?.join(', ')],
    ]));
  };
  let shown = new Map();
  const readRuns = idle => load(runs, async () => {
    const page = await ask(`/v1/jobs?status=running&worker=${encodeURIComponent(name)}&limit=100`, {signal, idle});
    shown = new Map(page.items.map(job => [job.id, job]));
    listen();
    return table('Jobs that it runs', RUNS, page.items, {empty: 'It runs nothing.', rowKey: job => job.id});
  });
  const drawProgress = progress => {
    const job = shown.get(progress.job);
    const row = job && runs.querySelector(`tr[data-key="${CSS.escape(job.id)}"]`);
    if (!row) return;
    job.progress = progress;
    row.cells[2].replaceWith(tr(RUNS, job).cells[2]);
  };
  draw(await find(false));
  put(place, heading, section('Room', room), section('Runs', runs), section('Abilities', able),
    h('p', {}, link(`/jobs?worker=${encodeURIComponent(name)}`, 'All jobs that it runs or ran last')));
  const readAgain = () => {
    find(true).then(draw, () => {});
    readRuns(true);
  };
  let last = '';
  let heard = null;
  // What ends is told at once, for the jobs that are shown are followed. What begins is found by looking again: all workers together
  // may have as much in use as before.
  const listen = () => {
    const jobs = [...shown.keys()];
    if (heard === jobs.join()) return;
    heard = jobs.join();
    follow({
      jobs,
      job: event => { if (shown.has(event.id) && (event.state !== 'running' || event.worker !== name)) readAgain(); },
      progress: drawProgress,
      fleet: event => {
        const now = JSON.stringify(event);
        if (last && now !== last) readAgain();
        last = now;
      },
    });
  };
  every(5, readAgain);
  await readRuns(false);
}

function sandboxOf(ability) {
  const layers = ability.sandbox ?? [];
  return layers.length ? layers.join(', ') : 'none';
}
