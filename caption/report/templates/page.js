"use strict";
// Everything that is shown stands in the page already: this only hides, moves and copies it.

const one = (selector, inside = document) => inside.querySelector(selector);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// ---- colours ----

const THEMES = ["auto", "light", "dark"];
const themeButton = one("#theme");

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeButton.textContent = theme[0].toUpperCase() + theme.slice(1);
  themeButton.setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system has them" : theme}`);
}

function storedTheme() {
  try {
    return THEMES.includes(localStorage.captionTheme) ? localStorage.captionTheme : "auto";
  } catch {
    return "auto"; // a page from disk may have no storage
  }
}

let theme = storedTheme();
showTheme(theme);

function nextTheme() {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  showTheme(theme);
  try {
    localStorage.captionTheme = theme;
  } catch { /* it lasts as long as the page */ }
}

themeButton.addEventListener("click", nextTheme);

// ---- charts: what stands where one points ----

for (const plot of all(".plot")) {
  const points = JSON.parse(plot.dataset.points);
  const said = one(".said", plot.closest(".chart"));
  const cursor = one(".cursor", plot);
  plot.addEventListener("pointermove", (event) => {
    if (!points.length) return;
    const box = plot.getBoundingClientRect();
    const at = (100 * (event.clientX - box.left)) / box.width;
    const [x, words] = points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
    cursor.style.left = `${x}%`;
    cursor.hidden = false;
    said.textContent = words;
  });
  plot.addEventListener("pointerleave", () => {
    cursor.hidden = true;
    said.textContent = "";
  });
}

// ---- gallery: filter, search, order ----

const cards = all(".card").map((element) => ({
  element,
  sets: JSON.parse(element.dataset.sets),
  words: element.textContent.toLowerCase(),
}));
const search = one("#search");
const order = one("#order");
const FIRST = 48; // cards that are shown before one asks for the rest
let chosen = "";
let limit = FIRST;
let visible = cards; // those that fit, also the ones beyond the limit

function refresh() {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  visible = cards.filter(
    (card) => (!chosen || card.sets.includes(chosen)) && wanted.every((word) => card.words.includes(word)),
  );
  limit = FIRST;
  for (const button of all(".filters button")) button.setAttribute("aria-pressed", button.dataset.set === chosen);
  one("#shown").textContent = `${visible.length} of ${cards.length} fit`;
  one("#none").hidden = visible.length > 0;
  for (const card of cards) card.element.tabIndex = -1;
  if (visible.length) visible[0].element.tabIndex = 0;
  showUpTo(FIRST);
}

function showUpTo(count) {
  limit = count;
  const shown = new Set(visible.slice(0, limit));
  for (const card of cards) card.element.hidden = !shown.has(card);
  one("#all").hidden = visible.length <= limit;
  one("#all").textContent = `Show all ${visible.length}`;
}

function choose(name) {
  chosen = name;
  refresh();
}

function sortCards() {
  const by = (card) => Number(card.element.dataset[order.value]);
  cards.sort((first, second) => by(second) - by(first));
  one(".cards").append(...cards.map((card) => card.element));
  refresh();
}

if (search) {
  for (const button of all("button[data-set]")) {
    button.addEventListener("click", () => {
      choose(button.dataset.set);
      if (!button.closest(".filters")) one("#gallery").scrollIntoView();
    });
  }
  search.addEventListener("input", refresh);
  if (order) order.addEventListener("change", sortCards);
  one("#all").addEventListener("click", () => showUpTo(visible.length));
  refresh();
}

// ---- one image in full ----

const viewer = one("#viewer");
const body = one("#viewer-body");

let current = null;

function place() {
  return visible.findIndex((card) => card.element === current);
}

function open(element) {
  current = element;
  const copies = [...element.children].map((child) => child.cloneNode(true));
  for (const copy of copies) {
    for (const part of [copy, ...all("[hidden]", copy)]) part.hidden = false;
  }
  body.replaceChildren(...copies);
  one("#viewer-place").textContent = `${place() + 1} of ${visible.length}`;
  if (!viewer.open) viewer.showModal();
  viewer.scrollTop = 0;
}

function focusCard(index) {
  if (!visible.length) return;
  const at = Math.min(Math.max(index, 0), visible.length - 1);
  const { element } = visible[at];
  if (at >= limit) showUpTo(visible.length);
  for (const card of visible) card.element.tabIndex = -1;
  element.tabIndex = 0;
  current = element;
  if (viewer.open) open(element);
  else element.focus();
}

function step(by) {
  const at = place();
  focusCard(at < 0 ? 0 : at + by);
}

viewer.addEventListener("close", () => current?.focus());
viewer.addEventListener("click", (event) => {
  if (event.target === viewer || event.target.closest("[data-close]")) viewer.close();
  const move = event.target.closest("[data-step]");
  if (move) step(Number(move.dataset.step));
});
for (const { element } of cards) {
  element.addEventListener("click", () => {
    if (!String(getSelection())) open(element);
  });
  element.addEventListener("focus", () => (current = element));
}

// ---- keys ----

function columns() {
  const tops = visible.slice(0, limit).map((card) => card.element.offsetTop);
  const first = tops.findIndex((top) => top !== tops[0]);
  return first < 0 ? tops.length : first;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const onCard = document.activeElement?.closest(".card") || viewer.open;
  const moves = { ArrowLeft: -1, k: -1, ArrowRight: 1, j: 1, ArrowUp: -columns(), ArrowDown: columns() };
  if (event.key === "/" && search && !viewer.open) search.focus();
  else if (event.key === "t") nextTheme();
  else if (event.key === "Enter" && document.activeElement?.matches(".card")) open(document.activeElement);
  else if (event.key in moves && cards.length && (onCard || event.key === "j" || event.key === "k")) {
    if (viewer.open && event.key.startsWith("Arrow") && !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    step(moves[event.key]);
  } else return;
  event.preventDefault();
});
