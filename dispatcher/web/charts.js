// Curves and bars, drawn as SVG. Invariant: each has a text that says the same, for who does not see it.

import {s, h} from './dom.js';

// A line over values, as wide as its place. Options: `label`, `max`, `className`; `at`, where each value lies, if not one step apart.
export function curve(values, {label, max, at, className = ''} = {}) {
  const width = 600;
  const height = 96;
  const top = Math.max(max ?? 0, ...values, 1);
  const places = at ?? values.map((_, index) => index);
  const length = (places.at(-1) ?? 0) - (places[0] ?? 0) || 1;
  const x = index => (((places[index] - places[0]) / length) * width).toFixed(1);
  const y = value => height - 2 - (value / top) * (height - 8);
  const points = values.map((value, index) => `${x(index)},${y(value).toFixed(1)}`);
  const area = points.length ? `M0,${height} L${points.join(' L')} L${x(values.length - 1)},${height} Z` : '';
  return s('svg', {class: `curve ${className}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label},
    s('line', {class: 'ground', x1: 0, y1: height - 1, x2: width, y2: height - 1}),
    area && s('path', {class: 'area', d: area}),
    points.length > 1 && s('polyline', {class: 'line', points: points.join(' ')}));
}

// Bars side by side, each of stacked parts: `points` are lists of numbers, `classes` names the parts from the bottom up.
export function columns(points, classes, {label} = {}) {
  const width = 600;
  const height = 120;
  const top = Math.max(1, ...points.map(parts => parts.reduce((sum, part) => sum + part, 0)));
  const step = width / Math.max(1, points.length);
  const bars = points.flatMap((parts, index) => {
    let from = height;
    return parts.map((part, kind) => {
      if (part <= 0) return null;
      const tall = Math.max(1.5, (part / top) * (height - 6));
      from -= tall;
      return s('rect', {class: classes[kind], x: (index * step + step * 0.12).toFixed(1), y: from.toFixed(1), width: (step * 0.76).toFixed(1), height: tall.toFixed(1)});
    });
  });
  return s('svg', {class: 'columns', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label},
    s('line', {class: 'ground', x1: 0, y1: height - 0.5, x2: width, y2: height - 0.5}), bars);
}

// How much of a whole, as a bar with its words beside it.
export function share(part, whole, text, className = '') {
  const percent = whole > 0 ? Math.min(100, (part / whole) * 100) : 0;
  return h('span', {class: 'share'},
    s('svg', {class: `meter ${className}`, viewBox: '0 0 100 6', preserveAspectRatio: 'none', 'aria-hidden': 'true'},
      s('rect', {class: 'rest', width: 100, height: 6}),
      s('rect', {class: 'part', width: percent.toFixed(1), height: 6})),
    h('span', {class: 'share-text'}, text));
}

// Attempts as spans on one line of time. `spans`: {from, to, kind, label}.
export function timeline(spans, {from, to, label}) {
  const width = 1000;
  const row = 14;
  const length = Math.max(1, to - from);
  const height = Math.max(1, spans.length) * row;
  const x = instant => ((instant - from) / length) * width;
  return s('svg', {class: 'timeline', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label},
    spans.map((span, index) => [
      s('line', {class: 'ground', x1: 0, x2: width, y1: index * row + row / 2, y2: index * row + row / 2}),
      s('rect', {class: `span ${span.kind}`, x: x(span.from).toFixed(1), y: index * row + 3, height: row - 6, width: Math.max(3, x(span.to) - x(span.from)).toFixed(1)}),
    ]).flat());
}
