// Lists the sections that hold every word typed, those with all of them in the title first.
// SECTIONS comes from sections.js: [{address, page, title, text}].
const { root } = document.currentScript.dataset;
const form = document.querySelector("[role=search]");
const found = document.getElementById("found");
const MOST = 30;
const AROUND = 80; // characters shown on each side of the first hit

function search() {
  const words = form.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return found.replaceChildren();
  const holds = (text) => words.every((word) => text.toLowerCase().includes(word));
  const hits = SECTIONS.filter(({ title, text }) => holds(`${title} ${text}`));
  hits.sort((a, b) => holds(b.title) - holds(a.title));
  const count = document.createElement("p");
  count.textContent = `${hits.length} of ${SECTIONS.length} sections`;
  found.replaceChildren(count, ...hits.slice(0, MOST).map((hit) => entry(hit, words[0])));
}

function entry({ address, page, title, text }, word) {
  const link = document.createElement("a");
  link.href = root + address;
  link.textContent = page === title ? page : `${page}: ${title}`;
  const at = Math.max(0, text.toLowerCase().indexOf(word));
  const node = document.createElement("p");
  node.append(link, " ", text.slice(Math.max(0, at - AROUND), at + AROUND));
  return node;
}

form.addEventListener("input", search);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  found.querySelector("a")?.click();
});
