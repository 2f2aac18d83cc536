// The page on which a key is exchanged for a session. Invariant: the key is kept nowhere in the browser.

import {h, put} from './dom.js';
import {post} from './api.js';

export function login(place, enter) {
  const key = h('input', {id: 'key', name: 'key', type: 'password', required: true, autocomplete: 'current-password', spellcheck: 'false', 'aria-describedby': 'key-help key-error'});
  const wrong = h('p', {id: 'key-error', class: 'wrong', role: 'alert'});
  const button = h('button', {type: 'submit', class: 'main'}, 'Log in');
  const send = async event => {
    event.preventDefault();
    button.disabled = true;
    wrong.textContent = '';
    try {
      const session = await post('/v1/session', undefined, {key: key.value.trim()});
      key.value = '';
      enter(session);
    } catch (error) {
      wrong.textContent = error.message;
      key.setAttribute('aria-invalid', 'true');
      key.focus();
    } finally {
      button.disabled = false;
    }
  };
  put(place, h('div', {class: 'login'},
    h('h1', {tabindex: '-1'}, 'ffpool'),
    !window.isSecureContext && h('p', {class: 'wrong'}, 'This page came over plain HTTP, and a browser keeps no session there: open it with https://.'),
    h('form', {onsubmit: send},
      h('div', {class: 'field'},
        h('label', {for: 'key'}, 'API key'), key,
        h('p', {class: 'help', id: 'key-help'}, 'It begins with ffp_. An administrator makes one with `ffpool keys create`.'), wrong),
      button)));
  key.focus();
}
