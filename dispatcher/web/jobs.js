// The list of jobs: filters that stand in the address, pages by cursors, live rows.
// Invariant: no more rows than one page are ever on the page.

import {ask} from './api.js';
import {share} from './charts.js';
import {h, put, say} from './dom.js';
import {age, at, count, percent, plural, secondsBetween, span, words} from './format.js';
import {ago, badge, choice, field, head, jobLink, link, load, pager, table, tr} from './parts.js';

const STATES = ['blocked', 'delayed', 'queued', 'running', 'cancelling', 'completed', 'failed', 'cancelled', 'rejected'];
const FILTERS = ['status', 'queue', 'priority', 'worker', 'tenant', 'label', 'since', 'part_of', 'cause', 'search'];
// These have no field among the filters, and stay until somebody takes them away.
const KEPT = ['part_of', 'cause', 'search'];
const LIMIT = 50;
// Pages of a search without a row that are gone through by themselves: two million jobs.
const EMPTY_PAGES = 80;
const ID = /^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i;

export const COLUMNS = [
  {title: 'Job', cell: jobLink},
  {title: 'State', cell: job => [badge(job.state, job.reason), job.paused && ' ', job.paused && badge('paused')]},
  {title: 'Scenario', className: 'text', cell: job => job.scenario || '–'},
  {title: 'Queue', className: 'wide', cell: job => `${job.queue} · ${job.priority}`},
  {title: 'Worker', className: 'wide text', cell: job => job.worker ? link(`/workers/${encodeURIComponent(job.worker)}`, job.worker) : '–'},
  {title: 'Progress', className: 'progress', cell: job => progressOf(job)},
  {title: 'Recorded', className: 'num', cell: job => ago(job.created_at)},
  {title: 'Took', className: 'num wide', cell: job => job.ended_at && job.started_at ? span(secondsBetween(job.started_at, job.ended_at)) : job.started_at && !job.ended_at ? age(job.started_at) : '–'},
];

// How far a job is, in a cell.
export function progressOf(job) {
  if (job.state === 'running' || job.state === 'cancelling') {
    const done = job.progress?.percent;
    return done === null || done === undefined ? (job.progress?.phase ?? 'begins') : share(done, 100, percent(done));
  }
  if (job.chunks) return share(job.chunks.percent, 100, `${job.chunks.done} of ${job.chunks.total} chunks`);
  if (job.failure) return h('span', {class: 'muted'}, job.failure.cause.replaceAll('_', ' '));
  return '–';
}

export async function jobs({place, url, signal, follow, go, session}) {
  const query = new URLSearchParams();
  for (const name of FILTERS) for (const value of url.searchParams.getAll(name)) if (value) query.append(name, name === 'since' ? sinceOf(value) : value);
  query.set('limit', LIMIT);
  if (url.searchParams.has('cursor')) query.set('cursor', url.searchParams.get('cursor'));

  const list = h('div');
  const newer = h('p', {class: 'newer', role: 'status'});
  const looked = h('p', {class: 'newer muted', role: 'status'});
  put(place, head('Jobs'), search(url, go), filters(url, go, session), narrowed(url), looked, newer, list);
  await load(list, async () => {
    const page = await found(query, looked, signal);
    const shown = new Map(page.items.map(job => [job.id, job]));
    const rows = table(`Jobs, newest first; ${plural(page.items.length, 'job', 'jobs')} on this page`, COLUMNS, page.items, {empty: 'No job is like this.', rowKey: job => job.id});
    const first = page.items[0]?.number ?? 0;
    const isNewest = [...url.searchParams.keys()].length === 0;
    let told = 0;
    follow({
      jobs: page.items.filter(job => !job.ended_at).map(job => job.id),
      job: event => redraw(rows, shown, {...event, progress: event.progress ?? shown.get(event.id)?.progress}),
      progress: event => {
        const job = shown.get(event.job);
        if (job) redraw(rows, shown, {...job, progress: event});
      },
      queues: event => {
        const more = event.newest - first;
        if (!isNewest || more <= 0 || more === told) return;
        told = more;
        put(newer, link(`${url.pathname}${url.search}`, `${count(more)} newer: show`, {class: 'button'}));
      },
    });
    say(plural(page.items.length, 'job', 'jobs'));
    return [rows, pager(url, page.next)];
  });
}

// One page; of a search that finds nothing in it, one further back.
async function found(query, looked, signal) {
  let page = await ask(`/v1/jobs?${query}`, {signal});
  for (let pages = 1; pages < EMPTY_PAGES && page.searched && !page.items.length && page.next; pages += 1) {
    put(looked, `Nothing yet, back to ${at(page.searched.back_to)} …`);
    query.set('cursor', page.next);
    page = await ask(`/v1/jobs?${query}`, {signal});
  }
  if (page.searched) {
    put(looked, page.searched.is_all ? 'All jobs were searched.' : `Searched back to ${at(page.searched.back_to)}. “Older” goes on from there.`);
  }
  return page;
}

function redraw(rows, shown, job) {
  if (!shown.has(job.id)) return;
  shown.set(job.id, job);
  const row = rows.querySelector(`tr[data-key="${CSS.escape(job.id)}"]`);
  if (row && !row.contains(document.activeElement)) row.replaceWith(tr(COLUMNS, job, each => each.id));
  else if (row) {
    // Who is on a link of the row stays on it.
    const fresh = tr(COLUMNS, job);
    [1, 5].forEach(index => row.cells[index].replaceWith(fresh.cells[index].cloneNode(true)));
  }
}

function search(url, go) {
  const input = h('input', {type: 'search', autocomplete: 'off', spellcheck: 'false', maxlength: 200, value: url.searchParams.get('search') ?? '', placeholder: '17, an id or its beginning, a part of an address or label'});
  return h('form', {class: 'search', role: 'search', onsubmit: event => {
    event.preventDefault();
    const text = input.value.trim();
    if (/^#?\d{1,18}$/.test(text) || ID.test(text)) return go(`/jobs/${encodeURIComponent(text.replace(/^#/, ''))}`);
    const others = new URL(url);
    // What makes chunks is found by its whole.
    ['cursor', 'search', ...text ? ['part_of'] : []].forEach(name => others.searchParams.delete(name));
    if (text) others.searchParams.set('search', text);
    go(`${others.pathname}${others.search}`);
  }}, field('find', 'Find jobs', input), h('button', {type: 'submit'}, 'Find'));
}

function filters(url, go, session) {
  const given = name => url.searchParams.get(name) ?? '';
  const any = text => [['', text]];
  const text = (name, hint) => h('input', {type: 'text', value: given(name), placeholder: hint, autocomplete: 'off', spellcheck: 'false'});
  const form = h('form', {class: 'filters', 'aria-label': 'Filter jobs', onsubmit: event => {
    event.preventDefault();
    apply();
  }},
  field('status', 'State', choice([...any('any'), ...STATES.map(state => [state, state])], given('status'))),
  field('queue', 'Queue', choice([...any('any'), ...['live', 'default', 'batch'].map(name => [name, name])], given('queue'))),
  field('priority', 'Priority', choice([...any('any'), ...['high', 'medium', 'low'].map(name => [name, name])], given('priority'))),
  field('since', 'Recorded', choice([...any('any time'), ['1h', 'last hour'], ['24h', 'last day'], ['7d', 'last week'], ['30d', 'last month']], given('since'))),
  field('worker', 'Worker', text('worker', 'name')),
  field('label', 'Label', text('label', 'name:value')),
  !session.tenant && field('tenant', 'Tenant', text('tenant', 'name')),
  h('div', {class: 'row end'},
    h('button', {type: 'submit'}, 'Filter'),
    FILTERS.some(name => url.searchParams.has(name)) && link('/jobs', 'All jobs', {class: 'button quiet'})));
  const apply = () => {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim()).map(([name, value]) => [name, value.trim()]));
    for (const name of KEPT) if (given(name)) query.set(name, given(name));
    go(`/jobs${query.size ? `?${query}` : ''}`);
  };
  form.addEventListener('change', event => { if (event.target.matches('select')) apply(); });
  return form;
}

// Whose chunks are shown, by what all of them failed and what is searched for, each with the way out of it.
function narrowed(url) {
  const told = {
    part_of: whole => ['Only what makes the chunks of ', link(`/jobs/${encodeURIComponent(whole)}`, 'one job')],
    cause: cause => ['Only what failed by ', words(cause), ', be it in one attempt'],
    search: text => ['Only what has “', text, '” in an address or label, or at the beginning of its id'],
  };
  return KEPT.filter(name => url.searchParams.get(name)).map(name => {
    const others = new URL(url);
    [name, 'cursor'].forEach(one => others.searchParams.delete(one));
    return h('p', {class: 'row', id: name === 'part_of' ? 'whole' : `only-${name}`}, h('span', {}, told[name](url.searchParams.get(name))),
      link(`${others.pathname}${others.search}`, 'Not only these', {class: 'button quiet small'}));
  });
}

// `7d` as the instant so long ago; anything else as it is.
function sinceOf(text) {
  const found = text.match(/^(\d+)([hd])$/);
  return found ? new Date(Date.now() - Number(found[1]) * (found[2] === 'h' ? 3600 : 86400) * 1000).toISOString() : text;
}
