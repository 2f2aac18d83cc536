// Asks the API. Invariant: a request goes to this origin alone, with the cookie, and one that changes something with the token.

export class Problem extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.status = problem.status;
    this.title = problem.title;
    this.faults = problem.faults ?? [];
  }
}

let csrf = null;
let ended = () => {};

// Who is asked for when the session has ended.
export function onEnd(handler) {
  ended = handler;
}

// What every request that changes something carries.
export function holdToken(token) {
  csrf = token ?? null;
}

// Options: `method`, `body` (sent as JSON), `key`, `signal`, and `idle` for what nobody asked for.
export async function ask(path, {method = 'GET', body, key, signal, idle} = {}) {
  const headers = {Accept: 'application/json'};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (key) headers.Authorization = `Bearer ${key}`;
  if (method !== 'GET' && csrf && !key) headers['X-FFPool-CSRF'] = csrf;
  if (idle) headers['X-FFPool-Idle'] = '1';
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, cache: 'no-store', credentials: 'same-origin', redirect: 'error',
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem({title: 'No answer', detail: 'The dispatcher does not answer. Is it running, and is the network up?', status: 0});
  }
  if (response.ok) return response.json();
  let problem;
  try {
    problem = await response.json();
  } catch {
    problem = {title: 'Unexpected answer', detail: `The answer has the status ${response.status} and cannot be read.`};
  }
  problem.status = response.status;
  if (response.status === 401 && !key) ended();
  throw new Problem(problem);
}

export function post(path, body, options) {
  return ask(path, {...options, method: 'POST', body});
}

// A path of which some segments come from outside.
export function path(strings, ...values) {
  return strings.reduce((text, part, index) => text + encodeURIComponent(values[index - 1]) + part);
}
