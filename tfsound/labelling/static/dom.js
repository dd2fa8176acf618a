// Elements, texts and what the browser keeps. Texts become text nodes and attributes only, never markup.

export const $ = (id) => document.getElementById(id);

export function make(tag, { text, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

export function say(text) {
  $("status").textContent = text;
}

export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

export function stored(store, key, fallback) {
  try {
    return window[store].getItem(key) ?? fallback;
  } catch {
    return fallback; // a browser that keeps nothing: a choice holds until the page is closed
  }
}

export function keep(store, key, value) {
  try {
    if (value === null) window[store].removeItem(key);
    else window[store].setItem(key, value);
  } catch {
    return; // as above
  }
}
