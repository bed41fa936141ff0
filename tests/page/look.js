// What a careful eye checks: every control has a name, text stands out from its ground, nothing is wider than the window.

/** Runs in the page; gives what is wrong. */
export async function look(page) {
  return page.evaluate(() => {
    const wrong = [];
    const shown = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && e.getClientRects().length > 0;
    const what = (e) => `${e.tagName.toLowerCase()}.${[...e.classList].join('.')} "${(e.textContent || '').trim().slice(0, 30)}"`;

    // Names.
    const named = (e) => {
      const by = e.getAttribute('aria-labelledby')?.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? '').join(' ');
      const label = e.labels?.length ? [...e.labels].map((l) => l.textContent).join(' ') : '';
      return (by || e.getAttribute('aria-label') || label || e.textContent || e.title || '').trim();
    };
    for (const e of document.querySelectorAll('a, button, input, select, textarea, summary, dialog, [role=menu], [role=menuitem], nav, aside')) {
      if (e.type !== 'hidden' && shown(e) && !named(e)) wrong.push(`no name: ${what(e)}`);
    }
    for (const e of document.querySelectorAll('img')) if (!e.hasAttribute('alt')) wrong.push(`no alt: ${what(e)}`);
    const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
    for (const id of new Set(ids)) if (ids.filter((i) => i === id).length > 1) wrong.push(`id twice: ${id}`);
    for (const e of document.querySelectorAll('[aria-describedby], [aria-labelledby]')) {
      for (const id of `${e.getAttribute('aria-describedby') ?? ''} ${e.getAttribute('aria-labelledby') ?? ''}`.trim().split(/\s+/)) {
        if (!document.getElementById(id)) wrong.push(`no such id: ${id}`);
      }
    }
    const levels = [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].filter(shown).map((e) => Number(e.tagName[1]));
    if (!levels.includes(1)) wrong.push('no h1');
    if (!document.documentElement.lang) wrong.push('no lang');

    // Contrast (WCAG 2.2, 1.4.3): each text against the grounds below it.
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (colour) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
    const ground = (e) => {
      const layers = [];
      for (let at = e; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
      return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
    };
    const light = ([r, g, b]) => {
      const [x, y, z] = [r, g, b].map((c) => { const s = c / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; });
      return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const seen = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const e = node.parentElement;
      if (!node.data.trim() || seen.has(e) || !shown(e) || e.closest('.unseen, .skip, .sprite, option, :disabled, noscript')) continue;
      seen.add(e);
      const style = getComputedStyle(e);
      const below = ground(e);
      const [a, b] = [light(over(rgba(style.color), below)), light(below)].sort((x, y) => y - x);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      const ratio = (a + 0.05) / (b + 0.05);
      if (ratio < (large ? 3 : 4.5)) wrong.push(`contrast ${ratio.toFixed(2)}: ${what(e)} ${style.color} on ${below.slice(0, 3).map(Math.round)}`);
    }

    // Width, and targets large enough for a finger (WCAG 2.2, 2.5.8).
    if (document.scrollingElement.scrollWidth > innerWidth) wrong.push(`wider than the window: ${document.scrollingElement.scrollWidth}`);
    const scroll = document.querySelector('.scroll');
    if (scroll && scroll.scrollWidth > scroll.clientWidth + 1) wrong.push(`the view scrolls sideways: ${scroll.scrollWidth} > ${scroll.clientWidth}`);
    for (const e of document.querySelectorAll('button, select, input:not([type=range])')) {
      const { width, height } = e.getBoundingClientRect();
      if (shown(e) && !e.closest('.unseen') && (width < 24 || height < 24) && e.type !== 'checkbox') wrong.push(`small: ${what(e)} ${width}×${height}`);
    }
    return wrong;
  });
}
