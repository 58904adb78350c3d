function groupView(topic, name) {
  const signal = leave.signal, path = at(topic, '/groups/' + encodeURIComponent(name)), full = topic + '/' + name;
  let group = null;
  const facts = el('dl', { class: 'facts' }), rules = el('p', { class: 'soft' }), notice = el('div', { class: 'note bad', role: 'alert', hidden: true });
  const say = text => { notice.textContent = text; notice.hidden = !text; };
  const table = virtual('Members', 'members', [['Member'], ['Principal'], ['State'], ['Leased', 1], ['Oldest lease', 1], ['May hold', 1], ['Joined', 1]], 34, member => el('div', { class: 'row' },
    el('div', { title: member.name }, member.name || '–'), el('div', { title: member.principal }, member.principal || '–'), el('div', {}, member.isConnected ? 'connected' : 'cut off'),
    el('div', { class: 'num' }, count(member.leasedRecords)), el('div', { class: 'num' }, lasts(member.oldestLeaseAge)), el('div', { class: 'num', title: bytes(member.creditBytes) }, count(member.creditRecords)), el('div', { class: 'num' }, lasts(member.age) + ' ago')));
  const act = (text, run, action, kind = '') => guarded(button(text, run, kind), action + ' ' + full);
  main.replaceChildren(el('div', { class: 'view' },
    el('div', { class: 'bar' }, el('h1', {}, el('a', { href: '#/groups' }, 'Groups'), ' / ', el('a', { href: '#/topics/' + encodeURIComponent(topic) }, topic), ' / ', name), el('div', { class: 'space' }), act('Redrive', redrive, 'redrive'), act('Seek', seek, 'seek'), act('Delete', remove, 'remove', 'bad')),
    facts, rules, notice, el('h2', {}, 'Members'), table.root));
  table.show([], 'Loading…');
  async function refresh() {
    group = await json(path);
    const { status: is, settings: set } = group;
    const dead = set.deadLetterTopic && el('a', { href: '#/topics/' + encodeURIComponent(set.deadLetterTopic), title: 'Records of ' + set.deadLetterTopic }, count(is.deadLetteredRecords));
    facts.replaceChildren(fact('Lag', plural(is.lagRecords, 'record')), fact('Oldest', lasts(is.lag)), fact('Leased', count(is.leasedRecords)), fact('Delayed', count(is.delayedRecords)), fact('Blocked keys', count(is.blockedKeys)),
      fact('Dead letters', dead || count(is.deadLetteredRecords)), fact('Set aside', count(is.parkedRecords)), fact('Skipped', count(is.skippedRecords)), fact('Oldest offset', is.oldestUnsettledOffset), fact('Tail', is.tail));
    rules.textContent = `Order: ${ORDERS.find(([of]) => of === set.order)?.[1]}. A lease lasts ${lasts(set.ackDeadline)}, extended at most ${lasts(set.leaseMax)}; a member that is cut off keeps it for ${lasts(set.sessionGrace)}. `
      + (set.deliveriesMax ? `A record ${POISON[set.poison]} once ${plural(set.deliveriesMax, 'delivery').replace('ys', 'ies')} failed.` : 'Records are tried until they succeed.');
    say(is.isAtLookaheadMax ? `The group reads no further: ${count(set.lookaheadMax)} records are leased or blocked.` : is.deadLetterProblem ? 'Dead letters wait: ' + is.deadLetterProblem : '');
    table.show(is.members, 'No members. Records wait until one joins, or leases them over HTTP.');
    if (BigInt(is.memberCount) > BigInt(is.members.length)) say(`The first ${count(is.members.length)} of ${count(is.memberCount)} members are shown.`);
  }
  const again = () => refresh().catch(() => {});
  function seek() {
    const start = startFields(STARTS);
    ask('Let ' + full + ' go on elsewhere?', [el('p', {}, 'Everything before the place counts as settled, and nothing from there on: records may be handled again, or not at all. Members stay and lose their leases.'), field('Go on at', start.from), start.where,
      el('p', { class: 'soft' }, group && `The topic's tail is ${group.status.tail}; the oldest record that is not settled is at ${group.status.oldestUnsettledOffset}.`)], 'Seek', async () => {
      const now = await send('POST', path + '/seek', { to: start.read() });
      toast(plural(now.status.lagRecords, 'record') + ' to handle'); again();
    }, { bad: true, action: 'seek ' + full });
  }
  function redrive() {
    const source = choice([['REDRIVE_SOURCE_DEAD_LETTERS', 'Dead letters that were not redriven before'], ['REDRIVE_SOURCE_PARKED', 'Records that were set aside with their keys']]);
    const trimmed = el('input', { type: 'checkbox' });
    ask('Deliver records of ' + full + ' again?', [el('p', {}, 'They are delivered to the members of this group, with deliveries counted from 1.'), field('Which', source),
      el('label', { class: 'check' }, trimmed, 'Publish copies of those that the topic does not hold any more, for all its readers')], 'Redrive', async () => {
      const done = await send('POST', path + '/redrive', { source: source.value, republishTrimmed: trimmed.checked });
      toast(`${plural(done.reopenedRecords, 'record')} delivered again, ${count(done.republishedRecords)} published again, ${count(done.missingRecords)} missing`); again();
    }, { action: 'redrive ' + full });
  }
  function remove() {
    const typed = el('input', { autocomplete: 'off', spellcheck: 'false', 'aria-label': 'Name of the group' });
    const go = ask('Delete ' + full + '?', [el('p', {}, 'What it has settled is forgotten, and the calls of its members end. The records of the topic stay.'), field('Type the name of the group', typed)], 'Delete', async () => {
      await json(path + '?id=' + encodeURIComponent(group?.id || ''), { method: 'DELETE' });
      dialog.close(); location.hash = '#/groups'; toast('Group deleted');
    }, { bad: true, action: 'remove ' + full });
    go.disabled = true;
    typed.addEventListener('input', () => { go.disabled = typed.value !== name; });
  }
  poll(signal, POLL_MS, async () => {
    try { await refresh(); } catch (error) { if (error.name !== 'AbortError') { say(error.message); if (!group) { table.show([], ''); } } throw error; }
  });
}
