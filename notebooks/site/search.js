// Lists the sections that hold every word typed, at the start of a word: those with all of them whole
// come first, then those with them in the title. The words found are marked.
// SECTIONS comes from sections.js: [{address, page, title, text}].
const { root } = document.currentScript.dataset;
const form = document.querySelector("[role=search]");
const found = document.getElementById("found");
const MOST = 30;
const AROUND = 80; // characters shown on each side of the first hit, more where a word goes on
const PART = "[\\p{L}\\p{N}_]";

const quoted = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const begins = (word) => new RegExp(`(?<!${PART})${quoted(word)}${PART}*`, "giu");
const whole = (word) => new RegExp(`(?<!${PART})${quoted(word)}(?!${PART})`, "iu");

function search() {
  const words = form.words.value.split(/\s+/).filter(Boolean);
  if (!words.length) return found.replaceChildren();
  const holds = (text, how) => words.every((word) => text.search(how(word)) >= 0);
  const hits = SECTIONS.filter(({ title, text }) => holds(`${title} ${text}`, begins));
  const rank = ({ title, text }) => 2 * holds(`${title} ${text}`, whole) + holds(title, begins);
  hits.sort((a, b) => rank(b) - rank(a));
  const count = document.createElement("p");
  count.textContent = `${hits.length} of ${SECTIONS.length} sections`;
  found.replaceChildren(count, ...hits.slice(0, MOST).map((hit) => entry(hit, words)));
}

function entry({ address, page, title, text }, words) {
  const link = document.createElement("a");
  link.href = root + address;
  link.append(...marked(page === title ? page : `${page}: ${title}`, words));
  const at = Math.max(0, text.search(begins(words[0])));
  const start = text.lastIndexOf(" ", Math.max(0, at - AROUND)) + 1;
  const end = text.indexOf(" ", at + AROUND);
  const node = document.createElement("p");
  node.append(link, " ", ...marked(text.slice(start, end < 0 ? undefined : end), words));
  return node;
}

function marked(text, words) {
  const any = new RegExp(`(${words.map((word) => begins(word).source).join("|")})`, "giu");
  return text.split(any).map((piece, i) => {
    if (i % 2 === 0) return piece;
    const mark = document.createElement("mark");
    mark.textContent = piece;
    return mark;
  });
}

form.addEventListener("input", search);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  found.querySelector("a")?.click();
});
