// Keys, tenants and the audit, for administrators.

import {ask, path, post} from './api.js';
import {h, put} from './dom.js';
import {at, count} from './format.js';
import {code} from './job.js';
import {action, ago, badge, choice, confirm, field, head, load, note, pager, reveal, section, table} from './parts.js';

const SHOWN = 500;
const ROLES = [['viewer', 'viewer: reads'], ['submitter', 'submitter: hands in jobs'], ['operator', 'operator: controls jobs and workers'], ['admin', 'admin: everything']];
const LIMITS = [['weight', 'Weight'], ['max_queued', 'Jobs that wait'], ['max_running', 'Jobs that run'], ['max_cpu_cores', 'Cores'], ['max_storage_mb', 'Storage in MiB'], ['requests_per_sec', 'Requests a second']];

export async function keys({place, signal, session}) {
  const list = h('div');
  const show = made => {
    reveal('The new key', `This is the key of ${made.name}. Nobody can show it again: give it to its owner now.`, made.key);
    read();
  };
  const read = () => load(list, async () => {
    const found = await ask('/v1/keys', {signal});
    return table('Keys of the API', [
      {title: 'Name', className: 'text', cell: key => [key.name, ' ', h('code', {class: 'muted'}, key.prefix)]},
      {title: 'State', cell: key => badge(key.state)},
      {title: 'Role', className: 'wide', cell: key => key.scopes ? `${key.role} (${key.scopes.join(', ')})` : key.role},
      {title: 'Tenant', className: 'wide', cell: key => key.tenant ?? '–'},
      {title: 'Last used', className: 'num wide', cell: key => ago(key.last_used_at)},
      {title: 'Expires', className: 'num wide', cell: key => key.expires_at ? at(key.expires_at) : 'never'},
      {title: 'Change', cell: key => key.state === 'valid' ? h('div', {class: 'row tight'},
        action('Rotate', async () => {
          if (!await confirm(`Rotate the key ${key.name}?`, 'A new one is made; the old one opens beside it for a day.', {yes: 'Rotate'})) return null;
          show(await post(path`/v1/keys/${key.prefix}/rotate`));
          return null;
        }, {className: 'small', label: `Rotate the key ${key.name}`}),
        action('Revoke', async () => {
          if (!await confirm(`Revoke the key ${key.name}?`, 'It opens nothing any more, and its sessions end at once.', {yes: 'Revoke', danger: true})) return null;
          const answer = await post(path`/v1/keys/${key.prefix}/revoke`);
          read();
          return answer;
        }, {className: 'danger small', label: `Revoke the key ${key.name}`})) : '–'},
    ], found, {empty: 'There is no key.', most: SHOWN});
  });
  const name = h('input', {type: 'text', required: true, maxlength: 64, autocomplete: 'off'});
  const role = choice(ROLES);
  const tenant = session.tenant ? null : h('input', {type: 'text', autocomplete: 'off'});
  const expires = h('input', {type: 'date'});
  const form = h('form', {class: 'filters', 'aria-label': 'Make a key', onsubmit: async event => {
    event.preventDefault();
    try {
      const wanted = {name: name.value.trim(), role: role.value};
      if (tenant?.value.trim()) wanted.tenant = tenant.value.trim();
      if (expires.value) wanted.expires_at = new Date(`${expires.value}T00:00:00`).toISOString();
      show(await post('/v1/keys', wanted));
      form.reset();
    } catch (error) {
      note(error.message, 'bad');
    }
  }}, field('key-name', 'Name', name), field('key-role', 'Role', role), tenant && field('key-tenant', 'Tenant', tenant, 'empty: the whole pool'),
  field('key-expires', 'Ends', expires, 'empty: never'), h('div', {class: 'row end'}, h('button', {type: 'submit', class: 'main'}, 'Make a key')));
  put(place, head('Keys'), section('New key', form), list);
  await read();
}

export async function tenants({place, signal, session}) {
  const list = h('div');
  const controls = !session.tenant;
  const read = () => load(list, async () => {
    const found = await ask('/v1/tenants', {signal});
    return table('Tenants', [
      {title: 'Name', cell: tenant => [tenant.name, tenant.amqp_user ? h('span', {class: 'muted'}, ` (RabbitMQ user ${tenant.amqp_user})`) : '']},
      {title: 'State', cell: tenant => badge(tenant.disabled_at ? 'disabled' : 'enabled')},
      ...LIMITS.map(([key, title], index) => ({title, className: index > 0 ? 'num wide' : 'num', cell: tenant => tenant[key] === null || tenant[key] === undefined ? 'none' : count(tenant[key])})),
      controls && {title: 'Change', cell: tenant => h('div', {class: 'row tight'},
        action('Limits', async () => {
          await limitsOf(tenant);
          read();
        }, {className: 'small', label: `Change the limits of ${tenant.name}`}),
        action(tenant.disabled_at ? 'Enable' : 'Disable', async () => {
          if (!tenant.disabled_at && !await confirm(`Disable ${tenant.name}?`, 'Its keys open nothing and its schedules make no jobs; its jobs stay.', {yes: 'Disable', danger: true})) return null;
          await post(path`/v1/tenants/${tenant.name}/` + (tenant.disabled_at ? 'enable' : 'disable'));
          read();
          return `${tenant.name} is ${tenant.disabled_at ? 'enabled' : 'disabled'}.`;
        }, {className: tenant.disabled_at ? 'small' : 'danger small', label: `${tenant.disabled_at ? 'Enable' : 'Disable'} ${tenant.name}`}))},
    ].filter(Boolean), found, {empty: 'There is no tenant.', most: SHOWN});
  });
  const name = h('input', {type: 'text', required: true, maxlength: 64, autocomplete: 'off'});
  const form = h('form', {class: 'filters', 'aria-label': 'Make a tenant', onsubmit: async event => {
    event.preventDefault();
    try {
      const made = await post('/v1/tenants', {name: name.value.trim()});
      note(`The tenant ${made.name} is made.`);
      form.reset();
      read();
    } catch (error) {
      note(error.message, 'bad');
    }
  }}, field('tenant-name', 'Name', name), h('div', {class: 'row end'}, h('button', {type: 'submit', class: 'main'}, 'Make a tenant')));
  put(place, head('Tenants'), controls && section('New tenant', form), list);
  await read();
}

// Asks for a tenant's limits and sets them.
function limitsOf(tenant) {
  return new Promise(resolve => {
    const inputs = LIMITS.map(([key]) => [key, h('input', {type: 'number', min: key === 'weight' ? 1 : 0, step: ['max_cpu_cores', 'requests_per_sec'].includes(key) ? 'any' : 1, value: tenant[key] ?? '', required: key === 'weight'})]);
    const wrong = h('p', {class: 'wrong', role: 'alert'});
    const dialog = h('dialog', {'aria-labelledby': 'limits-title'}, h('form', {onsubmit: async event => {
      event.preventDefault();
      try {
        await post(path`/v1/tenants/${tenant.name}/set`, Object.fromEntries(inputs.map(([key, input]) => [key, input.value === '' ? null : Number(input.value)])));
        note(`The limits of ${tenant.name} are set.`);
        dialog.close();
      } catch (error) {
        wrong.textContent = error.message;
      }
    }},
    h('h2', {id: 'limits-title'}, `Limits of ${tenant.name}`), h('p', {class: 'muted'}, 'Empty means no limit.'),
    inputs.map(([key, input], index) => field(`limit-${key}`, LIMITS[index][1], input)), wrong,
    h('div', {class: 'row end'}, h('button', {type: 'button', class: 'quiet', onclick: () => dialog.close()}, 'Cancel'), h('button', {type: 'submit', class: 'main'}, 'Set'))));
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export async function audit({place, url, signal}) {
  const query = new URLSearchParams({limit: 50});
  if (url.searchParams.has('cursor')) query.set('cursor', url.searchParams.get('cursor'));
  const page = await ask(`/v1/audit?${query}`, {signal});
  const details = entry => {
    const {detail, before, after} = entry;
    const has = [detail, before, after].some(part => part && Object.keys(part).length);
    return has ? h('details', {}, h('summary', {}, 'Show'), code({detail, before, after})) : '–';
  };
  put(place, head('Audit'), table('Who changed what, newest first', [
    {title: 'When', cell: entry => ago(entry.at)},
    {title: 'Who', cell: entry => entry.who},
    {title: 'What', cell: entry => entry.action.replaceAll('_', ' ')},
    {title: 'On what', className: 'text', cell: entry => entry.target},
    {title: 'Tenant', className: 'wide', cell: entry => entry.tenant ?? '–'},
    {title: 'From', className: 'wide', cell: entry => entry.address ?? '–'},
    {title: 'More', className: 'wide', cell: details},
  ], page.items, {empty: 'Nothing was changed yet.'}), pager(url, page.next));
}
