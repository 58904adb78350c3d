function route() {
  leave.abort(); leave = new AbortController();
  if (dialog.open && !dialog.querySelector('#token')) dialog.close();
  const [, page, name, inner] = location.hash.split('/');
  for (const link of document.querySelectorAll('nav a')) if (link.hash === '#/' + (page || 'topics')) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
  let topic = '', group = '';
  try { topic = decodeURIComponent(name || ''); group = decodeURIComponent(inner || ''); } catch { /* no name */ }
  document.title = (group ? group + ' of ' + topic : page === 'groups' && topic ? 'Groups of ' + topic : topic || { server: 'Server', groups: 'Groups' }[page] || 'Topics') + ' · Streamway';
  if (page === 'server') serverView(); else if (page === 'groups' && group) groupView(topic, group); else if (page === 'groups') groupsView(topic); else if (page === 'topics' && topic) topicView(topic); else topicsView();
}
addEventListener('hashchange', () => { route(); main.focus({ preventScroll: true }); });
addEventListener('keydown', event => {
  if (event.key === '/' && !dialog.open && !event.target.closest('input, textarea, select')) { const box = main.querySelector('[type=search]'); if (box) { event.preventDefault(); box.focus(); } }
});
route();
