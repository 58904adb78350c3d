// Durations are texts such as 1.5s.
const seconds = text => text ? parseFloat(text) : null;
const lasts = text => text ? span(seconds(text)) : '–';
const ORDERS = [['DELIVERY_ORDER_NONE', 'none'], ['DELIVERY_ORDER_KEY', 'key'], ['DELIVERY_ORDER_TOTAL', 'total']];
const POISON = { POISON_POLICY_DEAD_LETTER: 'goes to the dead letter topic', POISON_POLICY_PARK_KEY: 'is set aside with its key', POISON_POLICY_HOLD: 'is held' };
const choice = (options, more = {}) => el('select', more, options.map(([value, text]) => el('option', { value }, text)));
// A choice of where to start, and the field that some choices need.
function startFields(options) {
  const needs = { offset: '0', time: new Date(Date.now() - 3600000).toISOString(), position: 'epoch_00000000000000000000' };
  const where = el('input', { spellcheck: 'false', autocomplete: 'off', 'aria-label': 'Start at', hidden: true });
  const from = choice(options, { onchange() { where.hidden = !(from.value in needs); where.placeholder = needs[from.value] || ''; where.required = !where.hidden; where.value = from.value === 'time' ? needs.time : ''; } });
  return { from, where, read: () => where.hidden ? from.value : where.value.trim() };
}
const STARTS = [['earliest', 'Earliest'], ['latest', 'Latest'], ['offset', 'Offset…'], ['time', 'Time…'], ['position', 'Position…']];

// The groups of all topics, or those of one.
function groupsView(of) {
  const signal = leave.signal;
  let all = [], by = 'topic', up = true, loaded = false;
  const filter = el('input', { type: 'search', placeholder: 'Filter groups', 'aria-label': 'Filter groups', oninput: show, spellcheck: 'false' });
  const total = el('span', { class: 'soft', role: 'status' });
  const order = column => () => { up = by === column ? !up : column === 'name' || column === 'topic'; by = column; show(); };
  const number = (title, column) => [title, 1, order(column)];
  const table = virtual('Groups', 'groups', [['Group', 0, order('name')], ['Topic', 0, order('topic')], ['Order'], number('Lag', 'lagRecords'), number('Oldest', 'lag'), number('Leased', 'leasedRecords'), number('Blocked keys', 'blockedKeys'), number('Dead letters', 'deadLetteredRecords'), number('Members', 'memberCount')], 34, ({ topic, name, settings, status }) => el('div', { class: 'row' },
    el('div', {}, el('a', { href: hold(topic, name), title: name }, name)), el('div', {}, el('a', { href: '#/topics/' + encodeURIComponent(topic), title: topic }, topic)), el('div', { class: 'soft' }, ORDERS.find(([of]) => of === settings.order)?.[1]),
    ['lagRecords', 'lag', 'leasedRecords', 'blockedKeys', 'deadLetteredRecords', 'memberCount'].map(field => el('div', { class: 'num' }, field === 'lag' ? lasts(status.lag) : count(status[field])))));
  const value = group => by === 'name' || by === 'topic' ? group[by] : by === 'lag' ? seconds(group.status.lag) || 0 : BigInt(group.status[by] || 0);
  function show() {
    const text = filter.value.trim().toLowerCase();
    const list = all.filter(group => group.name.includes(text) || group.topic.includes(text));
    list.sort((a, b) => { const x = value(a), y = value(b); return (x < y ? -1 : x > y ? 1 : a.name < b.name ? -1 : 1) * (up ? 1 : -1); });
    total.textContent = !loaded ? '' : text ? `${count(list.length)} of ${count(all.length)}` : plural(all.length, 'group');
    table.sorted(['name', 'topic', '', 'lagRecords', 'lag', 'leasedRecords', 'blockedKeys', 'deadLetteredRecords', 'memberCount'].indexOf(by), up);
    table.show(list, !loaded ? 'Loading…' : text ? 'No group has this in its name or its topic’s.' : (of ? `No groups of ${of} yet. ` : 'No groups yet. ') + 'The members of a group share the records of a topic.');
  }
  main.replaceChildren(el('div', { class: 'view' }, el('div', { class: 'bar' }, el('h1', {}, of ? [el('a', { href: '#/groups' }, 'Groups'), ' of ', el('a', { href: '#/topics/' + encodeURIComponent(of) }, of)] : 'Groups'), total, el('div', { class: 'space' }), filter, guarded(button('Create group', () => createGroup(of), 'main'), 'create group')), table.root));
  show();
  poll(signal, POLL_MS, async () => {
    const found = [];
    try { for await (const page of pages(of ? at(of, '/groups') : '/v1/groups', signal)) found.push(...page.groups); }
    catch (error) { if (error.name !== 'AbortError' && !loaded) table.show([], error.message); throw error; }
    all = found; loaded = true; show();
  });
}
function createGroup(of = '') {
  const name = el('input', { required: true, maxlength: 128, pattern: '[a-z0-9][a-z0-9._\\-]*', spellcheck: 'false', autocomplete: 'off' }), topic = name.cloneNode(), dead = name.cloneNode();
  dead.required = false; topic.value = of;
  const order = choice([['DELIVERY_ORDER_NONE', 'None: in parallel'], ['DELIVERY_ORDER_KEY', 'Key: those of one key in order'], ['DELIVERY_ORDER_TOTAL', 'Total: one after the other']]), start = startFields(STARTS), most = el('input', { inputmode: 'numeric', pattern: '[0-9]*', placeholder: 'no limit' });
  ask('Create a group', [field('Topic', topic), field('Name', name), field('Order', order, 'Cannot be changed later.'), field('Start', start.from), start.where, field('Failed deliveries until a record is given up', most), field('Dead letter topic', dead, 'Without one, a record that is given up is held.')], 'Create', async () => {
    const settings = { order: order.value, deadLetterTopic: dead.value || null, deliveriesMax: most.value ? Number(most.value) : null };
    const group = await send('POST', at(topic.value, '/groups'), { name: name.value, from: start.read(), settings });
    dialog.close(); location.hash = hold(group.topic, group.name);
  }, { action: 'create group', initial: of && name });
}
