'use strict';
// What is shown of one device. Text from devices becomes text nodes only: nothing of it is ever markup.

const SVG = 'http://www.w3.org/2000/svg';
const POINTS = 60;          // of a sparkline
const SERIES = 2000;        // sparklines kept, the oldest give way

function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value == null) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter(child => child != null));
  return node;
}

const url = (endpoint, rest) => '/api/clients/' + encodeURIComponent(endpoint) + rest;

// An answer of the interface: {ok, answer} or {ok: false, reason}.
async function call(method, address, body) {
  // The header keeps browsers from asking for a password in a window of their own.
  const options = { method, headers: { 'X-Requested-With': 'zeelos' } };
  if (body !== undefined) {
    const json = typeof body === 'object';
    options.body = json ? JSON.stringify(body) : body;
    options.headers['Content-Type'] = json ? 'application/json' : 'text/plain';
  }
  try {
    const response = await fetch(address, options);
    const type = response.headers.get('Content-Type') || '';
    const answer = type.startsWith('application/json') ? await response.json() : await response.text();
    if (response.status === 401 && address !== '/api/session') askWho(start);
    if (!response.ok) return { ok: false, reason: String(answer) };
    if (answer && answer.delayed) {
      said('The device sleeps: ' + (answer.path || answer.paths.join(', ')) + ' waits until it is heard of.');
      return { ok: true, delayed: true, answer: {} };
    }
    if (answer && answer.failure) {
      return { ok: false, reason: 'The device says ' + answer.status + (answer.errormessage ? ': ' + answer.errormessage : '') };
    }
    return { ok: true, answer };
  } catch (error) {
    return { ok: false, reason: 'The server cannot be reached.' };
  }
}

function said(text, bad) {
  const line = h('p', { class: bad ? 'bad' : null }, text);
  const box = document.getElementById('said');
  box.append(line);
  while (box.children.length > 4) box.firstChild.remove();
  setTimeout(() => line.remove(), bad ? 9000 : 4000);
}

function ago(time) {
  const seconds = Math.max(0, Math.round((Date.now() - time) / 1000));
  if (seconds < 2) return 'just now';
  return span(seconds) + ' ago';
}

function span(seconds) {
  if (seconds < 120) return seconds + ' s';
  if (seconds < 7200) return Math.round(seconds / 60) + ' min';
  if (seconds < 172800) return Math.round(seconds / 3600) + ' h';
  return Math.round(seconds / 86400) + ' days';
}

// A value as people read it.
function shown(type, value) {
  if (value == null) return '';
  switch (type) {
    case 'TIME': {
      const date = new Date(value);
      return isNaN(date) ? String(value) : date.toLocaleString();
    }
    case 'FLOAT': {
      const number = Number(value);
      return isFinite(number) ? String(Number(number.toPrecision(7))) : String(value);
    }
    case 'BOOLEAN': return value ? 'yes' : 'no';
    case 'OBJLNK': return value.nullLink ? 'no link' : '/' + value.objectId + '/' + value.objectInstanceId;
    case 'OPAQUE': return value.length > 128 ? value.slice(0, 128) + ' … (' + value.length / 2 + ' bytes)' : value || '(empty)';
    default: return value === '' ? '(empty)' : String(value);
  }
}

const isNumber = type => type === 'FLOAT' || type === 'INTEGER' || type === 'UNSIGNED_INTEGER';

// The numbers seen of a path, for its sparkline.
const series = new Map();
function addPoint(endpoint, path, node) {
  if (node.kind === 'multiResource' || !isNumber(node.type)) return;
  const number = Number(node.value);
  if (!isFinite(number)) return;
  const key = endpoint + '\n' + path;
  const points = series.get(key) || [];
  points.push(number);
  if (points.length > POINTS) points.shift();
  series.delete(key);
  series.set(key, points);
  if (series.size > SERIES) series.delete(series.keys().next().value);
}

function spark(endpoint, path) {
  const points = series.get(endpoint + '\n' + path);
  if (!points || points.length < 2) return null;
  const low = Math.min(...points), high = Math.max(...points);
  // The last value stands at the right edge; values that never change lie in the middle.
  const x = i => 100 - (points.length - 1 - i) * 100 / (POINTS - 1);
  const y = point => high === low ? 10 : 19 - (point - low) * 18 / (high - low);
  const at = points.map((point, i) => x(i).toFixed(1) + ',' + y(point).toFixed(1));
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'spark');
  svg.setAttribute('viewBox', '0 0 100 20');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', 'last ' + points.length + ' values, from ' + low + ' to ' + high);
  const line = document.createElementNS(SVG, 'polyline');
  line.setAttribute('points', at.join(' '));
  svg.append(line);
  return svg;
}

// A node's value with its units.
function valueOf(known, units) {
  const node = known.val;
  if (node.kind === 'multiResource') {
    const entries = Object.entries(node.values).sort((a, b) => a[0] - b[0]);
    if (!entries.length) return h('span', { class: 'none' }, 'no values');
    return h('span', {}, entries.map(([id, value]) => id + ': ' + shown(node.type, value)).join(' · '));
  }
  return h('span', { class: isNumber(node.type) ? 'num' : null }, shown(node.type, node.value),
    units && isNumber(node.type) ? h('span', { class: 'units' }, units) : null);
}

// A node of an answer or a notification, cut into resources.
function eachResource(path, node, use) {
  if (!node) return;
  if (node.kind === 'obj') for (const one of node.instances) eachResource(path + '/' + one.id, one, use);
  else if (node.kind === 'instance') for (const one of node.resources) use(path + '/' + one.id, one);
  else use(path, node);
}

// The view of the chosen device: made once, then kept up to date in place, so that focus and forms stay.
class DeviceView {
  constructor(device, actions) {
    this.device = device;
    this.actions = actions;
    this.rows = new Map();
    this.instances = new Map();
    this.facts = h('dl', { class: 'facts' });
    this.gone = h('p', { class: 'gone', hidden: true }, 'This device has de-registered or its registration is over.');
    this.objects = h('div');
    this.queue = new QueuePanel(device);
    this.coap = new CoapPanel(device);
    this.node = h('div', {},
      h('button', { class: 'b back', type: 'button', onclick: actions.back }, '← all devices'),
      h('h2', {}, device.registration.endpoint), this.gone, this.facts, this.queue.node, this.objects, this.coap.node);
    this.structure();
    this.tick();
  }

  // The objects and instances; what is there already stays.
  structure() {
    const { registration, specs } = this.device;
    const wanted = new Set();
    const order = [];
    for (const [object, instances] of Object.entries(registration.availableInstances)) {
      for (const instance of instances) {
        const path = '/' + object + '/' + instance;
        wanted.add(path);
        const spec = specs && specs.get(Number(object));
        let shown = this.instances.get(path);
        if (!shown || (spec && !shown.spec)) {
          const open = (shown && shown.node.open) || this.hasValues(path);
          shown = this.instance(path, spec, open);
          this.instances.set(path, shown);
        }
        order.push(shown.node);
      }
    }
    for (const path of [...this.instances.keys()]) if (!wanted.has(path)) this.instances.delete(path);
    const same = order.length === this.objects.children.length && order.every((node, i) => this.objects.children[i] === node);
    if (!same) this.objects.replaceChildren(...order);
    if (!order.length) this.objects.replaceChildren(h('p', { class: 'empty' }, 'This device listed no object instances.'));
  }

  // It is on display no more.
  close() { this.coap.close(); }

  hasValues(path) {
    for (const at of this.device.values.keys()) if (at.startsWith(path + '/')) return true;
    return false;
  }

  instance(path, spec, open) {
    const [, object, id] = path.split('/');
    const rows = h('div');
    const name = spec ? spec.name : 'Object ' + object;
    const many = this.device.registration.availableInstances[object].length > 1 || (spec && spec.instancetype === 'multiple');
    const observe = h('button', { class: 'b act-operate', type: 'button', onclick: () => this.toggle(path, observe) }, 'Observe all');
    const node = h('details', { class: 'instance', open },
      h('summary', {}, name + (many ? ' ' + id : ''), h('span', { class: 'path' }, path)),
      h('div', { class: 'bar' },
        h('button', { class: 'b', type: 'button', onclick: event => this.read(path, event.target) }, 'Read all'), observe),
      rows);
    const shown = { node, rows, spec, path, observe, asked: false, all: false, there: new Set() };
    node.addEventListener('toggle', () => {
      if (!node.open) return;
      this.fill(shown);
      if (!shown.asked) this.open(shown);
    });
    if (open) { this.fill(shown); this.open(shown); }
    return shown;
  }

  // What an instance has: its values, and what only a discover tells, such as that it can be reset.
  async open(shown) {
    // A look must not fill a sleeper's queue.
    if (this.device.registration.sleeping) return;
    await this.read(shown.path, null, shown);
    const { ok, delayed, answer } = await call('GET', url(this.device.registration.endpoint, shown.path + '/discover'));
    if (!ok || delayed) return;
    for (const link of answer.objectLinks) {
      const id = Number(link.url.split(shown.path + '/')[1]);
      if (Number.isInteger(id)) shown.there.add(id);
    }
    this.fill(shown);
  }

  // The resources of an instance: those with a value, those to execute, and on request the model's others.
  fill(shown) {
    const specs = new Map((shown.spec ? shown.spec.resourcedefs : []).map(one => [one.id, one]));
    const ids = new Set(shown.there);
    for (const at of this.device.values.keys()) {
      if (at.startsWith(shown.path + '/')) ids.add(Number(at.split('/')[3]));
    }
    const known = ids.size;
    let hidden = 0;
    for (const one of specs.values()) {
      if (ids.has(one.id) || shown.all || (!known && one.mandatory)) ids.add(one.id);
      else hidden += 1;
    }
    const order = [...ids].sort((a, b) => a - b).map(id => {
      const path = shown.path + '/' + id;
      let row = this.rows.get(path);
      if (!row) {
        row = this.row(path, specs.get(id));
        this.rows.set(path, row);
      }
      this.show(row);
      return row.node;
    });
    if (hidden) {
      order.push(h('div', { class: 'bar rest' }, h('button', {
        class: 'b', type: 'button', onclick: () => { shown.all = true; this.fill(shown); },
      }, hidden + ' more that the model has')));
    }
    const same = order.length === shown.rows.children.length && order.every((node, i) => shown.rows.children[i] === node);
    if (!same) {
      const focused = document.activeElement;
      shown.rows.replaceChildren(...order);
      if (focused && shown.rows.contains(focused)) focused.focus();
    }
    this.pressed(shown.observe, shown.path, 'Observe all', 'Observing all');
  }

  row(path, spec) {
    const operations = spec ? spec.operations : 'RW';
    const name = spec ? spec.name : 'Resource ' + path.split('/')[3];
    const row = { path, spec, value: h('div', { class: 'value' }), line: h('div', {}), error: h('p', { class: 'error', hidden: true }) };
    const act = h('div', { class: 'act' });
    const add = (label, title, run) => {
      const of = label === 'Read' ? 'b' : 'b act-operate';
      const button = h('button', { class: of, type: 'button', 'aria-label': label + ' ' + name, title }, label);
      button.addEventListener('click', () => run(button));
      act.append(button);
      return button;
    };
    if (operations.includes('R')) {
      add('Read', 'Ask the device for the value', button => this.read(path, button));
      row.observe = add('Observe', 'Be told when the value changes', button => this.toggle(path, button));
    }
    const multiple = spec && spec.instancetype === 'multiple';
    if (operations.includes('W') && !multiple) add('Write', 'Set the value', () => this.form(row, name, 'write'));
    if (operations.includes('E')) add('Execute', 'Tell the device to do this', () => this.form(row, name, 'execute'));
    row.node = h('div', { class: 'row' },
      h('div', { class: 'name' }, name, h('small', {}, path)), row.value, row.line, act, row.error);
    return row;
  }

  show(row) {
    const known = this.device.values.get(row.path);
    if (known !== row.shown) {
      const changed = row.shown && known && JSON.stringify(known.val) !== JSON.stringify(row.shown.val);
      row.shown = known;
      row.when = known && h('span', { class: 'when' }, ago(known.timestamp));
      if (known) row.value.replaceChildren(valueOf(known, this.units(row)), row.when);
      const line = known && spark(this.device.registration.endpoint, row.path);
      row.line.replaceChildren(...(line ? [line] : []));
      if (changed) flash(row.value);
    }
    if (!known && !row.value.firstChild) {
      const text = row.spec && row.spec.operations === 'E' ? '' : row.spec && row.spec.operations === 'W' ? 'write only' : 'not read yet';
      row.value.replaceChildren(h('span', { class: 'none' }, text));
    }
    if (row.observe) this.pressed(row.observe, row.path, 'Observe', 'Observing');
  }

  units(row) { return unitsOf(this.device, row.path, row.spec); }

  pressed(button, path, off, on) {
    const observed = this.device.observed.has(path);
    button.setAttribute('aria-pressed', observed);
    button.textContent = observed ? on : off;
  }

  // Something is known anew: shows it where it is on display.
  refresh() {
    this.structure();
    for (const shown of this.instances.values()) if (shown.node.open) this.fill(shown);
  }

  changed(path) {
    const row = this.rows.get(path);
    if (row) { this.show(row); return; }
    const shown = this.instances.get(path.split('/').slice(0, 3).join('/'));
    if (shown && shown.node.open) this.fill(shown);
  }

  problem(path, reason) {
    const row = this.rows.get(path);
    if (row) {
      row.error.hidden = !reason;
      row.error.textContent = reason || '';
    } else if (reason) said(path + ' · ' + reason, true);
  }

  async busy(button, work) {
    if (button) button.disabled = true;
    try { return await work(); } finally { if (button) { button.disabled = false; if (button.isConnected) button.focus({ preventScroll: true }); } }
  }

  async read(path, button, shown) {
    shown = shown || this.instances.get(path);
    if (shown) shown.asked = true;
    const { ok, delayed, answer, reason } = await this.busy(button, () => call('GET', url(this.device.registration.endpoint, path)));
    this.problem(path, ok ? '' : reason);
    if (delayed) this.queue.load();
    else if (ok) this.actions.seen(this.device, path, answer.content);
    if (shown) this.fill(shown);
  }

  async toggle(path, button) {
    const endpoint = this.device.registration.endpoint;
    const cancel = this.device.observed.has(path);
    const address = url(endpoint, path + '/observe' + (cancel ? '?active=true' : ''));
    const { ok, delayed, answer, reason } = await this.busy(button, () => call(cancel ? 'DELETE' : 'POST', address));
    // Nothing to cancel is what was wanted.
    const done = ok || (cancel && reason.startsWith('no observation'));
    this.problem(path, done ? '' : reason);
    if (delayed) this.queue.load();
    if (!done || delayed) return;
    if (cancel) this.device.observed.delete(path);
    else this.device.observed.add(path);
    if (ok && answer && answer.content) this.actions.seen(this.device, path, answer.content);
    this.refresh();
  }

  form(row, name, what) {
    const open = row.node.querySelector('form');
    if (open) { open.remove(); if (open.dataset.what === what) return; }
    const close = () => { form.remove(); };
    const type = (row.spec && row.spec.type) || 'string';
    const known = row.shown && row.shown.val;
    let input;
    if (what === 'execute') {
      input = h('input', { 'aria-label': 'Arguments for ' + name, placeholder: 'arguments (mostly none)', autocomplete: 'off' });
    } else if (type === 'boolean') {
      input = h('select', { 'aria-label': 'New value of ' + name }, h('option', { value: 'true' }, 'yes'), h('option', { value: 'false' }, 'no'));
      if (known) input.value = String(known.value);
    } else {
      input = h('input', { 'aria-label': 'New value of ' + name, autocomplete: 'off', spellcheck: 'false' });
      if (known && known.kind === 'singleResource') {
        input.value = type === 'time' ? new Date(known.value).toISOString().replace('.000', '')
          : type === 'objlnk' ? known.value.objectId + ':' + known.value.objectInstanceId : String(known.value);
      }
    }
    const hint = what === 'execute' ? '' : type + (row.spec && row.spec.range ? ', ' + row.spec.range : '')
      + (type === 'opaque' ? ', in hex' : type === 'time' ? ', such as 2026-01-31T12:00:00Z' : '');
    const go = h('button', { class: 'b go', type: 'submit' }, what === 'execute' ? 'Execute' : 'Write');
    const form = h('form', { 'data-what': what }, input, h('small', {}, hint), go,
      h('button', { class: 'b', type: 'button', onclick: close }, 'Cancel'));
    form.addEventListener('keydown', event => { if (event.key === 'Escape') close(); });
    form.addEventListener('submit', async event => {
      event.preventDefault();
      const endpoint = this.device.registration.endpoint;
      const { ok, delayed, reason } = await this.busy(go, () => what === 'execute'
        ? call('POST', url(endpoint, row.path), input.value)
        : call('PUT', url(endpoint, row.path), input.value));
      this.problem(row.path, ok ? '' : reason);
      if (!ok) return;
      close();
      if (delayed) { this.queue.load(); return; }
      said(name + (what === 'execute' ? ' was executed' : ' was written'));
      if (what === 'write' && row.observe) this.read(row.path);
    });
    row.node.append(form);
    input.focus();
    if (input.select) input.select();
  }

  // What changes with time alone.
  tick() {
    const { registration: of, here } = this.device;
    this.gone.hidden = here;
    const until = of.lifetime - Math.round((Date.now() - of.lastUpdate) / 1000);
    const facts = [
      ['Address', of.address], ['Last update', ago(of.lastUpdate)],
      ['Lifetime', span(of.lifetime) + (here && until > 0 ? ', ' + span(until) + ' left' : '')],
      ['Registered', ago(of.registrationDate)], ['LwM2M', of.lwM2mVersion + ', binding ' + of.bindingMode],
      ['Listens', !of.queuemode ? 'always' : of.sleeping ? 'asleep' : 'awake, sleeps in between'],
      ['Security', of.secure ? 'DTLS' : 'none: readable on its way'],
      ['Registration', of.registrationId],
    ];
    this.facts.replaceChildren(...facts.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, String(value)))));
    for (const row of this.rows.values()) {
      if (row.when && row.node.isConnected) row.when.textContent = ago(row.shown.timestamp);
    }
  }
}

// Units stand in the model, or in a neighbour named Units (5701) as most sensors have it.
function unitsOf(device, path, spec) {
  if (spec && spec.units) return spec.units === '/100' ? '%' : spec.units;
  const neighbour = device.values.get(path.split('/').slice(0, 3).join('/') + '/5701');
  const id = Number(path.split('/')[3]);
  return neighbour && [5700, 5601, 5602, 5603, 5604].includes(id) ? String(neighbour.val.value) : '';
}

function flash(node) {
  node.classList.remove('changed');
  void node.offsetWidth;    // begins the animation anew
  node.classList.add('changed');
}
