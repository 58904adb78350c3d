const encoder = new TextEncoder(), decoder = new TextDecoder('utf-8', { fatal: true });
const unbase64 = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const raw = (record, name) => record[name + '_base64'] != null ? unbase64(record[name + '_base64']) : encoder.encode(record[name] ?? '');
function preview(record, name) {
  if (record[name] != null) return record[name].slice(0, 400).replace(/\s+/g, ' ');
  const data = record[name + '_base64'];
  return data == null ? '' : Array.from(unbase64(data.slice(0, 64)), b => b.toString(16).padStart(2, '0')).join(' ');
}
function hex(data) {
  const lines = [];
  for (let i = 0; i < data.length; i += 16) {
    const part = Array.from(data.subarray(i, i + 16));
    lines.push(i.toString(16).padStart(6, '0') + '  ' + part.map(b => b.toString(16).padStart(2, '0')).join(' ').padEnd(47) + '  ' + part.map(b => b > 31 && b < 127 ? String.fromCharCode(b) : '.').join(''));
  }
  return lines.join('\n');
}
// Shows JSON without parsing numbers, which may have more digits than JavaScript keeps.
function pretty(text) {
  JSON.parse(text);
  let out = '', depth = 0, quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (quoted) { out += c; if (c === '\\') out += text[++i]; else if (c === '"') quoted = false; continue; }
    if (c === '"') { quoted = true; out += c; } else if (c === '{' || c === '[') { const rest = text.slice(i + 1, i + 64).trimStart()[0]; if (rest === '}' || rest === ']') { out += c + rest; i = text.indexOf(rest, i + 1); } else out += c + '\n' + '  '.repeat(++depth); }
    else if (c === '}' || c === ']') out += '\n' + '  '.repeat(depth = Math.max(0, depth - 1)) + c;
    else if (c === ',') out += ',\n' + '  '.repeat(depth); else if (c === ':') out += ': '; else if (!/\s/.test(c)) out += c;
  }
  return out;
}

// Follows lines of NDJSON. Of a burst only the last lines are parsed; the others are counted.
async function lines(path, signal, take) {
  const answer = await request(path, { signal, headers: { accept: 'application/x-ndjson' } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split('\n');
    rest = parts.pop();
    if (parts.length) take(parts);
  }
}

function topicView(name) {
  const signal = leave.signal;
  let topic = null, records = [], chosen = null, mode = 'auto', live = null, last = '', filterText = '', more = false;
  let arrived = 0, shown = 0, since = performance.now(), drawn = 0, timer = 0;
  const facts = el('dl', { class: 'facts' }), status = el('span', { class: 'soft', role: 'status' }), notice = el('div', { class: 'note', role: 'status', hidden: true });
  const say = (text, bad = false) => { notice.textContent = text; notice.className = bad ? 'note bad' : 'note'; notice.hidden = !text; };
  const from = el('select', { 'aria-label': 'Start', onchange: starts }, [['-100', 'Last 100 records'], ['earliest', 'Earliest'], ['offset', 'Offset…'], ['time', 'Time…'], ['position', 'Position…']].map(([value, text]) => el('option', { value }, text)));
  const where = el('input', { 'aria-label': 'Start at', hidden: true, spellcheck: 'false' });
  const filter = el('input', { type: 'search', placeholder: 'Filter what is shown', 'aria-label': 'Filter the records that are shown', spellcheck: 'false', oninput() { filterText = filter.value.toLowerCase(); show(); } });
  const follow = button('Live tail', () => live ? stop() : tail(true), '', { 'aria-pressed': 'false' });
  const next = button('Next page', () => browse(last), '', { hidden: true });
  const table = virtual('Records', 'records', [['Offset', 1], ['Published (UTC)'], ['Key'], ['Value']], 30, record => el('div', { class: 'row' + (record === chosen ? ' on' : ''), tabindex: record === (chosen || filtered()[0]) ? 0 : -1, 'aria-selected': record === chosen ? 'true' : 'false', onclick: () => choose(record),
    onkeydown(event) {
      const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15 }[event.key];
      if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); choose(record); }
      if (event.key === 'Escape') choose(null);
      if (!step) return;
      event.preventDefault(); event.stopPropagation();
      const list = filtered(), index = Math.max(0, Math.min(list.length - 1, list.indexOf(record) + step));
      choose(list[index]); table.reveal(index);
    } },
    el('div', { class: 'num mono' }, record.offset), el('div', { class: 'soft mono' }, clock(record.publish_time)), el('div', { class: 'mono' }, preview(record, 'key') || el('span', { class: 'soft' }, '–')), el('div', { class: 'mono' }, preview(record, 'value'))));
  const detail = el('section', { class: 'detail', 'aria-label': 'Record', hidden: true });
  const act = (text, run, action, kind = '') => guarded(button(text, run, kind), action + ' ' + name);
  main.replaceChildren(el('div', { class: 'view' },
    el('div', { class: 'bar' }, el('h1', {}, el('a', { href: '#/topics' }, 'Topics'), ' / ', name), el('div', { class: 'space' }),
      el('a', { class: 'button', href: '#/groups/' + encodeURIComponent(name) }, 'Groups'), act('Publish', publish, 'publish', 'main'), act('Retention', retention, 'retention'), act('Trim', trim, 'trim'), act('Delete', remove, 'delete', 'bad')),
    facts, el('div', { class: 'bar' }, from, where, button('Read', () => browse()), follow, next, el('div', { class: 'space' }), status, filter), notice, el('div', { class: 'split' }, table.root, detail)));

  function starts() {
    const hints = { offset: '0', time: new Date(Date.now() - 3600000).toISOString(), position: 'epoch_00000000000000000000' };
    where.hidden = !(from.value in hints);
    where.placeholder = hints[from.value] || '';
    where.value = from.value === 'time' ? hints.time : '';
  }
  function filtered() {
    if (!filterText) return records;
    return records.filter(record => [record.offset, record.key, record.value, ...Object.entries(record.headers || {}).flat()].some(text => text?.toLowerCase().includes(filterText)));
  }
  function show() { table.show(filtered(), filterText && records.length ? 'Nothing shown matches.' : live ? 'Waiting for records…' : topic ? 'No records here.' : 'Loading…'); }
  const position = offset => topic ? topic.epoch + '_' + String(offset).padStart(20, '0') : '';
  function choose(record) { chosen = record; describe(); show(); }
  function describe() {
    detail.hidden = !chosen;
    if (!chosen) return;
    const record = chosen, value = raw(record, 'value'), key = raw(record, 'key'), part = value.subarray(0, VALUE_BYTES_MAX);
    const headers = Object.entries(record.headers || {});
    let kind = mode, text = '';
    const plain = record.value;
    const isJson = () => { try { return /^\s*[[{"]/.test(plain) && (JSON.parse(plain), true); } catch { return false; } };
    if (kind === 'auto') kind = plain == null ? 'hex' : isJson() ? 'json' : 'text';
    if (kind === 'json') { try { text = plain == null ? 'not text, so not JSON' : pretty(plain).slice(0, VALUE_BYTES_MAX); } catch { text = 'not JSON'; } }
    else text = kind === 'text' ? new TextDecoder().decode(part) : hex(part);
    const choice = [['json', 'JSON'], ['text', 'Text'], ['hex', 'Hex']].map(([of, label]) => button(label, () => { mode = of; describe(); }, '', { 'aria-pressed': String(kind === of) }));
    const here = position(record.offset);
    detail.replaceChildren(
      el('div', { class: 'bar' }, el('strong', {}, 'Record ' + record.offset), el('div', { class: 'space' }), button('Close', () => choose(null), 'quiet')),
      el('div', { class: 'body' },
        el('dl', {}, entry('Position', here, button('Copy', () => copy(here), 'quiet small')), entry('Published', record.publish_time), record.event_time && entry('Event time', record.event_time),
          entry('Key', key.length ? record.key ?? preview(record, 'key') : '–')),
        headers.length > 0 && [el('h2', {}, 'Headers'), el('dl', {}, headers.map(([header, of]) => entry(header, of)))],
        el('h2', {}, 'Value'),
        el('div', { class: 'tools' }, el('span', { class: 'joined', role: 'group', 'aria-label': 'Form of the value' }, choice),
          el('span', { class: 'soft' }, bytes(value.length) + (value.length > part.length ? ', the first ' + bytes(part.length) + ' shown' : '')), el('div', { class: 'space' }), button('Copy', () => copy(plain ?? record.value_base64), 'quiet small')),
        el('pre', { class: kind === 'hex' ? 'hex' : '', tabindex: 0 }, text)));
  }
  const entry = (term, text, ...more) => [el('dt', {}, term), el('dd', { class: 'mono' }, text, ' ', more)];

  async function refresh() {
    topic = measure(await json(at(name)));
    const now = topic.retention || {};
    const limits = [now.maxAge && span(parseFloat(now.maxAge)), now.maxBytes > 0 && bytes(now.maxBytes), now.maxRecords > 0 && count(now.maxRecords) + ' records'].filter(Boolean).join(', ');
    facts.replaceChildren(fact(isDense(topic) ? 'Records' : 'Batches', count(topic.records)), fact('Rate', rate(topic.rate)), fact('Stored', bytes(topic.storedBytes)), fact('Earliest', topic.earliestOffset), fact('Tail', topic.tail),
      fact('Last record', ago(topic.lastPublishTime)), fact('Kept', limits || 'without limit'), fact('Created', (topic.createTime || '–').slice(0, 10)));
  }
  function failed(error, action) {
    if (error.name === 'AbortError' || signal.aborted) return;
    note(error, action && action + ' ' + name);
    say(error.message, true);
  }
  function start(of) {
    const text = of ?? (where.hidden ? from.value : where.value.trim());
    return encodeURIComponent(text || 'earliest');
  }

  // One page of history, or the newest records.
  async function browse(of) {
    stop(); say('');
    try {
      const found = [];
      let bad = null;
      const limit = of || from.value !== '-100' ? BROWSED : 100;
      await lines(at(name, `/records?limit=${limit}&from=${start(of)}` + (of ? '' : '&out_of_range=earliest')), signal, parts => {
        for (const part of parts) {
          if (!part) continue;
          const line = JSON.parse(part);
          if (line.offset != null) found.push(line); else { if (line.problem) bad = line.problem; last = (line.end || line.notice || line.heartbeat)?.next || last; }
        }
      });
      if (found.length && topic) last = position(BigInt(found.at(-1).offset) + 1n);
      more = found.length === limit && !bad && topic && BigInt(found.at(-1).offset) + 1n < BigInt(topic.tail);
      records = found; chosen = null; next.hidden = !more;
      status.textContent = `${count(found.length)} record${found.length === 1 ? '' : 's'}` + (more ? ', more follow' : ', to the tail');
      if (bad) say(bad.detail, true);
      table.scroll.scrollTop = 0; describe(); show();
    } catch (error) { failed(error); }
  }

  // The live tail holds one stream while the tab is in sight, and goes on where it stopped.
  function stop(quiet) {
    live?.abort?.(); live = null; clearTimeout(timer); timer = 0;
    follow.setAttribute('aria-pressed', 'false');
    if (!quiet) { last = ''; status.textContent = ''; }
  }
  async function tail(fresh) {
    stop(!fresh);
    if (fresh) burst = []; else flush();
    const own = live = new AbortController();
    if (fresh) { records = []; chosen = null; next.hidden = true; last = from.value === '-100' ? '' : where.hidden ? from.value : where.value.trim(); describe(); say(''); }
    follow.setAttribute('aria-pressed', 'true');
    arrived = shown = 0; since = performance.now();
    status.textContent = 'Live';
    show();
    let wants = last || '-20';
    for (let failures = 0; live === own && !signal.aborted;) {
      flush();
      wants = last || wants;
      try {
        await lines(at(name, `/records?follow=true&out_of_range=earliest&from=${encodeURIComponent(wants)}`), AbortSignal.any([own.signal, signal]), parts => { failures = 0; take(parts); });
      } catch (error) {
        if (live !== own || signal.aborted) return;
        if (error.status >= 400 && error.status < 500 && error.status !== 429) {
          stop();
          return error.reason === 'EPOCH_CHANGED' ? say('The topic was deleted and created again. Start the live tail anew to read the new one.', true) : failed(error);
        }
      }
      if (live !== own || signal.aborted) return;
      status.textContent = 'Connection lost, trying again…';
      await wait(Math.min(10000, 500 * 2 ** failures++) * (.75 + Math.random() / 2), own.signal);
    }
  }
  let burst = [];
  function take(parts) {
    // Of what comes between two renderings, the newest lines are shown and the rest are counted.
    for (const part of parts) {
      if (!part) continue;
      if (part.startsWith('{"offset"')) { arrived++; burst.push(part); if (burst.length > 4 * SHOWN_PER_RENDER) burst = burst.slice(-SHOWN_PER_RENDER); continue; }
      const line = JSON.parse(part), said = line.notice || line.heartbeat || line.end;
      if (said?.next && !burst.length) last = said.next;
      if (line.notice?.notice === 'GAP') say('Records before this point were trimmed away and are not shown.');
      if (line.problem) { last = line.problem.next || last; if (!line.problem.retry_after_ms && line.problem.status < 500) { say(line.problem.detail, true); stop(); return; } }
    }
    timer ||= setTimeout(render, RENDER_MS);
  }
  // What was received is shown before the stream goes on after it, so that nothing is shown twice.
  function flush() { if (burst.length) { clearTimeout(timer); render(); } }
  function render() {
    timer = 0;
    const batch = burst.slice(-SHOWN_PER_RENDER).map(line => JSON.parse(line));
    burst = [];
    const now = performance.now(), seconds = (now - since) / 1000;
    shown += batch.length;
    if (batch.length && topic) last = position(BigInt(batch.at(-1).offset) + 1n);
    if (seconds >= 1) {
      status.textContent = arrived === 0 ? 'Live' : shown < arrived ? `Live: sampled, showing ${count(Math.round(shown / seconds))} of ${count(Math.round(arrived / seconds))} records/s` : `Live: ${rate(arrived / seconds)}`;
      arrived = shown = 0; since = now;
    }
    if (batch.length) {
      const atEnd = table.scroll.scrollTop < 40;
      // The newest stand first, so that those in sight do not move while somebody reads further down.
      records = batch.reverse().concat(records).slice(0, KEPT);
      if (!atEnd) table.scroll.scrollTop += batch.length * 30;
      show();
    }
    if (live && live !== 'hidden') timer = setTimeout(render, RENDER_MS);
  }
  const visible = () => {
    if (document.hidden) { if (live) { live.abort(); live = 'hidden'; } }
    else if (live === 'hidden') { live = null; tail(false); }
  };
  document.addEventListener('visibilitychange', visible, { signal });
  signal.addEventListener('abort', () => stop());

  function publish() {
    const key = el('input', { spellcheck: 'false', autocomplete: 'off' }), value = el('textarea', { rows: 6, spellcheck: 'false' }), headers = el('textarea', { rows: 2, spellcheck: 'false', placeholder: 'name: value' });
    const kind = el('select', {}, [['value', 'Text'], ['value_json', 'JSON'], ['value_base64', 'Base64']].map(([of, text]) => el('option', { value: of }, text)));
    ask('Publish a record to ' + name, [field('Key', key, 'May be empty.'), field('Value', value), field('Value is', kind), field('Headers', headers, 'One a line.')], 'Publish', async () => {
      const record = {};
      if (key.value) record.key = key.value;
      if (kind.value === 'value_json') { try { JSON.parse(value.value); } catch (error) { throw new Error('The value is not JSON: ' + error.message); } }
      const pairs = headers.value.split('\n').filter(line => line.trim()).map(line => { const i = line.indexOf(':'); if (i < 1) throw new Error('A header is name: value, one a line.'); return [line.slice(0, i).trim(), line.slice(i + 1).trim()]; });
      if (pairs.length) record.headers = Object.fromEntries(pairs);
      // The JSON of a value is stored as it was written.
      const body = JSON.stringify(record), own = kind.value === 'value_json' ? value.value : JSON.stringify(value.value);
      const text = `{"records":[${body.slice(0, -1)}${body === '{}' ? '' : ','}"${kind.value}":${own}}]}`;
      const receipt = await json(at(name, '/records'), { method: 'POST', headers: { 'content-type': 'application/json' }, body: text });
      toast('Stored at offset ' + receipt.first_offset);
      refresh().then(() => live || browse(), () => {});
    }, { action: 'publish ' + name, initial: value });
  }
  function retention() {
    const limits = retentionFields(topic?.retention);
    ask('Retention of ' + name, limits.fields, 'Save', async () => { await send('PATCH', at(name), { retention: limits.read() }); toast('Retention saved'); refresh().catch(() => {}); }, { action: 'retention ' + name });
  }
  function trim() {
    const before = el('input', { required: true, inputmode: 'numeric', pattern: '[0-9]+', value: chosen?.offset || '' });
    ask('Trim ' + name, [el('p', {}, 'Records before this offset are removed for good. Whole batches are kept, so that fewer may go.'), field('Remove records before offset', before, topic && `The topic has ${topic.earliestOffset} up to ${topic.tail}.`)], 'Trim', async () => {
      const done = await send('POST', at(name, '/trim'), { beforeOffset: before.value, epoch: topic?.epoch || '' });
      toast('Earliest offset is now ' + done.earliestOffset); refresh().catch(() => {});
    }, { bad: true, action: 'trim ' + name });
  }
  function remove() {
    const typed = el('input', { autocomplete: 'off', spellcheck: 'false', 'aria-label': 'Name of the topic' });
    const go = ask('Delete ' + name + '?', [el('p', {}, `All of its records are removed for good${topic ? ` (${count(topic.records)}, ${bytes(topic.storedBytes)})` : ''}. Whoever follows it is told.`), field('Type the name of the topic', typed)], 'Delete', async () => {
      await json(at(name, '?epoch=' + encodeURIComponent(topic?.epoch || '')), { method: 'DELETE' });
      dialog.close(); seen.delete(name); location.hash = '#/topics'; toast('Topic deleted');
    }, { bad: true, action: 'delete ' + name });
    go.disabled = true;
    typed.addEventListener('input', () => { go.disabled = typed.value !== name; });
  }
  show();
  let begun = false;
  poll(signal, POLL_MS, async () => {
    try { await refresh(); } catch (error) { if (error.status === 404) { stop(); say('There is no topic of this name.', true); facts.replaceChildren(); } else failed(error); throw error; }
    if (!begun) { begun = true; browse(); }
  });
}
