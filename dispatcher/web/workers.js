// The workers: what they have, what they can and what they run.

import {ask, path, post} from './api.js';
import {share} from './charts.js';
import {h, put} from './dom.js';
import {bytes, count, number, plural} from './format.js';
import {action, ago, badge, choice, confirm, facts, field, head, jobLink, link, load, section, table} from './parts.js';

const SHOWN = 100;
const MIB = 1024 * 1024;

export async function workers({place, url, signal, follow, every, go}) {
  const list = h('div');
  const words = h('p', {class: 'muted', role: 'status'});
  const state = choice([['here', 'ready and draining'], ['', 'all'], ...['ready', 'draining', 'stopped', 'lost'].map(name => [name, name])], url.searchParams.get('state') ?? 'here');
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

  const matches = worker => {
    const wanted = url.searchParams.get('state') ?? 'here';
    const text = (url.searchParams.get('name') ?? '').toLowerCase();
    const fits = wanted === '' || (wanted === 'here' ? ['ready', 'draining'].includes(worker.state) : worker.state === wanted);
    return fits && [worker.id, worker.host, ...worker.pools].some(one => one.toLowerCase().includes(text));
  };
  const read = idle => load(list, async () => {
    const found = (await ask('/v1/workers', {signal, idle})).filter(matches);
    put(words, found.length > SHOWN ? `${plural(found.length, 'worker', 'workers')}; the first ${SHOWN} are shown. Write a name to narrow them.` : plural(found.length, 'worker', 'workers'));
    return table('Workers', [
      {title: 'Worker', cell: worker => link(`/workers/${encodeURIComponent(worker.id)}`, worker.id)},
      {title: 'State', cell: worker => badge(worker.state)},
      {title: 'Slots', className: 'num', cell: worker => share(worker.capacity.used, worker.capacity.slots, `${worker.capacity.used} of ${worker.capacity.slots}`)},
      {title: 'Runs', className: 'num', cell: worker => count(worker.running.length)},
      {title: 'Cores', className: 'num wide', cell: worker => number(worker.capacity.cpu_percent / 100)},
      {title: 'Memory', className: 'num wide', cell: worker => bytes(worker.capacity.memory_mb * MIB)},
      {title: 'Pools', className: 'wide', cell: worker => worker.pools.join(', ')},
      {title: 'Sandbox', className: 'wide', cell: worker => sandboxOf(worker.ability)},
      {title: 'Last heard', className: 'num wide', cell: worker => ago(worker.last_seen)},
    ], found.slice(0, SHOWN), {empty: 'No worker is like this. A worker appears within a second of its start.'});
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

export async function worker({place, name, signal, may, session, follow, title}) {
  title(name);
  const find = async idle => {
    const found = (await ask('/v1/workers', {signal, idle})).find(worker => worker.id === name);
    if (!found) throw Object.assign(new Error('No worker of this name was heard lately. The list of workers has all that are known.'), {title: 'No such worker'});
    return found;
  };
  const heading = h('div');
  const room = h('div');
  const able = h('div');
  const runs = h('div');
  const draw = found => {
    const held = heading.contains(document.activeElement);
    put(heading, head(found.id, badge(found.state)),
      h('p', {class: 'lead'}, found.host, ' · version ', found.version, ' · pools ', found.pools.join(', ')),
      may('control') && !session.tenant && found.state === 'ready' && h('div', {class: 'row'}, action('Drain', async () =>
        await confirm(`Drain ${found.id}?`, 'It takes no more work, finishes what it has and stops. Only a new start brings it back.', {yes: 'Drain', danger: true}) ? post(path`/v1/workers/${found.id}/drain`) : null, {className: 'danger'})));
    if (held) heading.querySelector('h1').focus({preventScroll: true});
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
      ['Devices', found.ability.devices?.map(device => device.name ?? device.id ?? device.device).filter(Boolean).join(', ')],
      ['GStreamer', found.ability.gstreamer?.version],
      ['Stores', found.ability.stores?.join(', ') || 'files alone'],
      ['Features', found.ability.features?.join(', ')],
    ]));
  };
  const readRuns = idle => load(runs, async () => {
    const page = await ask(`/v1/jobs?status=running&worker=${encodeURIComponent(name)}&limit=100`, {signal, idle});
    return table('Jobs that it runs', [
      {title: 'Job', cell: jobLink},
      {title: 'Scenario', className: 'text', cell: job => job.scenario},
      {title: 'Progress', className: 'progress', cell: job => share(job.progress?.percent ?? 0, 100, `${number(job.progress?.percent ?? 0)} %`)},
      {title: 'Since', className: 'num', cell: job => ago(job.started_at)},
    ], page.items, {empty: 'It runs nothing.'});
  });
  draw(await find(false));
  put(place, heading, section('Room', room), section('Runs', runs), section('Abilities', able),
    h('p', {}, link(`/jobs?worker=${encodeURIComponent(name)}`, 'All jobs that it runs or ran last')));
  let last = '';
  follow({fleet: event => {
    const now = JSON.stringify(event);
    if (last && now !== last) {
      find(true).then(draw, () => {});
      readRuns(true);
    }
    last = now;
  }});
  await readRuns(false);
}

function sandboxOf(ability) {
  const layers = ability.sandbox ?? [];
  return layers.length ? layers.join(', ') : 'none';
}
