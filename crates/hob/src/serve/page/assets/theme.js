// Dark or light before the first paint. No module: it must run before the page is drawn.
(() => {
  let theme = 'auto';
  try { theme = localStorage.getItem('hob.theme') || 'auto'; } catch { /* storage may be refused */ }
  document.documentElement.dataset.theme = theme;
})();
