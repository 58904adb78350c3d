'use strict';
const PAGE = 1000, KEPT = 1000, BROWSED = 200, RENDER_MS = 250, SHOWN_PER_RENDER = 100, POLL_MS = 2000, VALUE_BYTES_MAX = 65536;
const $ = id => document.getElementById(id);
const main = $('main'), dialog = $('dialog');
let token = '', leave = new AbortController(), refused = new Map();

// Elements are made of text only: nothing of a record is ever parsed as HTML.
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (key === 'class') node.className = value;
    else if (value === true) node.setAttribute(key, '');
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter(child => child != null && child !== false));
  return node;
}
const button = (text, onclick, kind = '', more = {}) => el('button', { type: 'button', class: kind, onclick, ...more }, text);
function toast(text) { $('toast').textContent = text; clearTimeout(toast.timer); toast.timer = setTimeout(() => $('toast').textContent = '', 4000); }
function state(text, good = true) { $('state').className = good ? 'state' : 'state off'; $('state').lastChild.textContent = text; $('state').title = text; }
async function copy(text) {
  try { await navigator.clipboard.writeText(text); toast('Copied'); }
  catch { ask('Copy', [el('textarea', { rows: 3, readonly: true, 'aria-label': 'Text to copy' }, text)], null); }
}
const wait = (ms, signal) => new Promise(done => { const timer = setTimeout(done, ms); signal?.addEventListener('abort', () => { clearTimeout(timer); done(); }, { once: true }); });

// Numbers of 64 bits are strings in the API, and BigInt here.
const count = n => BigInt(n || 0).toLocaleString('en');
function bytes(n) { n = Number(n || 0); let unit = 0; while (n >= 1024 && unit < 4) { n /= 1024; unit++; } return (unit && n < 10 ? n.toFixed(1) : Math.round(n)) + ' ' + ['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]; }
function span(seconds) { for (const [unit, size] of [['d', 86400], ['h', 3600], ['min', 60]]) if (seconds >= size) return Math.floor(seconds / size) + ' ' + unit; return Math.max(0, Math.floor(seconds)) + ' s'; }
const ago = time => time ? span((Date.now() - Date.parse(time)) / 1000) + ' ago' : '–';
const rate = n => n == null ? '–' : n === 0 ? '0 /s' : (n < 10 ? n.toFixed(1) : count(Math.round(n))) + ' /s';
const clock = time => (time || '').replace('T', ' ').slice(0, 23);

class Refused extends Error { constructor(problem, status) { super(problem.detail || problem.title || 'HTTP ' + status); this.problem = problem; this.status = status; this.reason = problem.reason; } }
async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set('authorization', 'Bearer ' + token);
  let answer;
  try { answer = await fetch(path, { cache: 'no-store', credentials: 'same-origin', referrerPolicy: 'no-referrer', signal: leave.signal, ...options, headers }); }
  catch (error) { if (error.name !== 'AbortError') state('Not reachable', false); throw error; }
  if (answer.ok) { state('Connected'); return answer; }
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) { state('Signed out', false); signIn(problem.detail); } else if (answer.status === 503) state('Not ready', false); else state('Connected');
  throw new Refused(problem, answer.status);
}
const json = async (path, options) => { const answer = await request(path, options); return answer.status === 204 ? null : answer.json(); };
const send = (method, path, body) => json(path, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
const at = (topic, rest = '') => '/v1/topics/' + encodeURIComponent(topic) + rest;
const hold = (topic, group) => '#/groups/' + encodeURIComponent(topic) + '/' + encodeURIComponent(group);

// What the policy refused once stays grey until the next sign-in.
function guarded(node, action) {
  const why = refused.get(action);
  node.dataset.action = action;
  node.disabled = !!why;
  node.title = why || '';
  return node;
}
function note(error, action) {
  if (error.status !== 403 || !action) return;
  refused.set(action, error.message);
  for (const node of document.querySelectorAll('[data-action]')) if (node.dataset.action === action) guarded(node, action);
}

// A dialog whose `act` runs on submit; a refusal is shown in place.
function ask(title, fields, submit, act, { bad = false, action, initial } = {}) {
  const alert = el('p', { class: 'note bad', role: 'alert', hidden: true });
  const go = submit && el('button', { class: 'main' + (bad ? ' bad' : '') }, submit);
  const form = el('form', {}, el('h2', { id: 'dialog-title' }, title), fields, alert,
    el('div', { class: 'bar' }, button(submit ? 'Cancel' : 'Close', () => dialog.close()), go));
  form.addEventListener('submit', async event => {
    event.preventDefault();
    if (!go) return dialog.close();
    go.disabled = true; alert.hidden = true;
    try { await act(); if (dialog.firstChild === form) dialog.close(); }
    catch (error) {
      note(error, action);
      alert.textContent = error.message; alert.hidden = false;
    }
    go.disabled = false;
  });
  dialog.replaceChildren(form);
  if (!dialog.open) dialog.showModal();
  (initial || form.querySelector('input, textarea, select') || go)?.focus();
  return go;
}
const field = (label, input, hint) => el('label', {}, label, input, hint && el('small', {}, hint));

function signIn(why) {
  $('sign').hidden = false;
  if (dialog.open && dialog.querySelector('#token')) return;
  const input = el('input', { id: 'token', type: 'password', autocomplete: 'off', required: true, spellcheck: 'false' });
  ask('Sign in', [el('p', { class: 'soft' }, why || 'Requests will carry this bearer token.'),
    field('Token', input, 'Kept in the memory of this tab only, and gone when it is closed or loaded again.')], 'Sign in', async () => {
    become(input.value.trim()); dialog.close();
  });
}
$('sign').addEventListener('click', () => {
  if (!token) return signIn();
  become('');
});
// Without identities nobody can sign in.
fetch('/v1/server', { cache: 'no-store' }).then(answer => answer.json()).then(server => { if (server.identities) $('sign').hidden = false; }).catch(() => {});
// Shows everything anew to who has another token, which may show less.
function become(other) {
  token = other; refused.clear(); $('sign').textContent = token ? 'Sign out' : 'Sign in';
  leave.abort(); lastTopics = NOTHING; route();
}
