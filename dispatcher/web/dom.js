// Makes elements. Invariant: what comes from outside gets onto the page as text and never as markup.

const SVG = 'http://www.w3.org/2000/svg';

// An element of HTML: `h('p', {class: 'muted', onclick: act}, 'text', child)`. What is null or false is left out.
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

// The same of SVG.
export function s(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value') element.value = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

// Replaces what is in an element.
export function put(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

// Replaces what is in an element and leaves the rest to who reads it as it was: what is unfolded stays so, what is scrolled stays where it
// is, and the focus goes to what is there again.
export function renew(element, ...children) {
  const open = new Set([...element.querySelectorAll('details[open] > summary')].map(keyOf));
  const scrolled = [...element.querySelectorAll('[tabindex="0"]')].filter(one => one.scrollTop || one.scrollLeft)
    .map(one => ({key: keyOf(one), top: one.scrollTop, left: one.scrollLeft}));
  const held = element.contains(document.activeElement) && element !== document.activeElement ? keyOf(document.activeElement) : null;
  put(element, ...children);
  for (const summary of element.querySelectorAll('details > summary')) if (open.has(keyOf(summary))) summary.parentElement.open = true;
  for (const {key, top, left} of scrolled) placeOf(element, key)?.scrollTo({top, left, behavior: 'instant'});
  if (held) placeOf(element, held)?.focus({preventScroll: true});
  return element;
}

function placeOf(element, key) {
  return [...element.querySelectorAll('a[href], button, summary, [tabindex]')].find(one => keyOf(one) === key);
}

// What tells apart whatever can be pointed at.
function keyOf(one) {
  return `${one.tagName} ${one.getAttribute('href') ?? one.getAttribute('aria-label') ?? one.textContent}`;
}

// Says something to who listens instead of looking.
export function say(text) {
  const said = document.getElementById('said');
  said.textContent = '';
  requestAnimationFrame(() => { said.textContent = text; });
}
