// The search over all classes: a combobox as the ARIA practices describe it.

import { make } from "./dom.js";

const MAX_RESULTS = 200;
const NARROW = matchMedia("(max-width: 900px)");

function fold(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().trim().replace(/\s+/g, " ");
}

// The best first: the whole name, its beginning, beginnings of its words, anywhere in it, in the path to it.
function rank(soundClass, words, whole) {
  const name = fold(soundClass.display_name);
  const path = fold(soundClass.path.join(" "));
  if (!words.every((word) => name.includes(word) || path.includes(word))) return null;
  if (name === whole) return 0;
  if (name.startsWith(whole)) return 1;
  const parts = name.split(/[^\p{L}\p{N}]+/u);
  if (words.every((word) => parts.some((part) => part.startsWith(word)))) return 2;
  return words.every((word) => name.includes(word)) ? 3 : 4;
}

function find(text, classes, allowsNew) {
  const whole = fold(text);
  const words = whole.split(" ").filter(Boolean);
  const ranked = classes
    .map((soundClass, number) => ({ soundClass, number, rank: rank(soundClass, words, whole) }))
    .filter((entry) => entry.rank !== null)
    .sort((a, b) => a.rank - b.rank || a.number - b.number);
  const found = ranked.slice(0, MAX_RESULTS).map((entry) => entry.soundClass);
  const isKnown = whole !== "" && ranked[0]?.rank === 0;
  const name = text.trim().replace(/\s+/g, " ");
  if (allowsNew && name && !isKnown) found.push({ name, display_name: name, path: [], isNew: true });
  return { found, numHidden: Math.max(0, ranked.length - MAX_RESULTS) };
}

export class Search {
  // `choose(soundClass)` is told what was chosen, `leave()` puts the focus back; `session()` and `isChosen(name)`
  // say what there is to choose.
  constructor(input, list, { session, isChosen, choose, leave }) {
    Object.assign(this, { input, list, session, isChosen, leave });
    this.tell = choose;
    this.found = [];
    this.active = -1;
    input.addEventListener("input", () => this.open());
    input.addEventListener("focus", () => this.open());
    input.addEventListener("click", () => this.open());
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.onKey(event));
  }

  open() {
    if (this.session() === null) return; // still loading
    const { classes, allow_new_classes: allowsNew } = this.session();
    const { found, numHidden } = find(this.input.value, classes, allowsNew);
    this.found = found;
    const rows = found.map((soundClass, number) => this.option(soundClass, number));
    if (found.length === 0) rows.push(hint("No class of this name."));
    if (numHidden) rows.push(hint(`${numHidden} more: type a part of the name.`));
    this.list.replaceChildren(...rows);
    this.list.scrollTop = 0;
    if (this.list.hidden && NARROW.matches) this.input.scrollIntoView({ block: "start" }); // room for the list
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.setActive(found.length ? 0 : -1);
  }

  option(soundClass, number) {
    const title = soundClass.isNew ? `Add “${soundClass.name}” as a new class` : soundClass.display_name;
    const option = make("li", { id: `result-${number}` }, make("span", { className: "result-name", text: title }));
    option.setAttribute("role", "option");
    if (soundClass.path.length) option.append(make("span", { className: "path", text: soundClass.path.join(" › ") }));
    if (this.isChosen(soundClass.name)) option.classList.add("is-chosen");
    option.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    option.addEventListener("click", () => this.choose(number));
    return option;
  }

  close() {
    this.input.value = "";
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.setActive(-1);
  }

  setActive(number) {
    this.active = number;
    const options = [...this.list.querySelectorAll("[role=option]")];
    options.forEach((option, each) => option.setAttribute("aria-selected", String(each === number)));
    if (number < 0) {
      this.input.removeAttribute("aria-activedescendant");
      return;
    }
    this.input.setAttribute("aria-activedescendant", options[number].id);
    options[number].scrollIntoView({ block: "nearest" });
  }

  choose(number) {
    const soundClass = this.found[number];
    if (!soundClass) return;
    this.tell(soundClass);
    this.close();
    this.leave();
  }

  onKey(event) {
    const last = this.found.length - 1;
    if (event.isComposing || this.list.hidden) return;
    if (event.key === "ArrowDown") this.setActive(this.active >= last ? Math.min(0, last) : this.active + 1);
    else if (event.key === "ArrowUp") this.setActive(this.active <= 0 ? last : this.active - 1);
    else if (event.key === "Enter") this.choose(this.active);
    else if (event.key === "Escape") this.leave();
    else return;
    event.preventDefault();
  }
}

function hint(text) {
  const row = make("li", { className: "hint", text });
  row.setAttribute("role", "presentation");
  return row;
}
