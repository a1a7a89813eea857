// What the widgets share: elements, controls bound to traits, keys.

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && !name.startsWith("aria") && name !== "role") node[name] = value;
    else node.setAttribute(name, value);
  }
  // JupyterLab looks for it on the very element that has the focus, and would take the key.
  if (node.tabIndex >= 0) node.setAttribute("data-lm-suppress-shortcuts", "true");
  node.append(...children);
  return node;
}

function root(label, ...children) {
  return element("div", { className: "cxr", role: "group", "aria-label": label, tabIndex: 0 }, ...children);
}

// Traits of a model: set at once on the page, told to the kernel once a frame at most.
function connect(model) {
  const ends = [];
  let waiting = false;
  return {
    get: (trait) => model.get(trait),
    set(traits) {
      for (const [trait, value] of Object.entries(traits)) model.set(trait, value);
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        model.save_changes();
      });
    },
    send: (message, buffers) => model.send(message, undefined, buffers),
    on(names, handler) {
      for (const name of [names].flat()) {
        model.on(name, handler);
        ends.push(() => model.off(name, handler));
      }
    },
    // Calls at once, too.
    follow(traits, handler) {
      this.on([traits].flat().map((trait) => `change:${trait}`), handler);
      handler();
    },
    close: () => ends.forEach((end) => end()),
  };
}

function button(text, title, pressed, more = {}) {
  const node = element("button", { type: "button", title, ...more }, text);
  node.addEventListener("click", pressed);
  return node;
}

function toggle(state, text, trait, title) {
  const node = button(text, title, () => state.set({ [trait]: !state.get(trait) }));
  state.follow(trait, () => node.setAttribute("aria-pressed", String(state.get(trait))));
  return node;
}

function select(name, options, changed, title = "") {
  const node = element("select", { "aria-label": name, title }, ...options.map(([value, text]) => element("option", { value }, text)));
  node.addEventListener("change", () => changed(node.value));
  return { node: element("label", {}, name, node), input: node };
}

// A slider with a field for the number; `log` puts the slider on the scale of powers of ten.
function slider(state, name, trait, { min, max, step = "any", digits = 2, log = false, title = "" }) {
  const [to, from] = log ? [(v) => Math.log10(Math.max(v, min)), (v) => 10 ** v] : [Number, Number];
  const range = element("input", { type: "range", min: to(min), max: to(max), step, "aria-label": name, title });
  const number = element("input", { type: "number", min: log ? 0 : min, max, step: 10 ** -digits, "aria-label": `${name}, as a number`, title });
  range.addEventListener("input", () => state.set({ [trait]: Math.min(max, from(range.value)) }));
  number.addEventListener("change", () => {
    if (number.value !== "") state.set({ [trait]: Math.min(max, Math.max(log ? 0 : min, Number(number.value))) });
    number.value = +state.get(trait).toFixed(digits + 2);
  });
  state.follow(trait, () => {
    const value = state.get(trait);
    range.value = to(value);
    range.setAttribute("aria-valuetext", value.toFixed(digits));
    if (document.activeElement !== number) number.value = +value.toFixed(digits);
  });
  return element("label", { className: "slider", title }, element("span", {}, name), range, number);
}

// A '?' and the table of keys that it opens.
function help(keys) {
  const rows = [...keys, ["?", "shows or hides these keys"]].map(([key, text]) => element("tr", {}, element("th", { scope: "row" }, key), element("td", {}, text)));
  const panel = element("table", { className: "keys", hidden: true }, element("caption", {}, "Keys"), ...rows);
  const node = button("?", "Keys (?)", () => {
    panel.hidden = !panel.hidden;
    node.setAttribute("aria-expanded", String(!panel.hidden));
  }, { "aria-label": "Keys", "aria-expanded": "false" });
  return { node, panel };
}

// A buffer may start anywhere in a message; typed arrays want it aligned.
function aligned(view, Type) {
  return new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

// Keys go to `handle`, which returns whether it used one, unless the control with the focus wants them.
function onKeys(node, handle) {
  node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation();
    const typed = event.target.matches("select, input[type=number], input[type=search]");
    const slides = event.target.matches("input[type=range]") && /^(Arrow|Home|End|Page)/.test(event.key);
    if (!event.defaultPrevented && !typed && !slides && handle(event)) event.preventDefault();
  });
}
