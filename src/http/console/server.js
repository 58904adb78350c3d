// AdminService is gRPC only: what follows is the part of gRPC-Web and of protobuf that its lists need.
function decode(data) {
  const fields = {};
  let i = 0;
  const varint = () => { let n = 0n, shift = 0n, b; do { b = data[i++]; n |= BigInt(b & 127) << shift; shift += 7n; } while (b > 127); return n; };
  while (i < data.length) {
    const tag = Number(varint()), kind = tag & 7;
    let value;
    if (kind === 0) value = varint();
    else if (kind === 2) { const length = Number(varint()); value = data.subarray(i, i += length); }
    else { value = 0n; i += kind === 1 ? 8 : 4; }
    (fields[tag >> 3] ||= []).push(value);
  }
  return fields;
}
const text = (message, n) => message[n] ? new TextDecoder().decode(message[n].at(-1)) : '';
const whole = (message, n) => message[n]?.at(-1) ?? 0n;
const sub = (message, n) => decode(message[n]?.at(-1) || new Uint8Array());
const put = (n, value) => { const data = encoder.encode(value), out = [n << 3 | 2]; let length = data.length; while (length > 127) { out.push(length & 127 | 128); length >>= 7; } return [...out, length, ...data]; };
async function call(method, message = []) {
  const length = message.length, body = new Uint8Array([0, length >>> 24, length >>> 16 & 255, length >>> 8 & 255, length & 255, ...message]);
  const answer = await request('/streamway.v1.AdminService/' + method, { method: 'POST', body, headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1' } });
  const data = new Uint8Array(await answer.arrayBuffer());
  let result = null, trailers = `grpc-status:${answer.headers.get('grpc-status') ?? ''}\r\ngrpc-message:${answer.headers.get('grpc-message') ?? ''}`;
  for (let i = 0; i + 5 <= data.length;) {
    const size = new DataView(data.buffer, i + 1).getUint32(0), frame = data.subarray(i + 5, i + 5 + size);
    if (data[i] & 128) trailers = new TextDecoder().decode(frame); else result = frame;
    i += 5 + size;
  }
  const trailer = name => (trailers.match(new RegExp('^' + name + ':\\s*(.*)$', 'mi')) || [])[1] || '';
  const code = trailer('grpc-status').trim();
  if (code !== '0') {
    let detail = trailer('grpc-message').trim();
    try { detail = decodeURIComponent(detail); } catch { /* as it is */ }
    const status = { 7: 403, 16: 401, 14: 503 }[code] || 500;
    if (status === 401) signIn(detail);
    throw new Refused({ detail: detail || 'gRPC status ' + code }, status);
  }
  return decode(result || new Uint8Array());
}

function serverView() {
  const signal = leave.signal;
  const facts = el('dl', { class: 'facts' }), notice = el('div', { class: 'note', role: 'status', hidden: true }), total = el('span', { class: 'soft', role: 'status' });
  const table = virtual('Open calls', 'calls', [['Call'], ['Topic'], ['Client'], ['Received', 1], ['Sent', 1], ['Open for', 1], ['Action']], 34, row => el('div', { class: 'row' },
    el('div', { title: row.method }, row.method.replace('streamway.v1.', '')), el('div', { title: row.topic }, row.topic || '–'), el('div', { title: row.agent }, row.who + (row.who && ' · ') + row.peer), el('div', { class: 'num' }, bytes(row.received)), el('div', { class: 'num' }, bytes(row.sent)), el('div', { class: 'num' }, span(row.age)),
    el('div', {}, row.id ? guarded(button('End', () => end(row), '', { 'aria-label': 'End call ' + row.method + ' of ' + row.peer }), 'operate') : '')));
  const idle = virtual('Connections', 'connections', [['Client'], ['Program'], ['TLS'], ['Calls', 1], ['Received', 1], ['Sent', 1], ['Open for', 1]], 34, row => el('div', { class: 'row' },
    el('div', { title: row.peer }, row.peer), el('div', { title: row.agent }, row.agent || '–'), el('div', {}, row.tls ? 'yes' : 'no'), el('div', { class: 'num' }, count(row.calls)), el('div', { class: 'num' }, bytes(row.received)), el('div', { class: 'num' }, bytes(row.sent)), el('div', { class: 'num' }, span(row.age))));
  idle.root.hidden = true;
  const tabs = [['Calls', table], ['Connections', idle]].map(([label, own]) => button(label, () => { for (const [tab, shown] of tabs) { shown.root.hidden = shown !== own; tab.setAttribute('aria-pressed', String(shown === own)); } own.later(); }, '', { 'aria-pressed': String(own === table) })).map((tab, i) => [tab, [table, idle][i]]);
  main.replaceChildren(el('div', { class: 'view' }, el('div', { class: 'bar' }, el('h1', {}, 'Server')), facts, el('div', { class: 'bar' }, el('h2', {}, 'Who is connected'), el('span', { class: 'joined', role: 'group', 'aria-label': 'What is shown' }, tabs.map(([tab]) => tab)), total), notice, table.root, idle.root));
  table.show([], 'Loading…');
  function end(row) {
    const what = choice([['2', 'This call'], ['1', 'Its connection, and all calls of it'], ...(row.who && row.who !== 'anonymous' ? [['3', 'All calls of ' + row.who]] : [])]);
    ask('End this call?', [el('p', {}, `${row.method} of ${row.who || 'a client'} at ${row.peer}. What it published is acknowledged first, and it is told where to resume. Clients do not call again by themselves.`), field('What ends', what)], 'End', async () => {
      const ended = await call('EndCalls', put(Number(what.value), { 1: row.connection, 2: row.id, 3: row.who }[what.value]));
      toast(plural(whole(ended, 2), 'call') + ' ended');
    }, { bad: true, action: 'operate' });
  }
  const all = async (method, n) => {
    const found = [];
    let next = '', first;
    for (let page = 0; page < 20 && !signal.aborted; page++) {
      const answer = await call(method, [8, 0xe8, 7, ...(next ? put(2, next) : [])]);
      first ||= answer;
      found.push(...(answer[n] || []).map(decode));
      if (!(next = text(answer, 3))) break;
    }
    return [found, first];
  };
  let ready = true, topics = '…', stored = '…';
  poll(signal, POLL_MS, async () => {
    const server = await json('/v1/server').catch(error => { if (error.status === 401 || error.name === 'AbortError') throw error; return {}; });
    let open = [], calls = [], replica = {};
    try {
      let first;
      [open, first] = await all('ListConnections', 2);
      replica = sub(first, 1);
      [calls] = await all('ListCalls', 2);
      notice.hidden = true;
    } catch (error) {
      if (error.name === 'AbortError' || error.status === 401) throw error;
      note(error, 'operate'); notice.textContent = error.status === 403 ? 'Who is connected is shown to those who may operate: ' + error.message : error.message; notice.hidden = false;
    }
    const row = of => ({ id: text(of, 1), connection: text(of, 2), peer: text(of, 3), who: text(of, 5), method: text(of, 6), topic: text(of, 7) || text(of, 8), age: Number(whole(sub(of, 9), 1)), received: whole(of, 10), sent: whole(of, 11), agent: text(of, 13) });
    const sum = () => facts.replaceChildren(fact('State', ready ? 'serving' : 'not ready'), fact('Version', server.version || 'unknown'), fact('Engine', server.engine || 'unknown'), fact('Topics', topics), fact('Stored', stored),
      fact('Replica', text(replica, 1) || location.host), fact('Connections', notice.hidden ? count(open.length) : '–'));
    sum();
    total.textContent = !notice.hidden ? '' : `${plural(open.length, 'connection')}, ${plural(calls.length, 'open call')}`;
    table.show(calls.map(row), notice.hidden ? 'No calls are open.' : '');
    idle.show(open.map(of => ({ peer: text(of, 2), tls: whole(of, 3), age: Number(whole(sub(of, 4), 1)), agent: text(of, 5), received: whole(of, 6), sent: whole(of, 7), calls: whole(of, 8) })), notice.hidden ? 'Nobody is connected.' : '');
    // A list of many topics takes longer than the rest.
    let found = 0, size = 0n;
    try {
      for await (const page of pages('/v1/topics', signal)) for (const topic of page.topics) { found++; size += BigInt(topic.storedBytes); }
      ready = true; topics = count(found); stored = bytes(size);
    } catch (error) { if (error.status === 401 || error.name === 'AbortError') throw error; ready = error.status < 500; }
    sum();
  });
}
