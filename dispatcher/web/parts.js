// What several pages are made of. Invariant: a colour never says anything that no word or shape says too.

import {h, s, put, renew, say} from './dom.js';
import {at, age, count, NONE, words} from './format.js';

const SHAPES = {
  queued: 'M8 3a5 5 0 1 0 0 10A5 5 0 0 0 8 3zm0 2a3 3 0 1 1 0 6 3 3 0 0 1 0-6z',
  delayed: 'M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zm1 6.5H5v-1.600h2.400V4H9z',
  blocked: 'M3 7h10v2H3z',
  running: 'M5 3l8 5-8 5z',
  cancelling: 'M4 4h8v8H4z',
  completed: 'M6.500 12L2.500 8l1.500-1.500 2.500 2.500 5.500-5.500L13.500 5z',
  failed: 'M8 2l6 11H2zM7.200 6v3.500h1.600V6zm0 4.500v1.500h1.600v-1.500z',
  cancelled: 'M4 5.200L5.200 4 8 6.800 10.800 4 12 5.200 9.200 8 12 10.800 10.800 12 8 9.200 5.200 12 4 10.800 6.800 8z',
  rejected: 'M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM4.500 7.200h7v1.600h-7z',
};
const LOOKS = {
  starting: 'queued', ready: 'completed', draining: 'delayed', stopped: 'cancelled', lost: 'failed',
  finished: 'completed', released: 'delayed', lapsed: 'failed', split: 'delayed',
  valid: 'completed', expired: 'delayed', revoked: 'cancelled', tenant_disabled: 'rejected',
  paused: 'delayed', enabled: 'completed', disabled: 'rejected',
};

// A state: its shape, its word, its colour.
export function badge(state, title) {
  const look = SHAPES[state] ? state : LOOKS[state] ?? 'queued';
  return h('span', {class: `badge ${look}`, title},
    s('svg', {viewBox: '0 0 16 16', 'aria-hidden': 'true'}, s('path', {d: SHAPES[look]})), words(state));
}

export function link(href, text, props) {
  return h('a', {href, ...props}, text);
}

export function jobLink(job) {
  return link(`/jobs/${job.number ?? job.id}`, `#${job.number ?? job.id}`, {class: 'number'});
}

// A moment: how long ago, and in full when asked.
export function ago(instant, words = 'ago') {
  return instant ? h('time', {datetime: instant, title: at(instant)}, `${age(instant)} ${words}`.trim()) : NONE;
}

// The head of a page. The heading takes the focus when the page comes.
export function head(title, ...rest) {
  return h('div', {class: 'page-head'}, h('h1', {tabindex: '-1'}, title), rest);
}

export function section(title, ...children) {
  const id = `h-${title.toLowerCase().replaceAll(/[^a-z]+/g, '-')}`;
  return h('section', {class: 'panel', 'aria-labelledby': id}, h('h2', {id}, title), children);
}

export function figure(term, value, more) {
  return h('div', {class: 'figure'}, h('dt', {}, term), h('dd', {class: 'big'}, value), more && h('dd', {class: 'muted'}, more));
}

// A table: `columns` are {title, cell, className}; `rows` anything that the cells take, of which `most` are shown.
export function table(caption, columns, rows, {empty = 'Nothing here.', rowKey, most = Infinity} = {}) {
  const body = h('tbody', {}, rows.slice(0, most).map(row => tr(columns, row, rowKey)));
  const told = rows.length > most ? `The first ${count(most)} of ${count(rows.length)} are shown.` : !rows.length && empty;
  if (told) body.append(h('tr', {}, h('td', {class: 'empty', colspan: columns.length}, told)));
  return h('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption},
    h('table', {}, h('caption', {class: 'unseen'}, caption),
      h('thead', {}, h('tr', {}, columns.map(column => h('th', {scope: 'col', class: column.className}, column.title)))), body));
}

export function tr(columns, row, rowKey) {
  return h('tr', {'data-key': rowKey?.(row)}, columns.map((column, index) =>
    h(index === 0 ? 'th' : 'td', {scope: index === 0 ? 'row' : null, class: column.className}, column.cell(row))));
}

// Words and values beside each other; those without a value are left out.
export function facts(pairs) {
  return h('dl', {class: 'facts'}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== '')
    .map(([term, value]) => h('div', {}, h('dt', {}, term), h('dd', {}, value))));
}

// A problem where something was to be.
export function trouble(error) {
  return h('div', {class: 'trouble', role: 'alert'}, h('strong', {}, error.title ?? 'Something went wrong'), h('p', {}, error.message));
}

// A short note in the corner, which is read out.
export function note(text, kind = 'good') {
  const notes = document.getElementById('notes');
  const shown = h('div', {class: `note ${kind}`}, h('p', {}, text),
    h('button', {type: 'button', class: 'quiet', 'aria-label': 'Close this note', onclick: () => shown.remove()}, '×'));
  notes.append(shown);
  while (notes.children.length > 3) notes.firstChild.remove();
  say(text);
  if (kind === 'good') setTimeout(() => shown.remove(), 6000);
}

// A button that does something and says how it went.
export function action(text, act, {className = '', done, label} = {}) {
  const button = h('button', {type: 'button', class: className, 'aria-label': label, onclick: async () => {
    button.disabled = true;
    try {
      const said = await act();
      if (said !== undefined && said !== null) note(done ?? said.message ?? String(said));
    } catch (error) {
      note(error.message, 'bad');
    } finally {
      button.disabled = false;
    }
  }}, text);
  return button;
}

// Asks before something is done. Gives what was written where `field` asks for it, true otherwise, and null for no.
export function confirm(title, text, {yes = 'Yes', field, needed, danger} = {}) {
  return new Promise(resolve => {
    const input = field && h('input', {id: 'dialog-field', type: 'text', required: needed, autocomplete: 'off', maxlength: 500});
    const dialog = h('dialog', {'aria-labelledby': 'dialog-title', 'aria-describedby': 'dialog-text'},
      h('form', {method: 'dialog', onsubmit: event => {
        event.preventDefault();
        dialog.close('yes');
      }},
      h('h2', {id: 'dialog-title'}, title),
      h('p', {id: 'dialog-text'}, text),
      input && h('div', {class: 'field'}, h('label', {for: 'dialog-field'}, field), input),
      h('div', {class: 'row end'},
        h('button', {type: 'button', class: 'quiet', onclick: () => dialog.close('no')}, 'No'),
        h('button', {type: 'submit', class: danger ? 'danger' : 'main'}, yes))));
    dialog.addEventListener('close', () => {
      const said = dialog.returnValue === 'yes';
      dialog.remove();
      resolve(said ? (input ? input.value.trim() : true) : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

// Shows something that is to be copied, once.
export function reveal(title, text, secret) {
  const dialog = h('dialog', {'aria-labelledby': 'reveal-title'},
    h('h2', {id: 'reveal-title'}, title), h('p', {}, text), h('p', {}, h('code', {class: 'secret', tabindex: '0'}, secret)),
    h('div', {class: 'row end'}, copy(secret, 'Copy'),
      h('button', {type: 'button', class: 'main', onclick: () => dialog.close()}, 'Done')));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

export function copy(text, title) {
  return action(title, async () => {
    await navigator.clipboard.writeText(typeof text === 'function' ? text() : text).catch(() => {
      throw new Error('The browser does not let the page copy: mark the text and copy it yourself.');
    });
    return 'Copied.';
  }, {className: 'quiet'});
}

// A field of a form with its words, and a place for what is wrong with it.
export function field(name, title, control, help) {
  const id = `f-${name}`;
  control.id = id;
  control.name = name;
  control.setAttribute('aria-describedby', `${id}-help`);
  return h('div', {class: 'field'}, h('label', {for: id}, title), control, h('p', {class: 'help', id: `${id}-help`}, help ?? ''));
}

export function choice(options, value) {
  const select = h('select', {}, options.map(([key, text]) => h('option', {value: key}, text)));
  select.value = value ?? options[0][0];
  return select;
}

// Follows pages by cursors: one link back to the first page, one to the next.
export function pager(url, next, {first: back = 'Newest', order = 'Newest first', next: on = 'Older'} = {}) {
  const first = new URL(url);
  first.searchParams.delete('cursor');
  const older = new URL(url);
  if (next) older.searchParams.set('cursor', next);
  const shown = to => `${to.pathname}${to.search}`;
  return h('nav', {class: 'pager', 'aria-label': 'Pages'},
    url.searchParams.has('cursor') ? link(shown(first), back, {class: 'button'}) : h('span', {class: 'muted'}, order),
    next ? link(shown(older), on, {class: 'button', rel: 'next'}) : h('span', {class: 'muted'}, 'No more'));
}

// Loads what a place shows, and shows what went wrong where it does not come.
export async function load(place, work) {
  try {
    renew(place, await work());
  } catch (error) {
    if (error.name !== 'AbortError') put(place, trouble(error));
  }
}

export function waiting() {
  return h('p', {class: 'muted waiting'}, 'Loading …');
}
