// The encodes that a job may name, and the templates that it may be made of.

import {ask} from './api.js';
import {h, put} from './dom.js';
import {words} from './format.js';
import {head, link, section, table} from './parts.js';

export async function scenarios({place, signal, may}) {
  const [named, templates] = await Promise.all([ask('/v1/scenarios', {signal}), ask('/v1/templates', {signal})]);
  const list = h('div');
  const wanted = h('input', {type: 'search', id: 'scenario-find', autocomplete: 'off', spellcheck: 'false'});
  const said = h('p', {class: 'muted', role: 'status'});
  const parameters = scenario => Object.entries(scenario.parameters ?? {}).map(([name, value]) => `${words(name)} ${typeof value === 'object' ? JSON.stringify(value) : value}`).join(', ');
  const draw = () => {
    const text = wanted.value.trim().toLowerCase();
    const found = named.filter(scenario => `${scenario.name} ${scenario.description}`.toLowerCase().includes(text));
    put(said, `${found.length} of ${named.length} are shown`);
    put(list, table('Scenarios', [
      {title: 'Name', cell: scenario => may('submit') && !scenario.name.includes('<') ? link(`/submit?scenario=${encodeURIComponent(scenario.name)}`, scenario.name) : h('code', {}, scenario.name)},
      {title: 'What it is', className: 'text', cell: scenario => scenario.description},
      {title: 'From', className: 'wide', cell: scenario => words(scenario.source)},
      {title: 'Parameters', className: 'text wide', cell: scenario => parameters(scenario) || '–'},
    ], found, {empty: 'No scenario has these words.'}));
  };
  wanted.addEventListener('input', draw);
  put(place, head('Scenarios'), h('div', {class: 'field narrow'}, h('label', {for: 'scenario-find'}, 'Find'), wanted), said, list,
    section('Templates', table('Templates', [
      {title: 'Name', cell: template => h('code', {}, template.name)},
      {title: 'What it is for', className: 'text', cell: template => template.description},
      {title: 'Must be given', cell: template => template.required.join(', ') || '–'},
      {title: 'May be given', className: 'text wide', cell: template => Object.entries(template.defaults).map(([name, value]) => `${name} (${value})`).join(', ') || '–'},
    ], templates, {empty: 'The operator has declared none.'})));
  draw();
}
