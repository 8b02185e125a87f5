// What a device waits for while it sleeps, and its CoAP messages.

const MESSAGES = 300;       // on display at most, the oldest give way

class QueuePanel {
  constructor(device) {
    this.device = device;
    this.state = h('p', { class: 'state', role: 'status' });
    this.list = h('ul', { class: 'waiting' });
    this.window = h('input', { type: 'number', min: 1, max: 86400, required: true, 'aria-label': 'Awake window in seconds' });
    this.form = h('form', { class: 'window act-operate' }, h('label', {}, 'Awake window ', this.window, ' s'),
      h('button', { class: 'b', type: 'submit' }, 'Set'),
      h('button', { class: 'b', type: 'button', onclick: () => this.set(null) }, 'Usual'));
    this.form.addEventListener('submit', event => { event.preventDefault(); this.set(Number(this.window.value)); });
    this.node = h('section', { class: 'panel queue', 'aria-label': 'Queue', hidden: true }, h('h3', {}, 'Queue mode'), this.state, this.list, this.form);
    this.load();
  }

  get path() { return url(this.device.registration.endpoint, '/queue'); }

  async load() {
    // A device that always listens has a queue only while requests follow one another.
    if (!this.device.registration.queuemode) { this.node.hidden = true; return; }
    const { ok, answer } = await call('GET', this.path);
    if (!ok) return;
    this.node.hidden = false;
    const count = answer.requests.length;
    this.state.textContent = (answer.presence === 'asleep' ? 'Asleep: requests wait until it is heard of. '
      : answer.presence === 'awake' ? 'Awake, for ' + span(answer.awakeWindow) + ' after it was last heard of. ' : '')
      + (count ? count + (count === 1 ? ' request waits.' : ' requests wait.') : 'Nothing waits.');
    if (document.activeElement !== this.window) this.window.value = answer.awakeWindow;
    this.list.replaceChildren(...answer.requests.map(one => this.waiting(one)));
  }

  waiting(one) {
    const what = one.operation + ' ' + (one.path || one.paths.join(', '));
    const cancel = h('button', { class: 'b act-operate', type: 'button', disabled: one.sent, 'aria-label': 'Cancel ' + what }, 'Cancel');
    cancel.addEventListener('click', async () => {
      cancel.disabled = true;
      const { ok, reason } = await call('DELETE', this.path + '/' + encodeURIComponent(one.id));
      if (!ok) said(reason, true);
      this.load();
    });
    const left = Math.max(0, Math.round((one.expires - Date.now()) / 1000));
    return h('li', {}, h('span', {}, what, h('small', {}, (one.ticket ? 'ticket ' + one.ticket : 'from the page or REST')
      + ' · since ' + new Date(one.since).toLocaleTimeString() + ' · ' + (one.sent ? 'on its way' : 'waits ' + span(left) + ' at most'))), cancel);
  }

  async set(seconds) {
    const { ok, reason } = await call('PUT', this.path, { awakeWindow: seconds });
    said(ok ? 'The awake window is set.' : reason, !ok);
    this.load();
  }
}

class CoapPanel {
  constructor(device) {
    this.device = device;
    this.rows = h('tbody');
    this.empty = h('p', { class: 'none' }, 'No message yet.');
    this.table = h('table', { hidden: true }, h('thead', {}, h('tr', {},
      ...['Time', 'Way', 'Type', 'Code', 'Id', 'Token', 'Options and payload'].map(name => h('th', { scope: 'col' }, name)))), this.rows);
    this.node = h('details', { class: 'instance coap' }, h('summary', {}, 'CoAP messages'),
      h('div', { class: 'log', tabindex: 0, role: 'region', 'aria-label': 'CoAP messages' }, this.empty, this.table));
    this.node.addEventListener('toggle', () => (this.node.open ? this.listen() : this.close()));
  }

  listen() {
    if (this.events) return;
    const { endpoint } = this.device.registration;
    this.events = new EventSource('/api/event?events=COAPLOG&ep=' + encodeURIComponent(endpoint));
    this.events.addEventListener('COAPLOG', event => this.add(JSON.parse(event.data)));
  }

  // While it is closed the server makes no log.
  close() {
    if (this.events) this.events.close();
    this.events = null;
  }

  add(one) {
    this.empty.hidden = true;
    this.table.hidden = false;
    const time = new Date(one.timestamp);
    const clock = time.toLocaleTimeString('en', { hour12: false }) + '.' + String(time.getMilliseconds()).padStart(3, '0');
    const cells = [clock, one.incoming ? '← device' : '→ device', one.type, one.code || '', one.mId == null ? '' : String(one.mId), one.token || ''];
    const row = h('tr', { class: one.incoming ? 'in' : 'out' }, ...cells.map(text => h('td', {}, text)),
      h('td', {}, h('span', {}, one.options || ''), one.payload ? h('code', {}, one.payload) : null));
    this.rows.prepend(row);
    while (this.rows.children.length > MESSAGES) this.rows.lastChild.remove();
  }
}
