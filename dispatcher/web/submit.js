// Hands in a job. Invariant: what is sent is what was checked, and the dispatcher checks it, not this page.

import {ask, post} from './api.js';
import {h, put} from './dom.js';
import {plural} from './format.js';
import {code, faultsOf} from './job.js';
import {choice, field, head, link, note, section, trouble} from './parts.js';

const SETTLE_MS = 350;

export async function submit({place, url, signal, session, go}) {
  const [scenarios, schema] = await Promise.all([ask('/v1/scenarios', {signal}), ask('/v1/schema/job', {signal})]);
  const meaning = name => (schema.properties?.[name]?.description ?? '').split('\n\n')[0].replaceAll('\n', ' ').replaceAll('`', '');
  const line = (value = '', hint) => h('input', {type: 'text', value, autocomplete: 'off', spellcheck: 'false', placeholder: hint});
  const scenario = line(url.searchParams.get('scenario') ?? '');
  scenario.setAttribute('list', 'scenario-names');
  const names = h('datalist', {id: 'scenario-names'}, scenarios.filter(each => !each.name.includes('<')).map(each => h('option', {value: each.name}, each.description)));
  const same = name => [name, name];
  const controls = {
    scenario,
    input: line('', '/media/in/clip.mov'),
    output: line('', '/media/out/clip.mp4'),
    queue: choice(['default', 'live', 'batch'].map(same)),
    priority: choice(['medium', 'high', 'low'].map(same)),
    labels: line('', 'show=news part=2'),
    tenant: session.tenant ? null : line(''),
  };
  const more = h('textarea', {rows: 8, spellcheck: 'false', autocomplete: 'off'});
  const verdict = h('div', {class: 'verdict', role: 'status'});
  const faults = h('div');
  const result = h('div');
  const send = h('button', {type: 'submit', class: 'main'}, 'Submit');
  const titles = {scenario: 'Scenario', input: 'Input', output: 'Output', queue: 'Queue', priority: 'Priority', labels: 'Labels', tenant: 'Tenant'};
  const fields = Object.fromEntries(Object.entries(controls).filter(([, control]) => control)
    .map(([name, control]) => [name, field(name, titles[name], control, name === 'labels' ? 'name=value, with spaces between' : meaning(name))]));
  fields.more = field('more', 'More, as JSON', more, 'Any other member of a job, such as {"parameters": {"crf": 20}}. The list below names them.');

  let checking = null;
  let timer = null;
  let touched = false;
  const check = async () => {
    checking?.abort();
    checking = new AbortController();
    const own = checking;
    let job;
    try {
      job = jobOf(controls, more.value);
    } catch (error) {
      mark([{path: 'more', message: error.message}]);
      return null;
    }
    try {
      const {spec} = await post('/v1/jobs/check', job, {signal: own.signal});
      mark([]);
      put(verdict, 'This job is valid.');
      put(result, h('details', {}, h('summary', {}, 'As it would be recorded'), code(spec)));
      return job;
    } catch (error) {
      if (error.name === 'AbortError') return null;
      if (error.faults?.length) mark(error.faults);
      else put(faults, trouble(error));
      return null;
    }
  };
  const mark = found => {
    const used = new Set();
    for (const [name, place] of Object.entries(fields)) {
      const own = found.filter(fault => fault.path === name || fault.path.startsWith(`${name}.`) || fault.path.startsWith(`${name}[`));
      own.forEach(fault => used.add(fault));
      const control = place.querySelector('input, select, textarea');
      let wrong = place.querySelector('.wrong');
      if (!wrong) {
        wrong = h('p', {class: 'wrong', id: `${control.id}-wrong`});
        place.append(wrong);
        control.setAttribute('aria-describedby', `${control.getAttribute('aria-describedby')} ${wrong.id}`);
      }
      wrong.textContent = touched ? own.map(fault => fault.message).join(' ') : '';
      control.toggleAttribute('aria-invalid', touched && own.length > 0);
      if (touched && own.length) control.setAttribute('aria-invalid', 'true');
    }
    const others = found.filter(fault => !used.has(fault));
    put(faults, touched && others.length > 0 && faultsOf(others));
    if (found.length) {
      put(result);
      put(verdict, touched ? `${plural(found.length, 'fault', 'faults')} so far.` : 'Fill in what the job shall be.');
    }
  };
  const form = h('form', {class: 'job-form', 'aria-label': 'The job', novalidate: true, oninput: () => {
    touched = true;
    clearTimeout(timer);
    timer = setTimeout(check, SETTLE_MS);
  }, onsubmit: async event => {
    event.preventDefault();
    touched = true;
    send.disabled = true;
    clearTimeout(timer);
    try {
      const job = await check();
      if (!job) {
        form.querySelector('[aria-invalid="true"]')?.focus();
        return;
      }
      const made = await post('/v1/jobs', job);
      note(`Job ${made.number} is ${made.state}.`);
      go(`/jobs/${made.number}`);
    } catch (error) {
      put(faults, trouble(error));
    } finally {
      send.disabled = false;
    }
  }}, names, Object.values(fields), faults, h('div', {class: 'row'}, send, verdict), result);

  put(place, head('Submit a job'), h('p', {class: 'lead'}, 'It is checked while you write. ', link('/scenarios', 'All scenarios')), section('The job', form),
    section('Members of a job', h('dl', {class: 'facts members'}, Object.entries(schema.properties ?? {}).map(([name]) => h('div', {}, h('dt', {}, h('code', {}, name)), h('dd', {}, meaning(name) || '–'))))));
  signal.addEventListener('abort', () => {
    clearTimeout(timer);
    checking?.abort();
  });
  check();
}

// The job that the form says. Throws with what cannot be read.
function jobOf(controls, more) {
  let job = {};
  if (more.trim()) {
    try {
      job = JSON.parse(more);
    } catch (error) {
      throw new Error(`This is no JSON: ${error.message}`);
    }
    if (typeof job !== 'object' || job === null || Array.isArray(job)) throw new Error('An object is expected, in braces.');
  }
  for (const [name, control] of Object.entries(controls)) {
    const value = control?.value.trim();
    if (!value) continue;
    if (name === 'labels') {
      job.labels = {...job.labels, ...Object.fromEntries(value.split(/\s+/).map(pair => {
        const [label, ...rest] = pair.split('=');
        return [label, rest.join('=')];
      }))};
    } else {
      job[name] = value;
    }
  }
  return job;
}
