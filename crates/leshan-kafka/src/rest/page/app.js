// The list of devices, and the one way that events come in.

const PAGE = 60;            // devices on display at first, and with each "more"
const LINES = 4;            // values on a device's card
const LATEST = 12;          // values on display while no device is chosen

const devices = new Map();  // by endpoint: { registration, here, values, observed, specs, asked, card }
const specsOf = new Map();  // by the objects a device has: a promise of its models
const dirty = new Set();    // devices whose card has to be drawn again
let chosen = null;          // the view on display
let room = PAGE;
let relist = true;
const latest = new Map();   // the paths that notified first since the start: { device, path, row }

const at = id => document.getElementById(id);

function put(registration) {
  let device = devices.get(registration.endpoint);
  if (!device) {
    device = { values: new Map(), observed: new Set(), specs: null, asked: false, card: null };
    devices.set(registration.endpoint, device);
    relist = true;
  }
  const objects = JSON.stringify(registration.objectLinks);
  if (device.objects !== objects) {
    device.objects = objects;
    device.specs = null;
    device.asked = false;
  }
  device.registration = registration;
  device.here = true;
  dirty.add(device);
  return device;
}

// Models and last values, when a device first comes into sight.
async function look(device) {
  if (device.asked) return;
  device.asked = true;
  const { endpoint } = device.registration;
  if (!specsOf.has(device.objects)) {
    if (specsOf.size > 200) specsOf.clear();
    const asked = call('GET', '/api/objectspecs/' + encodeURIComponent(endpoint));
    specsOf.set(device.objects, asked.then(({ ok, answer }) => ok ? new Map(answer.map(one => [one.id, one])) : null));
  }
  const [specs, { ok, answer }] = await Promise.all([specsOf.get(device.objects), call('GET', url(endpoint, '/values'))]);
  if (!specs) specsOf.delete(device.objects);
  device.specs = specs;
  if (ok) {
    device.observed = new Set(answer.observed);
    for (const { path, timestamp, val } of answer.values) {
      const known = device.values.get(path);
      if (known && known.timestamp > timestamp) continue;
      device.values.set(path, { timestamp, val });
      addPoint(endpoint, path, val);
    }
  }
  dirty.add(device);
  if (chosen && chosen.device === device) chosen.refresh();
}

// A node was seen, by a read or a notification.
function seen(device, path, node) {
  const timestamp = Date.now();
  const paths = [];
  eachResource(path, node, (at, val) => {
    device.values.set(at, { timestamp, val });
    addPoint(device.registration.endpoint, at, val);
    paths.push(at);
  });
  dirty.add(device);
  if (chosen && chosen.device === device) paths.forEach(at => chosen.changed(at));
}

function matching() {
  const words = at('search').value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  return [...devices.values()]
    .filter(({ registration: { endpoint, address } }) => {
      const text = (endpoint + ' ' + address).toLowerCase();
      return words.every(word => text.includes(word));
    })
    .sort((a, b) => a.registration.endpoint.localeCompare(b.registration.endpoint, undefined, { numeric: true }));
}

function list() {
  relist = false;
  const found = matching();
  const shown = found.slice(0, room);
  const cards = shown.map(device => {
    if (!device.card) {
      device.card = h('li', {}, h('button', {
        class: 'card', type: 'button', onclick: () => { location.hash = '#' + encodeURIComponent(device.registration.endpoint); },
      }));
      draw(device);
    }
    look(device);
    return device.card;
  });
  const box = at('devices');
  const same = cards.length === box.children.length && cards.every((card, i) => box.children[i] === card);
  if (!same) {
    const focused = document.activeElement;
    box.replaceChildren(...cards);
    if (focused && box.contains(focused)) focused.focus({ preventScroll: true });
  }
  // Off display nothing is drawn.
  const on = new Set(shown);
  for (const device of devices.values()) if (!on.has(device)) device.card = null;
  const all = devices.size;
  at('count').textContent = all === 0 ? '' : found.length === all
    ? all + (all === 1 ? ' device is registered' : ' devices are registered') : found.length + ' of ' + all + ' devices';
  at('more').hidden = found.length <= room;
  at('more').textContent = 'Show more (' + (found.length - shown.length) + ')';
  if (!chosen) welcome(all);
}

function draw(device) {
  const button = device.card && device.card.firstChild;
  if (!button) return;
  const { registration: of, values, observed } = device;
  const lines = [];
  const watched = path => observed.has(path) || [...observed].some(at => path.startsWith(at + '/'));
  const paths = [...values.keys()].filter(watched).sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  for (const path of paths.slice(0, LINES)) {
    const { name, resource } = nameOf(device, path);
    const known = values.get(path);
    const value = valueOf(known, unitsOf(device, path, resource));
    if (device.drawn && device.drawn.get(path) !== known && device.drawn.has(path)) value.classList.add('changed');
    lines.push(h('span', { title: path }, name), value, spark(of.endpoint, path) || h('i'));
  }
  if (paths.length > LINES) lines.push(h('span', {}, 'and ' + (paths.length - LINES) + ' more'), h('i'), h('i'));
  device.drawn = new Map(paths.map(path => [path, values.get(path)]));
  device.when = h('small', {}, about(of));
  button.replaceChildren(h('b', {}, of.endpoint), device.when, ...(lines.length ? [h('span', { class: 'now' }, ...lines)] : []));
  current(device);
}

// What a path is called in short.
function nameOf(device, path) {
  const [, object, instance, id] = path.split('/');
  const spec = device.specs && device.specs.get(Number(object));
  const resource = spec && spec.resourcedefs.find(one => one.id === Number(id));
  const many = (device.registration.availableInstances[object] || []).length > 1;
  // "Sensor Value" says less than the object's own name.
  const name = !spec ? path : Number(id) === 5700 || !resource ? spec.name : resource.name;
  return { name: name + (many && spec ? ' ' + instance : ''), resource };
}

const about = of => (of.sleeping ? 'asleep · ' : '') + (of.secure ? 'DTLS · ' : '') + of.address + ' · lifetime ' + span(of.lifetime) + ' · ' + ago(of.lastUpdate);

function current(device) {
  if (device.card) device.card.firstChild.setAttribute('aria-current', Boolean(chosen && chosen.device === device));
}

// While no device is chosen: what to do, and values as they come in.
function welcome(all) {
  const box = at('device');
  const state = !all ? 'none' : latest.size ? 'values' : 'devices';
  if (box.dataset.welcome === state) return;
  box.dataset.welcome = state;
  if (state === 'none') {
    box.replaceChildren(h('div', { class: 'empty' }, h('p', {}, 'No device is registered yet.'),
      h('p', {}, 'Point an LwM2M client at this machine, for example: '),
      h('p', {}, h('code', {}, 'zeelos client-demo -u ' + (location.hostname || 'localhost')))));
    return;
  }
  const hint = h('p', { class: 'none' }, 'Choose a device to see its objects: read, observe, write and execute from there.');
  if (state === 'devices') {
    box.replaceChildren(h('div', { class: 'empty' }, hint));
    return;
  }
  for (const one of latest.values()) one.row = null;
  box.replaceChildren(h('h2', {}, 'Values coming in'), hint, h('div', { id: 'latest' }));
  drawLatest();
}

function drawLatest() {
  const box = at('latest');
  if (!box) return;
  for (const [key, one] of latest) {
    const known = one.device.values.get(one.path);
    if (!one.device.here || !known) {
      if (one.row) one.row.remove();
      latest.delete(key);
      continue;
    }
    if (!one.row) {
      one.value = h('div', { class: 'value' });
      one.line = h('div', {});
      one.name = h('div', { class: 'name' });
      one.row = h('a', { class: 'row', href: '#' + encodeURIComponent(one.device.registration.endpoint) }, one.name, one.value, one.line);
      box.append(one.row);
      one.shown = null;
    }
    if (one.shown === known && one.specs === one.device.specs) continue;
    const { name, resource } = nameOf(one.device, one.path);
    const before = one.shown;
    [one.shown, one.specs] = [known, one.device.specs];
    one.name.replaceChildren(one.device.registration.endpoint, h('small', {}, name + '  ' + one.path));
    one.value.replaceChildren(valueOf(known, unitsOf(one.device, one.path, resource)));
    one.line.replaceChildren(...[spark(one.device.registration.endpoint, one.path)].filter(Boolean));
    if (before && before !== known) flash(one.value);
  }
}

function choose() {
  const before = chosen && chosen.device;
  let endpoint = '';
  try { endpoint = decodeURIComponent(location.hash.slice(1)); } catch (error) { endpoint = ''; }
  const device = devices.get(endpoint);
  if (device && before === device) return;
  if (chosen) chosen.close();
  chosen = null;
  document.querySelector('main').classList.toggle('one', Boolean(device));
  if (device) {
    delete at('device').dataset.welcome;
    chosen = new DeviceView(device, { seen, back: () => { location.hash = ''; } });
    at('device').replaceChildren(chosen.node);
    at('device').scrollTop = 0;
    // Where only one of both is on display, the list with the focus has just gone.
    if (matchMedia('(max-width: 52rem)').matches) at('device').focus();
    look(device);
  } else welcome(devices.size);
  if (before) current(before);
  if (device) current(device);
}

// All anew: at the start, after a break, and when events were missed; then at most every few seconds.
let loaded = 0;
let waiting = 0;
function load() {
  if (waiting) return;
  waiting = setTimeout(() => { waiting = 0; loaded = Date.now(); loadNow(); }, Math.max(0, loaded + 3000 - Date.now()));
}

async function loadNow() {
  const { ok, answer, reason } = await call('GET', '/api/clients');
  if (!ok) { said(reason, true); return; }
  const here = new Set(answer.map(one => one.endpoint));
  answer.forEach(put);
  for (const [endpoint, device] of devices) {
    device.asked = false;
    if (!here.has(endpoint)) gone(device);
  }
  relist = true;
  if (!chosen) choose();
  else look(chosen.device);
}

function gone(device) {
  device.here = false;
  devices.delete(device.registration.endpoint);
  relist = true;
  if (chosen && chosen.device === device) chosen.tick();
}

function link(state, text) {
  at('link').className = 'link ' + state;
  at('link-text').textContent = text;
}

function listen() {
  events = new EventSource('/api/event');
  const on = (name, use) => events.addEventListener(name, event => use(JSON.parse(event.data)));
  events.onopen = () => { link('live', 'live'); load(); };
  events.onerror = () => {
    link('lost', 'connection lost, trying again …');
    // A browser gives up after an answer that is no stream, such as that one has to log in.
    if (events.readyState === EventSource.CLOSED) setTimeout(start, 3000);
  };
  const registered = registration => {
    put(registration);
    if (!chosen) { choose(); return; }
    if (chosen.device.registration.endpoint !== registration.endpoint) return;
    // Back after it was gone: what was on display belongs to the old one.
    if (chosen.device !== devices.get(registration.endpoint)) choose();
    else { look(chosen.device); chosen.refresh(); chosen.tick(); }
  };
  on('REGISTRATION', registered);
  on('UPDATED', ({ registration }) => registered(registration));
  on('DEREGISTRATION', registration => {
    const device = devices.get(registration.endpoint);
    if (device) gone(device);
  });
  on('NOTIFICATION', ({ ep, kind, res, val }) => {
    const device = devices.get(ep);
    if (!device) return;
    if (kind === 'composite') { for (const [path, node] of Object.entries(val)) seen(device, path, node); return; }
    const known = device.observed.has(res);
    device.observed.add(res);
    seen(device, res, val);
    eachResource(res, val, path => {
      if (latest.size < LATEST && !latest.has(ep + '\n' + path)) {
        latest.set(ep + '\n' + path, { device, path });
        look(device);
        if (!chosen) welcome(devices.size);
      }
    });
    if (!known && chosen && chosen.device === device) chosen.refresh();
  });
  on('SEND', ({ ep, val }) => {
    const device = devices.get(ep);
    if (device) for (const [path, node] of Object.entries(val)) seen(device, path, node);
  });
  const sleeps = sleeping => ({ ep }) => {
    const device = devices.get(ep);
    if (!device) return;
    device.registration.sleeping = sleeping;
    dirty.add(device);
    if (chosen && chosen.device === device) { chosen.tick(); chosen.queue.load(); }
  };
  on('SLEEPING', sleeps(true));
  on('AWAKE', sleeps(false));
  on('REQUEST_RESPONSE', ({ ep, path, paths, response, error }) => {
    const device = devices.get(ep);
    const what = ep + ' · ' + (path || paths.join(', ')) + ' · ';
    const bad = Boolean(error) || response.failure;
    said(what + (error || (response.failure ? 'the device says ' + response.status : 'answered now')), bad);
    if (!device) return;
    if (response && response.content) {
      if (path) seen(device, path, response.content);
      else for (const [at, node] of Object.entries(response.content)) seen(device, at, node);
    }
    if (chosen && chosen.device === device) { device.asked = false; look(device); chosen.queue.load(); }
  });
  on('LAGGED', load);
}

// Drawing follows events a few times a second, however many there are.
setInterval(() => {
  if (document.hidden) return;
  if (relist) list();
  for (const device of dirty) draw(device);
  dirty.clear();
  if (!chosen) drawLatest();
}, 200);
setInterval(() => {
  if (document.hidden) return;
  if (chosen) chosen.tick();
  for (const device of devices.values()) if (device.card && device.when) device.when.textContent = about(device.registration);
}, 1000);

at('search').addEventListener('input', () => { room = PAGE; relist = true; });
at('more').addEventListener('click', () => { room += PAGE; relist = true; });
window.addEventListener('hashchange', choose);

let events = null;
async function start() {
  if (events) events.close();
  if (await whoAmI()) listen();
  else if (me.authentication) askWho(start);
  else { link('lost', 'connection lost, trying again …'); setTimeout(start, 3000); }
}
start();
