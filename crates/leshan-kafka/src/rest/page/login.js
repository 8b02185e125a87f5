// Who is at the page, where the server asks: a session whose cookie no script sees.

const me = { authentication: false, user: null, role: 'admin' };
const RANKS = ['read', 'operate', 'admin'];
const may = role => RANKS.indexOf(me.role) >= RANKS.indexOf(role);

async function whoAmI() {
  const { ok, answer } = await call('GET', '/api/session');
  if (!ok) return false;
  Object.assign(me, answer);
  const known = !me.authentication || Boolean(me.user);
  document.getElementById('me').hidden = !me.user;
  document.getElementById('my-name').textContent = me.user ? me.user + ' (' + me.role + ')' : '';
  document.body.classList.toggle('reader', known && !may('operate'));
  return known;
}

// The form stands over the page until somebody is logged in; then `done` goes on.
let asking = false;
function askWho(done) {
  if (asking) return;
  asking = true;
  const dialog = document.getElementById('login');
  const form = dialog.querySelector('form');
  const error = dialog.querySelector('.error');
  error.hidden = true;
  form.onsubmit = async event => {
    event.preventDefault();
    const button = form.querySelector('button');
    button.disabled = true;
    const said = { user: form.elements.user.value, password: form.elements.password.value };
    const { ok, reason } = await call('POST', '/api/session', said);
    button.disabled = false;
    error.hidden = ok;
    error.textContent = ok ? '' : reason;
    if (!ok) { form.elements.password.select(); return; }
    form.reset();
    await whoAmI();
    asking = false;
    dialog.close();
    done();
  };
  // Without a login there is nothing behind it.
  dialog.oncancel = event => event.preventDefault();
  dialog.showModal();
  form.elements.user.focus();
}

document.getElementById('logout').addEventListener('click', async () => {
  await call('DELETE', '/api/session');
  location.reload();
});
