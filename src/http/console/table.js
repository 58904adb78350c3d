// A table of which only the rows in sight exist.
function virtual(label, kind, columns, height, make) {
  const rows = el('div', { class: 'rows', role: 'none' }), scroll = el('div', { class: 'scroll', role: 'rowgroup', tabindex: 0, 'aria-label': label + ', rows' }, rows);
  const head = el('div', { class: 'row head', role: 'row' }, columns.map(([title, numeric, onclick]) =>
    el('div', { role: 'columnheader', class: numeric ? 'num' : '' }, onclick ? button(title, onclick) : title)));
  const empty = el('div', { class: 'empty', hidden: true });
  const grid = el('div', { class: 'grid', role: 'table', 'aria-label': label }, el('div', { role: 'rowgroup' }, head), scroll), root = el('div', { class: 'table ' + kind }, grid, empty);
  let items = [], frame = 0;
  function draw() {
    frame = 0;
    const first = Math.max(0, Math.floor(scroll.scrollTop / height) - 8), end = Math.min(items.length, Math.ceil((scroll.scrollTop + scroll.clientHeight) / height) + 8);
    // What has the focus keeps it when its row is made anew.
    const active = rows.contains(document.activeElement) && document.activeElement, focused = active && active.closest('.row')?.ariaRowIndex;
    const place = focused ? [...active.closest('.row').querySelectorAll('a, button')].indexOf(active) : -1;
    rows.style.height = items.length * height + 'px';
    grid.setAttribute('aria-rowcount', items.length + 1);
    rows.replaceChildren(...items.slice(first, end).map((item, i) => {
      const row = make(item);
      row.style.top = (first + i) * height + 'px';
      row.setAttribute('role', 'row'); row.setAttribute('aria-rowindex', first + i + 2);
      for (const cell of row.children) cell.setAttribute('role', 'cell');
      return row;
    }));
    if (focused) { const row = rows.querySelector(`[aria-rowindex="${focused}"]`); (place < 0 ? row : row?.querySelectorAll('a, button')[place])?.focus({ preventScroll: true }); }
  }
  const later = () => { frame ||= requestAnimationFrame(draw); };
  scroll.addEventListener('scroll', later);
  new ResizeObserver(later).observe(scroll);
  // Marks the column that the rows are sorted by.
  const sorted = (column, up) => [...head.children].forEach((cell, i) => i === column ? cell.setAttribute('aria-sort', up ? 'ascending' : 'descending') : cell.removeAttribute('aria-sort'));
  return { root, scroll, later, sorted, startAt(top) { rows.style.height = items.length * height + 'px'; scroll.scrollTop = top; later(); }, show(list, text = '') { items = list; empty.textContent = text; empty.hidden = items.length > 0 || !text; later(); },
    reveal(index) { const top = index * height; if (top < scroll.scrollTop) scroll.scrollTop = top; else if (top + height > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top + height - scroll.clientHeight; draw(); rows.querySelector(`[aria-rowindex="${index + 2}"]`)?.focus({ preventScroll: true }); } };
}

const fact = (term, of) => el('div', {}, el('dt', {}, term), el('dd', {}, of));
const plural = (n, word) => `${count(n)} ${word}${BigInt(n) === 1n ? '' : 's'}`;
// All pages of a list.
async function* pages(path, signal) {
  let next = '';
  do {
    const page = await json(path + (path.includes('?') ? '&' : '?') + `page_size=${PAGE}` + (next && '&page_token=' + encodeURIComponent(next)));
    yield page;
    next = page.nextPageToken;
  } while (next && !signal.aborted);
}

// Rates are differences of tails between two polls.
const seen = new Map();
const isDense = topic => !/BATCH|SPARSE/.test(topic.numbering || '');
const distance = (topic, from, to) => { const n = BigInt(to) - BigInt(from); return isDense(topic) ? n : n >> 10n; };
function measure(topic) {
  const last = seen.get(topic.name), now = performance.now();
  let perSecond = last?.rate ?? null;
  if (last && last.epoch === topic.epoch && now - last.at > 500) perSecond = Number(distance(topic, last.tail, topic.tail)) * 1000 / (now - last.at);
  if (!last || last.epoch !== topic.epoch || now - last.at > 500) seen.set(topic.name, { tail: topic.tail, epoch: topic.epoch, at: now, rate: perSecond });
  topic.rate = perSecond;
  topic.records = distance(topic, topic.earliestOffset || 0, topic.tail || 0);
  return topic;
}
async function poll(signal, every, step) {
  while (!signal.aborted) {
    const began = performance.now();
    if (!document.hidden) try { await step(); } catch (error) { if (error.name === 'AbortError' || signal.aborted) return; if (error.status === 401) return; }
    // A list of many pages is asked for less often: it may take a fifth of the time.
    await wait(Math.max(every, (performance.now() - began) * 4), signal);
  }
}
