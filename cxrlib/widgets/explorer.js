const POSITIVE = "#d55e00";
const NEGATIVE = "#0072b2";
const BINS = 20;

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// How many of the ascending `scores` are at or above `threshold`.
function atLeast(scores, threshold) {
  let [low, high] = [0, scores.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (scores[middle] < threshold) low = middle + 1;
    else high = middle;
  }
  return scores.length - low;
}

// As Explorer.numbers in Python: a test holds the two together.
function measure(positive, negative, threshold, prevalence) {
  const [tp, fp] = [atLeast(positive, threshold), atLeast(negative, threshold)];
  const [fn, tn] = [positive.length - tp, negative.length - fp];
  const [sensitivity, specificity] = [tp / (tp + fn), tn / (tn + fp)];
  const [found, missed] = [prevalence * sensitivity, prevalence * (1 - sensitivity)];
  const [alarms, cleared] = [(1 - prevalence) * (1 - specificity), (1 - prevalence) * specificity];
  return {
    ...{ tp, fp, fn, tn, sensitivity, specificity },
    ppv: found / (found + alarms), // NaN where no film is called positive
    npv: cleared / (cleared + missed),
    "false alarms per 100": 100 * alarms,
    "missed per 100": 100 * missed,
  };
}

function frame(title, xName, yName, yTop) {
  const [x, y] = [(v) => 40 + 230 * v, (v) => 220 - 200 * v];
  const plot = svg("svg", { width: 290, height: 262, viewBox: "0 0 290 262", role: "img", "aria-label": title });
  plot.append(svg("path", { d: `M${x(0)} ${y(1)}V${y(0)}H${x(1)}`, fill: "none", stroke: "#333" }));
  for (const v of [0, 0.5, 1]) {
    plot.append(svg("text", { x: x(v), y: 235, "text-anchor": "middle" }, String(v)));
    plot.append(svg("text", { x: 34, y: y(v) + 4, "text-anchor": "end" }, String(v * yTop)));
  }
  plot.append(svg("text", { x: x(0.5), y: 254, "text-anchor": "middle" }, xName));
  plot.append(svg("text", { x: 40, y: 12 }, yName));
  return { plot, x, y };
}

function histogram(positive, negative) {
  const counts = [negative, positive].map((scores) => {
    const bins = new Array(BINS).fill(0);
    for (const score of scores) bins[Math.min(BINS - 1, Math.floor(score * BINS))]++;
    return bins;
  });
  const highest = Math.max(...counts.flat());
  const top = 2 * Math.ceil(highest / 2);
  const { plot, x, y } = frame("Histogram of probabilities by label", "probability of the finding", "radiographs", top);
  const stripes = svg("pattern", { id: "cxr-stripes", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { width: 5, height: 5, fill: POSITIVE }), svg("rect", { width: 1.4, height: 5, fill: "#fff" }));
  plot.append(svg("defs", {}, stripes));
  [[NEGATIVE, "labelled negative"], ["url(#cxr-stripes)", "labelled positive"]].forEach(([fill, name], side) => {
    counts[side].forEach((count, bin) => {
      const height = (200 * count) / top;
      plot.append(svg("rect", { x: x(bin / BINS), y: y(0) - height, width: 11, height, fill, "fill-opacity": 0.65 }));
    });
    plot.append(svg("rect", { x: 150, y: 22 + 16 * side, width: 11, height: 11, fill, "fill-opacity": 0.65 }));
    plot.append(svg("text", { x: 166, y: 32 + 16 * side }, name));
  });
  const line = svg("line", { y1: y(0), y2: y(1), stroke: "#000", "stroke-dasharray": "5 3", "stroke-width": 1.5 });
  plot.append(line);
  return { plot, move: (t) => ["x1", "x2"].forEach((end) => line.setAttribute(end, x(t))) };
}

function rocCurve(positive, negative) {
  const { plot, x, y } = frame("ROC curve", "1 - specificity", "sensitivity", 1);
  const scores = [...new Set([...positive, ...negative])].sort((a, b) => b - a);
  const step = Math.max(1, Math.floor(scores.length / 1000)); // pixels hold no more
  let path = `M${x(0)} ${y(0)}`;
  for (let i = 0; i < scores.length; i += step) {
    const [false_, true_] = [atLeast(negative, scores[i]) / negative.length, atLeast(positive, scores[i]) / positive.length];
    path += `L${x(false_)} ${y(true_)}`;
  }
  plot.append(svg("path", { d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}`, stroke: "#999" }));
  plot.append(svg("path", { d: `${path}L${x(1)} ${y(1)}`, fill: "none", stroke: NEGATIVE, "stroke-width": 2 }));
  const point = svg("circle", { r: 6, fill: POSITIVE, stroke: "#fff" });
  plot.append(point);
  return {
    plot,
    move(numbers) {
      point.setAttribute("cx", x(1 - numbers.specificity));
      point.setAttribute("cy", y(numbers.sensitivity));
    },
  };
}

function render({ model, el }) {
  let scores = null;
  const cell = (name) => element("td", { "data-number": name });
  const head = (name, scope = "row") => element("th", { scope }, name);
  const finding = model.get("finding");
  const confusion = element(
    "table",
    {},
    element("caption", {}, "Radiographs by label and decision"),
    element("tr", {}, head("label", "col"), head("called negative", "col"), head("called positive", "col")),
    element("tr", {}, head("without"), cell("tn"), cell("fp")),
    element("tr", {}, head(finding), cell("fn"), cell("tp")),
  );
  const names = ["sensitivity", "specificity", "ppv", "npv", "false alarms per 100", "missed per 100"];
  const shown = { ppv: "PPV", npv: "NPV", "false alarms per 100": "false alarms per 100 radiographs", "missed per 100": "missed per 100 radiographs" };
  const shares = element("table", {}, element("caption", {}, "At this threshold and prevalence"),
    ...names.map((name) => element("tr", {}, head(shown[name] ?? name), cell(name))));
  const plots = element("div", { className: "columns" });

  let saving = false;
  function changed(trait, value) {
    model.set(trait, value);
    update();
    if (saving) return; // the kernel hears of it once a frame at most
    saving = true;
    requestAnimationFrame(() => {
      saving = false;
      model.save_changes();
    });
  }
  const threshold = slider("Threshold", [0, 1, "any", model.get("threshold")], (v) => changed("threshold", v), 3);
  const prevalence = slider("Prevalence", [0, 1, "any", model.get("prevalence")], (v) => changed("prevalence", v), 3);
  const node = root("Operating point", element("div", {}, threshold.node, prevalence.node), plots,
    element("div", { className: "columns" }, confusion, shares), element("div", { className: "caption" }, model.get("films")));
  const cells = [...node.querySelectorAll("[data-number]")];
  let figures = null;

  function update() {
    if (!scores) return;
    const [t, p] = [model.get("threshold"), model.get("prevalence")];
    const numbers = measure(...scores, t, p);
    for (const one of cells) {
      const value = numbers[one.dataset.number];
      one.dataset.value = value;
      const digits = Number.isInteger(value) && one.closest("table") === confusion ? 0 : one.dataset.number.includes("100") ? 1 : 3;
      one.textContent = Number.isNaN(value) ? "undefined" : value.toFixed(digits);
    }
    figures[0].move(t);
    figures[1].move(numbers);
  }
  function follow() {
    threshold.set(model.get("threshold"));
    prevalence.set(model.get("prevalence"));
    update();
  }
  function receive(answer, buffers) {
    if (scores || answer.kind !== "scores") return;
    scores = buffers.map((buffer) => aligned(buffer, Float64Array));
    figures = [histogram(...scores), rocCurve(...scores)];
    plots.append(...figures.map((figure) => figure.plot));
    update();
  }
  model.on("msg:custom", receive);
  model.on("change:threshold", follow);
  model.on("change:prevalence", follow);
  el.append(node);
  model.send({ kind: "scores" });
  return () => {
    model.off("msg:custom", receive);
    model.off("change:threshold", follow);
    model.off("change:prevalence", follow);
  };
}
export default { render };
