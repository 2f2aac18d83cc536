// The first page: how the pool does, at a glance.

import {ask, post, path} from './api.js';
import {columns, share} from './charts.js';
import {h, put} from './dom.js';
import {age, amount, clock, count, hoursAgo, number, plural, words} from './format.js';
import {action, badge, choice, confirm, field, figure, head, link, load, section, table} from './parts.js';

const QUEUES = ['live', 'default', 'batch'];
const PRIORITIES = ['high', 'medium', 'low'];
const SPANS = [['1', 'last hour'], ['24', 'last day'], ['168', 'last week'], ['720', 'last 30 days']];
const ENDS = [['completed', 'Completed'], ['failed', 'Failed'], ['cancelled', 'Cancelled'], ['rejected', 'Rejected']];

export async function overview({place, signal, follow, every, may, session}) {
  const figures = h('dl', {class: 'figures'});
  const queues = h('div');
  const rate = h('div');
  const causes = h('div');
  const costs = h('div');
  let fleet = null;
  let heard = false;
  let seen = {queues: []};
  let ended = null;
  let controls = false;

  const sum = key => seen.queues.reduce((total, queue) => total + queue[key], 0);
  const total = key => ended?.points.reduce((all, point) => all + point[key], 0);
  const drawFigures = () => put(figures,
    figure('Waiting', heard ? count(sum('queued')) : '–', heard && (oldestOf(seen.queues) ? `oldest for ${age(oldestOf(seen.queues))}` : 'nothing waits')),
    figure('Running', heard ? count(sum('running')) : '–', heard && `${count(sum('delayed'))} delayed or blocked`),
    figure('Workers', fleet ? count((fleet.workers.starting ?? 0) + (fleet.workers.ready ?? 0) + (fleet.workers.draining ?? 0)) : '–',
      fleet && [fleet.workers.starting ? `${fleet.workers.starting} starting` : null, fleet.workers.draining ? `${fleet.workers.draining} draining` : null, fleet.workers.lost ? `${fleet.workers.lost} lost` : null].filter(Boolean).join(', ') || (fleet ? 'all ready' : null)),
    figure('Slots in use', fleet ? `${count(fleet.used)} of ${count(fleet.slots)}` : '–', fleet && share(fleet.used, fleet.slots, `${fleet.slots ? Math.round(fleet.used / fleet.slots * 100) : 0} %`)),
    figure('Completed in the last hour', ended ? count(total('completed')) : '–', ended && `${number(total('completed') / 60)} a minute`),
    figure('Failed in the last hour', ended ? count(total('failed')) : '–', ended && plural(total('rejected'), 'rejected', 'rejected')));

  const toggle = queue => {
    const paused = seen.queues.some(one => one.queue === queue && one.paused);
    return action(paused ? 'Resume' : 'Pause', async () => {
      if (paused) return post(path`/v1/queues/${queue}/resume`);
      const reason = await confirm(`Pause the queue ${queue}?`, 'Nothing more of it starts; what runs goes on.', {yes: 'Pause', field: 'Reason, shown to whoever asks why a job waits'});
      return reason === null ? null : post(path`/v1/queues/${queue}/pause`, {reason: reason || null});
    }, {className: 'quiet small', label: `${paused ? 'Resume' : 'Pause'} the queue ${queue}`});
  };
  const drawQueues = () => {
    const most = Math.max(1, ...seen.queues.map(queue => queue.queued));
    const rows = QUEUES.flatMap(queue => PRIORITIES.map(priority => sumOf(seen.queues, queue, priority)));
    const paused = queue => seen.queues.some(one => one.queue === queue && one.paused);
    controls = may('control') && !session.tenant;
    const cells = [
      {title: 'Queue', cell: row => [link(`/jobs?status=queued&queue=${row.queue}&priority=${row.priority}`, `${row.queue} · ${row.priority}`), paused(row.queue) && [' ', badge('paused')]]},
      {title: 'Waiting', className: 'num', cell: row => share(row.queued, most, count(row.queued))},
      {title: 'Oldest', className: 'num', cell: row => age(row.oldest)},
      {title: 'Running', className: 'num', cell: row => count(row.running)},
      {title: 'Delayed', className: 'num wide', cell: row => count(row.delayed)},
    ];
    put(queues, table('Queues by priority', cells, rows),
      controls && h('div', {class: 'row'}, QUEUES.map(queue => h('span', {class: 'row tight'}, h('span', {class: 'muted'}, queue), toggle(queue)))));
  };

  const drawRate = () => {
    const points = ended.points.map(point => ENDS.map(([key]) => point[key]));
    const label = `Jobs that ended in the last hour by minute: ${ENDS.map(([key, title]) => `${count(total(key))} ${title.toLowerCase()}`).join(', ')}`;
    put(rate, columns(points, ENDS.map(([key]) => `bar-${key}`), {label}),
      h('p', {class: 'axis'}, h('span', {}, clock(ended.points[0].at)), h('span', {}, 'now')),
      h('ul', {class: 'legend'}, ENDS.map(([key, title]) => h('li', {}, h('span', {class: `swatch bar-${key}`}), `${title} ${count(total(key))}`))));
  };
  const readRate = idle => load(rate, async () => {
    ended = await ask('/v1/throughput', {signal, idle});
    drawFigures();
    drawRate();
    return [...rate.childNodes];
  });
  const hours = choice(SPANS, '24');
  const spanField = field('failures', 'Span of time', hours);
  spanField.classList.add('narrow');
  const readCauses = idle => load(causes, async () => {
    const asked = hours.value;
    const report = await ask(`/v1/failures?hours=${asked}`, {signal, idle});
    // Another span was chosen meanwhile.
    if (asked !== hours.value) return [...causes.childNodes];
    const most = Math.max(1, ...report.causes.map(row => Math.max(row.attempts, row.dead)));
    const named = row => `cause=${encodeURIComponent(row.cause)}`;
    return table('Failures by cause', [
      {title: 'Cause', cell: row => link(`/jobs?${named(row)}`, words(row.cause), {title: row.cure})},
      {title: 'Failed attempts', className: 'num', cell: row => share(row.attempts, most, count(row.attempts), 'bad')},
      {title: 'Retried', className: 'num', cell: row => count(row.retried)},
      {title: 'Dead', className: 'num', cell: row => row.dead ? link(`/dead-letters?${named(row)}`, count(row.dead), {'aria-label': `${plural(row.dead, 'dead letter', 'dead letters')} by ${words(row.cause)}`}) : '0'},
    ], report.causes, {empty: `Nothing failed in the ${SPANS.find(([key]) => key === asked)[1]}.`, most: 10});
  });
  hours.addEventListener('change', () => readCauses(false));
  const readCosts = idle => load(costs, async () => {
    const since = hoursAgo(24);
    const report = await ask(`/v1/cost?by=queue&since=${since}`, {signal, idle});
    const all = key => report.rows.reduce((sum, row) => sum + (row[key] ?? 0), 0);
    const priced = report.rows.some(row => row.cost !== null && row.cost !== undefined);
    const metered = report.rows.some(row => row.kwh !== null && row.kwh !== undefined);
    return [h('dl', {class: 'figures small'},
      figure('Core hours', amount(all('core_hours'))),
      figure('Energy', metered ? `${amount(all('kwh'))} kWh` : '–', metered ? null : 'no worker reads it'),
      figure('Cost', priced ? `${amount(all('cost'))} ${report.prices.currency ?? ''}` : '–', priced ? null : report.prices.currency ? 'nothing has a price' : 'no prices are set')),
    h('p', {}, link('/cost', 'All costs'))];
  });

  put(place, head('Overview'), figures,
    h('div', {class: 'halves'},
      section('Queues', queues),
      h('div', {class: 'stack'},
        section('Ended, by minute', rate),
        section('Failures by cause', spanField, causes, h('p', {}, link('/dead-letters', 'All dead letters'))),
        section('Last 24 hours', costs))));
  drawFigures();
  drawQueues();
  follow({
    fleet: event => { fleet = event; drawFigures(); },
    queues: event => {
      seen = event;
      heard = true;
      drawFigures();
      // Who is about to press a button keeps it.
      if (!queues.contains(document.activeElement) || document.activeElement === queues) drawQueues();
    },
  });
  every(15, () => readRate(true));
  every(30, () => readCauses(true));
  every(60, () => readCosts(true));
  await Promise.all([readRate(), readCauses(), readCosts()]);
}

function oldestOf(queues) {
  return queues.map(queue => queue.oldest).filter(Boolean).sort()[0];
}

function sumOf(queues, queue, priority) {
  const own = queues.filter(one => one.queue === queue && one.priority === priority);
  const sum = key => own.reduce((total, one) => total + one[key], 0);
  return {queue, priority, queued: sum('queued'), running: sum('running'), delayed: sum('delayed'), oldest: oldestOf(own)};
}
