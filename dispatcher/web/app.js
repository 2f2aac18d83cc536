// Starts the dashboard: who is logged in, which page the path names, the menu.
// Invariant: a page that is left asks and hears nothing more.

import {put, say} from './dom.js';
import {ask, holdToken, onEnd, post} from './api.js';
import * as live from './live.js';
import {note, trouble, waiting} from './parts.js';
import {login} from './login.js';
import {overview} from './overview.js';
import {jobs} from './jobs.js';
import {job} from './job.js';
import {worker, workers} from './workers.js';
import {deadLetters} from './dead-letters.js';
import {scenarios} from './scenarios.js';
import {submit} from './submit.js';
import {cost} from './cost.js';
import {audit, keys, tenants} from './admin.js';

const PAGES = [
  [/^\/$/, 'Overview', overview],
  [/^\/jobs$/, 'Jobs', jobs],
  [/^\/jobs\/([^/]+)$/, 'Job', job],
  [/^\/workers$/, 'Workers', workers],
  [/^\/workers\/([^/]+)$/, 'Worker', worker],
  [/^\/dead-letters$/, 'Dead letters', deadLetters],
  [/^\/scenarios$/, 'Scenarios', scenarios],
  [/^\/submit$/, 'Submit', submit],
  [/^\/cost$/, 'Cost', cost],
  [/^\/keys$/, 'Keys', keys],
  [/^\/tenants$/, 'Tenants', tenants],
  [/^\/audit$/, 'Audit', audit],
];

const main = document.getElementById('main');
const bar = document.getElementById('bar');
const nav = document.getElementById('nav');
const menu = document.getElementById('menu');

let session = null;
let shown = null;

// Goes to a path of the dashboard.
export function go(to, {replace = false} = {}) {
  history[replace ? 'replaceState' : 'pushState'](null, '', to);
  show();
}

async function show() {
  shown?.abort();
  const here = new AbortController();
  shown = here;
  menu.setAttribute('aria-expanded', 'false');
  const url = new URL(location.href);
  if (!session) {
    document.title = 'Log in · ffpool';
    return login(main, enter);
  }
  if (url.pathname === '/login') return go(backTo(url.searchParams.get('to')), {replace: true});
  const found = PAGES.map(([pattern, title, page]) => ({match: url.pathname.match(pattern), title, page})).find(({match}) => match);
  const name = found?.match[1] ? decoded(found.match[1]) : null;
  if (!found || found.match[1] && name === null) return put(main, trouble({title: 'No such page', message: 'The address names no page of the dashboard.'}));
  mark(url.pathname);
  document.title = `${found.title} · ffpool`;
  live.follow({});
  const place = document.createElement('div');
  place.className = 'page';
  put(place, waiting());
  put(main, place);
  const context = {
    url, session, place, go, name,
    signal: here.signal,
    may: right => session.rights.includes(right),
    follow: wanted => !here.signal.aborted && live.follow(wanted),
    every: (seconds, work) => every(seconds, work, here.signal),
    title: text => { document.title = `${text} · ffpool`; },
  };
  try {
    await found.page(context);
  } catch (error) {
    if (error.name === 'AbortError' || here.signal.aborted) return;
    put(place, trouble(error));
  }
  if (here.signal.aborted) return;
  const heading = place.querySelector('h1');
  heading?.focus({preventScroll: true});
  say(document.title);
}

// Where the login leads: a path of this origin. Browsers read `\` as `/` and skip control characters, so that `/\host` and
// a tab between two slashes name another host.
function backTo(to) {
  return to && /^\/(?![/\\])[^\u0000-\u001f]*$/.test(to) ? to : '/';
}

// A part of a path as text; null where it is none, such as `%zz`.
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return null;
  }
}

// Does something again and again while the page is shown and seen.
function every(seconds, work, signal) {
  const timer = setInterval(() => { if (!document.hidden) work(); }, seconds * 1000);
  signal.addEventListener('abort', () => clearInterval(timer));
}

function mark(pathname) {
  for (const link of nav.querySelectorAll('a')) {
    const to = link.getAttribute('href');
    const here = to === '/' ? pathname === '/' : pathname === to || pathname.startsWith(`${to}/`);
    if (here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

function enter(found) {
  session = found;
  holdToken(found.csrf);
  bar.hidden = false;
  document.getElementById('user-name').textContent = found.name;
  document.getElementById('user-role').textContent = found.tenant ? `${found.role} of ${found.tenant}` : found.role;
  for (const item of nav.querySelectorAll('[data-right]')) item.hidden = !found.rights.includes(item.dataset.right);
  live.start();
  show();
}

function leave() {
  if (!session) return;
  session = null;
  holdToken(null);
  live.stop();
  bar.hidden = true;
  const to = location.pathname === '/login' ? '/' : `${location.pathname}${location.search}`;
  go(`/login?to=${encodeURIComponent(to)}`, {replace: true});
}

onEnd(leave);

live.onState(state => {
  const place = document.getElementById('link-state');
  place.dataset.state = state;
  place.querySelector('.words').textContent = {live: 'Live', waiting: 'Reconnecting', off: 'Not connected'}[state];
});

document.addEventListener('click', event => {
  const link = event.target.closest?.('a[href]');
  if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const to = new URL(link.href);
  if (to.origin !== location.origin || link.target || link.relList.contains('external') || link.hasAttribute('download') || link.classList.contains('skip')) return;
  event.preventDefault();
  go(`${to.pathname}${to.search}`);
  window.scrollTo(0, 0);
});

window.addEventListener('popstate', show);

menu.addEventListener('click', () => {
  menu.setAttribute('aria-expanded', String(menu.getAttribute('aria-expanded') !== 'true'));
});

document.getElementById('logout').addEventListener('click', async () => {
  try {
    await post('/v1/session/end');
    leave();
  } catch (error) {
    note(error.message, 'bad');
  }
});

const theme = document.getElementById('theme');

function nameTheme() {
  const chosen = document.documentElement.dataset.theme;
  theme.textContent = {light: 'Theme: light', dark: 'Theme: dark'}[chosen] ?? 'Theme: system';
}

theme.addEventListener('click', () => {
  const root = document.documentElement;
  const next = {light: 'dark', dark: undefined}[root.dataset.theme];
  if (root.dataset.theme === undefined) root.dataset.theme = 'light';
  else if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  try {
    if (root.dataset.theme) localStorage.setItem('ffpool-theme', root.dataset.theme);
    else localStorage.removeItem('ffpool-theme');
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  nameTheme();
  say(theme.textContent);
});

nameTheme();

(async () => {
  try {
    enter(await ask('/v1/session'));
  } catch (error) {
    if (error.status !== 401) return put(main, trouble(error));
    const to = location.pathname === '/login' ? null : `${location.pathname}${location.search}`;
    go(to && to !== '/' ? `/login?to=${encodeURIComponent(to)}` : `/login${location.pathname === '/login' ? location.search : ''}`, {replace: true});
  }
})();
