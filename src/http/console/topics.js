// What the list of topics showed last, for who comes back to it.
const NOTHING = { all: [], by: 'name', up: true, loaded: false, text: '', top: 0 };
let lastTopics = NOTHING;
function topicsView() {
  const signal = leave.signal;
  let { all, by, up, loaded } = lastTopics;
  const filter = el('input', { type: 'search', placeholder: 'Filter topics', 'aria-label': 'Filter topics', oninput: show, spellcheck: 'false', value: lastTopics.text });
  const total = el('span', { class: 'soft', role: 'status' });
  const order = column => () => { up = by === column ? !up : column === 'name'; by = column; show(); };
  const table = virtual('Topics', 'topics', [['Topic', 0, order('name')], ['Records', 1, order('records')], ['Rate', 1, order('rate')], ['Stored', 1, order('storedBytes')], ['Tail', 1, order('tail')], ['Last record', 1, order('lastPublishTime')]], 34, topic => el('div', { class: 'row' },
    el('div', {}, el('a', { href: '#/topics/' + encodeURIComponent(topic.name), title: topic.name }, topic.name)),
    el('div', { class: 'num', title: isDense(topic) ? '' : 'Batches: this engine numbers them' }, count(topic.records) + (isDense(topic) ? '' : ' batches')), el('div', { class: 'num' + (topic.rate ? '' : ' soft') }, rate(topic.rate)),
    el('div', { class: 'num' }, bytes(topic.storedBytes)), el('div', { class: 'num mono' }, topic.tail), el('div', { class: 'num soft', title: topic.lastPublishTime || '' }, ago(topic.lastPublishTime))));
  function value(topic) { const v = topic[by]; return by === 'name' || by === 'lastPublishTime' ? v || '' : by === 'rate' ? v || 0 : BigInt(v || 0); }
  function show() {
    const text = filter.value.trim().toLowerCase();
    const list = text ? all.filter(topic => topic.name.includes(text)) : all.slice();
    list.sort((a, b) => { const x = value(a), y = value(b); return (x < y ? -1 : x > y ? 1 : a.name < b.name ? -1 : 1) * (up ? 1 : -1); });
    total.textContent = (!loaded ? all.length && 'Loading, so far ' : '') + (!loaded && !all.length ? '' : text ? `${count(list.length)} of ${count(all.length)}` : plural(all.length, 'topic'));
    table.sorted(['name', 'records', 'rate', 'storedBytes', 'tail', 'lastPublishTime'].indexOf(by), up);
    table.show(list, !loaded ? 'Loading…' : text ? 'No topic has this in its name.' : 'No topics yet. Create one, or publish to a new name.');
  }
  main.replaceChildren(el('div', { class: 'view' }, el('div', { class: 'bar' }, el('h1', {}, 'Topics'), total, el('div', { class: 'space' }), filter, guarded(button('Create topic', createTopic, 'main'), 'create')), table.root));
  show();
  table.startAt(lastTopics.top);
  signal.addEventListener('abort', () => { lastTopics = { all, by, up, loaded, text: filter.value, top: table.scroll.scrollTop }; });
  const refusedAs = error => { if (!signal.aborted && !loaded) table.show([], error.message); throw error; };
  poll(signal, POLL_MS, async () => {
    const found = [];
    try {
      for await (const page of pages('/v1/topics', signal)) { found.push(...page.topics.map(measure)); if (!loaded && page.nextPageToken) { all = found; show(); } }
    } catch (error) { refusedAs(error); }
    all = found; loaded = true; show();
  }).then(() => { if (!loaded) { loaded = true; table.show([], 'Sign in to see the topics.'); } });
}

function retentionFields(now = {}) {
  const limit = value => value && value !== '0' ? value : '';
  const make = (value, hint) => el('input', { value: limit(value), placeholder: 'no limit', inputmode: 'numeric', pattern: '[0-9]*', 'data-hint': hint });
  const age = make((now.maxAge || '').replace(/s$/, '')), size = make(now.maxBytes), records = make(now.maxRecords);
  age.pattern = '[0-9.]*';
  return { fields: [field('Keep for at most, seconds', age), field('Keep at most, bytes', size), field('Keep at most, records', records, 'Whole batches are removed, oldest first.')],
    read: () => ({ maxAge: age.value ? age.value + 's' : null, maxBytes: size.value || null, maxRecords: records.value || null }) };
}
function createTopic() {
  const name = el('input', { required: true, maxlength: 128, pattern: '[a-z0-9][a-z0-9._\\-]*', spellcheck: 'false', autocomplete: 'off' });
  const limits = retentionFields();
  ask('Create a topic', [field('Name', name, 'Lower case letters, digits, dots, underscores and hyphens.'), limits.fields], 'Create', async () => {
    const topic = await send('POST', '/v1/topics', { name: name.value, retention: limits.read() });
    dialog.close(); location.hash = '#/topics/' + encodeURIComponent(topic.name);
  }, { action: 'create' });
}
