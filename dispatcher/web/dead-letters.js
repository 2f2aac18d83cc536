// Dead letters: jobs parked after their last failure, by kind, until somebody decides.

import {ask, post} from './api.js';
import {h, put} from './dom.js';
import {count, plural, words} from './format.js';
import {action, ago, confirm, head, jobLink, link, load, pager, section, table} from './parts.js';

const SHOWN = 200;

export async function deadLetters({place, url, signal, may, go, every}) {
  const kind = url.searchParams.get('fingerprint');
  const cause = url.searchParams.get('cause');
  const groups = h('div');
  const letters = h('div');
  const sent = report => {
    const refused = Object.values(report.refused);
    go(`${url.pathname}${url.search}`, {replace: true});
    return `${plural(report.redriven.length, 'job goes', 'jobs go')} round again${refused.length ? `; ${refused.length} cannot: ${refused[0]}` : '.'}`;
  };
  const redrive = (group, text = 'Redrive') => action(text, async () => {
    const reason = await confirm(`Redrive ${plural(group.count, 'job', 'jobs')}?`, `All dead letters of this kind (${words(group.cause)}) go round again with a fresh budget, the oldest 10,000 first.`, {yes: 'Redrive', field: 'Reason, for the history'});
    return reason === null ? null : sent(await post('/v1/dead-letters/redrive', {fingerprint: group.fingerprint, reason: reason || null}));
  }, {className: 'main small', label: `Redrive all of the kind ${group.fingerprint}`});
  const purge = group => action('Purge', async () => {
    const reason = await confirm(`Purge ${plural(group.count, 'job', 'jobs')}?`, 'They and their history are gone for ever.', {yes: 'Purge', field: 'Reason, for the audit', needed: true, danger: true});
    if (reason === null) return null;
    const report = await post('/v1/dead-letters/purge', {fingerprint: group.fingerprint, reason});
    go('/dead-letters', {replace: true});
    return `${plural(report.purged, 'job is', 'jobs are')} gone${report.left ? `; ${report.left} are left, purge them again` : '.'}`;
  }, {className: 'danger small', label: `Purge all of the kind ${group.fingerprint}`});

  const readGroups = idle => load(groups, async () => {
    const found = (await ask('/v1/dead-letters/groups', {signal, idle})).filter(group => !cause || group.cause === cause).filter(group => !kind || group.fingerprint === kind);
    return table('Dead letters by kind', [
      {title: 'Kind', cell: group => link(`/dead-letters?fingerprint=${encodeURIComponent(group.fingerprint)}`, group.fingerprint)},
      {title: 'Cause', cell: group => words(group.cause)},
      {title: 'Jobs', className: 'num', cell: group => count(group.count)},
      {title: 'For example', className: 'text wide', cell: group => [group.example, ' ', link(`/jobs/${group.example_job}`, 'Show')]},
      {title: 'Last', className: 'num wide', cell: group => ago(group.last)},
      (may('control') || may('administer')) && {title: 'Decide', cell: group => h('div', {class: 'row tight'}, may('control') && redrive(group), may('administer') && purge(group))},
    ].filter(Boolean), found, {empty: 'No job waits for a decision.', most: SHOWN});
  });
  const readLetters = () => load(letters, async () => {
    const query = new URLSearchParams({limit: 50});
    if (kind) query.set('fingerprint', kind);
    if (cause) query.set('cause', cause);
    if (url.searchParams.has('cursor')) query.set('cursor', url.searchParams.get('cursor'));
    const page = await ask(`/v1/dead-letters?${query}`, {signal});
    return [table('Failed jobs, newest first', [
      {title: 'Job', cell: jobLink},
      {title: 'Cause', className: 'wide', cell: job => words(job.failure?.cause)},
      {title: 'What happened', className: 'text', cell: job => job.failure?.message ?? job.reason ?? '–'},
      {title: 'Scenario', className: 'text wide', cell: job => job.scenario},
      {title: 'Failed', className: 'num wide', cell: job => ago(job.ended_at)},
      may('control') && {title: 'Decide', cell: job => action('Redrive', async () => sent(await post('/v1/dead-letters/redrive', {ids: [job.id]})), {className: 'small', label: `Redrive job ${job.number}`})},
    ].filter(Boolean), page.items, {empty: 'No failed job.'}), pager(url, page.next)];
  });
  put(place, head('Dead letters'),
    (kind || cause) && h('p', {class: 'row'}, h('span', {class: 'muted'}, kind ? `The kind ${kind}` : `The cause ${words(cause)}`), link('/dead-letters', 'Show all', {class: 'button quiet'})),
    section('Kinds', groups), section('Jobs', letters));
  every(30, () => { if (!groups.contains(document.activeElement)) readGroups(true); });
  await Promise.all([readGroups(false), readLetters()]);
}
