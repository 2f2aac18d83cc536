// What jobs used and cost, summed up.

import {ask} from './api.js';
import {share} from './charts.js';
import {h, put} from './dom.js';
import {amount, at, count, hoursAgo, secondsSince} from './format.js';
import {choice, field, figure, head, load, table} from './parts.js';

const SHOWN = 500;
// Older than that, a report says as of when it is.
const NEW_SECS = 30;
const DAYS = [['1', 'last day'], ['7', 'last week'], ['30', 'last month'], ['365', 'last year']];

export async function cost({place, url, signal, go}) {
  const by = url.searchParams.get('by') ?? 'queue';
  const days = url.searchParams.get('days') ?? '30';
  const list = h('div');
  const grouping = h('input', {type: 'text', value: by, list: 'groupings', autocomplete: 'off', spellcheck: 'false'});
  const back = choice(DAYS, DAYS.some(([value]) => value === days) ? days : '30');
  const form = h('form', {class: 'filters', 'aria-label': 'What is summed up', onsubmit: event => {
    event.preventDefault();
    go(`/cost?${new URLSearchParams({by: grouping.value.trim() || 'queue', days: back.value})}`);
  }},
  field('by', 'By', grouping, 'tenant, queue, scenario, worker or label:name'), field('days', 'Recorded', back),
  h('datalist', {id: 'groupings'}, ['tenant', 'queue', 'scenario', 'worker', 'label:show'].map(value => h('option', {value}))),
  h('div', {class: 'row end'}, h('button', {type: 'submit'}, 'Sum up')));
  put(place, head('Cost and energy'), form, list);
  await load(list, async () => {
    const since = hoursAgo(24 * Number(back.value));
    const report = await ask(`/v1/cost?${new URLSearchParams({by, since})}`, {signal});
    const all = key => report.rows.reduce((sum, row) => sum + (row[key] ?? 0), 0);
    const most = Math.max(1e-9, ...report.rows.map(row => row.core_hours));
    return [
      h('dl', {class: 'figures'},
        figure('Jobs', count(all('jobs'))), figure('Attempts', count(all('attempts')), `${count(all('unmeasured'))} not measured`),
        figure('Core hours', amount(all('core_hours'))),
        figure('Energy', report.rows.some(row => row.kwh) ? `${amount(all('kwh'))} kWh` : '–', `${count(all('unmetered'))} attempts without`),
        figure('Cost', report.rows.some(row => row.cost) ? `${amount(all('cost'))} ${report.prices.currency ?? ''}` : '–', report.prices.currency ? null : 'no prices are set')),
      table(`Use and cost by ${by}`, [
        {title: by, cell: row => row.key ?? 'without'},
        {title: 'Jobs', className: 'num', cell: row => count(row.jobs)},
        {title: 'Core hours', className: 'num', cell: row => share(row.core_hours, most, amount(row.core_hours))},
        {title: 'GB hours', className: 'num wide', cell: row => amount(row.gb_hours)},
        {title: 'Worker hours', className: 'num wide', cell: row => amount(row.worker_hours)},
        {title: 'kWh', className: 'num', cell: row => amount(row.kwh)},
        {title: 'Cost', className: 'num', cell: row => row.cost === null || row.cost === undefined ? '–' : `${amount(row.cost)} ${report.prices.currency ?? ''}`},
      ], report.rows, {empty: 'No attempt has ended since then.', most: SHOWN}),
      secondsSince(report.as_of) > NEW_SECS && h('p', {class: 'muted'}, `As of ${at(report.as_of)}: so many attempts are summed up from time to time.`),
    ];
  });
}
