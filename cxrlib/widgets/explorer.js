const POSITIVE = "var(--positive)";
const NEGATIVE = "var(--negative)";

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
    "net benefit": threshold < 1 ? found - (alarms * threshold) / (1 - threshold) : NaN,
  };
}

function frame(title, xName, yName, [low, high] = [0, 1], digits = 1) {
  const [x, y] = [(v) => 44 + 226 * v, (v) => 220 - (200 * (v - low)) / (high - low)];
  const plot = svg("svg", { width: 290, height: 262, viewBox: "0 0 290 262", role: "img", "aria-label": title });
  plot.append(svg("path", { d: `M${x(0)} ${y(high)}V${y(low)}H${x(1)}`, fill: "none", stroke: "var(--faint)" }));
  for (const v of [0, 0.5, 1]) plot.append(svg("text", { x: x(v), y: 235, "text-anchor": "middle" }, String(v)));
  for (const v of low < 0 ? [0, high] : [0, high / 2, high]) plot.append(svg("text", { x: 38, y: y(v) + 4, "text-anchor": "end" }, v ? v.toFixed(digits) : "0"));
  plot.append(svg("text", { x: x(0.5), y: 254, "text-anchor": "middle" }, xName), svg("text", { x: 4, y: 12 }, yName));
  return { plot, x, y };
}

function legend(plot, ...rows) {
  plot.append(svg("rect", { x: 146, y: 18, width: 140, height: 4 + 16 * rows.length, fill: "var(--paper)", "fill-opacity": 0.8 }));
  rows.forEach(([name, sample], row) => {
    sample.setAttribute("transform", `translate(150 ${22 + 16 * row})`);
    plot.append(sample, svg("text", { x: 168, y: 32 + 16 * row }, name));
  });
}

const dash = (style) => svg("path", { d: "M0 6H14", "stroke-width": 2, ...style });
const upright = (plot, x) => plot.append(svg("line", { x1: x, x2: x, y1: 20, y2: 220, stroke: "var(--ink)", "stroke-dasharray": "5 3", "stroke-width": 1.5 }));

// Bins as those of `plot_scores`: one twentieth wide, and one ends at the threshold.
function histogram([positive, negative], id) {
  const node = element("div");
  const binned = (scores, edges) => edges.slice(1).map((edge, i) => atLeast(scores, edges[i]) - (edge < 1 ? atLeast(scores, edge) : 0));
  return {
    node,
    move({ threshold }) {
      const edges = [...new Set(Array.from({ length: 41 }, (_, k) => Math.min(1, Math.max(0, threshold + (k - 20) / 20))))];
      const counts = [negative, positive].map((scores) => binned(scores, edges));
      const top = 2 * Math.ceil(Math.max(...counts.flat()) / 2);
      const { plot, x, y } = frame("Histogram of probabilities by label", "probability of the finding", "radiographs", [0, top], 0);
      plot.append(svg("defs", {}, svg("pattern", { id, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        svg("rect", { width: 5, height: 5, fill: POSITIVE }), svg("rect", { width: 1.4, height: 5, fill: "#fff" }))));
      const bars = [[NEGATIVE, "labelled negative"], [`url(#${id})`, "labelled positive"]];
      bars.forEach(([fill, name], label) => {
        counts[label].forEach((count, bin) => {
          const [left, right] = [x(edges[bin]), x(edges[bin + 1])];
          const bar = { x: left, y: y(count), width: Math.max(0, right - left - 0.5), height: y(0) - y(count), fill, "fill-opacity": 0.65 };
          plot.append(svg("rect", { ...bar, "data-label": label, "data-count": count }, svg("title", {}, `${count} ${name}`)));
        });
      });
      upright(plot, x(threshold));
      legend(plot, ...bars.map(([fill, name]) => [name, svg("rect", { width: 11, height: 11, fill, "fill-opacity": 0.65 })]));
      node.replaceChildren(plot);
    },
  };
}

function rocCurve([positive, negative]) {
  const { plot, x, y } = frame("ROC curve", "1 - specificity", "sensitivity");
  const scores = [...new Set([...positive, ...negative])].sort((a, b) => b - a);
  const step = Math.max(1, Math.floor(scores.length / 1000)); // pixels hold no more
  let path = `M${x(0)} ${y(0)}`;
  for (let i = 0; i < scores.length; i += step) {
    const [false_, true_] = [atLeast(negative, scores[i]) / negative.length, atLeast(positive, scores[i]) / positive.length];
    path += `L${x(false_)} ${y(true_)}`;
  }
  plot.append(svg("path", { d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}`, stroke: "var(--edge)" }));
  plot.append(svg("path", { d: `${path}L${x(1)} ${y(1)}`, fill: "none", stroke: NEGATIVE, "stroke-width": 2 }));
  const point = svg("circle", { r: 6, fill: POSITIVE, stroke: "#fff" });
  plot.append(point);
  return {
    node: element("div", {}, plot),
    move(_, numbers) {
      point.setAttribute("cx", x(1 - numbers.specificity));
      point.setAttribute("cy", y(numbers.sensitivity));
    },
  };
}

// Net benefit over the threshold, at the prevalence chosen (Vickers and Elkin 2006).
function decisionCurve(scores, id) {
  const node = element("div");
  const thresholds = Array.from({ length: 99 }, (_, i) => (i + 1) / 100);
  return {
    node,
    move({ threshold, prevalence }) {
      const top = 1.05 * Math.max(prevalence, 0.001);
      const { plot, x, y } = frame("Decision curve", "threshold probability", "net benefit per radiograph", [-0.2 * top, top], top < 0.1 ? 3 : 2);
      plot.append(svg("defs", {}, svg("clipPath", { id }, svg("rect", { x: x(0), y: 20, width: 226, height: 200 }))));
      const curve = (benefit, style) => {
        const d = thresholds.map((t, i) => `${i ? "L" : "M"}${x(t)} ${y(benefit(t))}`).join("");
        plot.append(svg("path", { d, fill: "none", "stroke-width": 2, "clip-path": `url(#${id})`, ...style }));
      };
      const model = { stroke: NEGATIVE };
      const all = { stroke: POSITIVE, "stroke-dasharray": "6 4" };
      const none = { stroke: "var(--faint)", "stroke-dasharray": "1 3" };
      curve((t) => measure(...scores, t, prevalence)["net benefit"], model);
      curve((t) => prevalence - ((1 - prevalence) * t) / (1 - t), all);
      curve(() => 0, none);
      upright(plot, x(threshold));
      legend(plot, ["by the scores", dash(model)], ["everyone", dash(all)], ["no one", dash(none)]);
      node.replaceChildren(plot);
    },
  };
}

function render({ model, el }) {
  const state = connect(model);
  const finding = state.get("finding");
  const id = `cxr-${Math.random().toString(36).slice(2)}`; // ids hold for a whole page
  let scores = null;
  let figures = [];
  const cell = (name) => element("td", { "data-number": name });
  const head = (name, scope = "row") => element("th", { scope }, name);
  const confusion = element("table", {},
    element("caption", {}, "Radiographs by label and decision"),
    element("tr", {}, head("label", "col"), head("called negative", "col"), head("called positive", "col")),
    element("tr", {}, head("without"), cell("tn"), cell("fp")),
    element("tr", {}, head(finding), cell("fn"), cell("tp")));
  const names = { sensitivity: "sensitivity", specificity: "specificity", ppv: "PPV", npv: "NPV", "false alarms per 100": "false alarms per 1,000 radiographs", "missed per 100": "missed per 1,000 radiographs", "net benefit": "net benefit per radiograph" };
  const shares = element("table", {}, element("caption", {}, "At this threshold and prevalence"),
    ...Object.entries(names).map(([name, text]) => element("tr", {}, head(text), cell(name))));
  const plots = element("div", { className: "plots" });
  const keys = help([["arrows", "move the slider that has the focus"], ["Page up, Page down", "move it by a tenth"], ["Home, End", "its ends"]]);
  const sliders = element("div", { className: "sliders" },
    slider(state, "Threshold", "threshold", { min: 0, max: 1, step: 0.001, digits: 3, title: "From this probability on a radiograph is called positive" }),
    slider(state, "Prevalence", "prevalence", { min: 0.0001, max: 1, step: 0.01, digits: 4, log: true, title: "Share of radiographs with the finding; the slider is on a scale of powers of ten" }));
  const node = root("Operating point", element("div", { className: "layout explorer" }, sliders, plots,
    element("div", { className: "columns" }, confusion, shares), element("div", { className: "caption" }, `${state.get("films")} `, keys.node), keys.panel));
  onKeys(node, (event) => event.key === "?" && (keys.node.click(), true));
  const cells = [...node.querySelectorAll("[data-number]")];

  function update() {
    if (!scores) return;
    const at = { threshold: state.get("threshold"), prevalence: state.get("prevalence") };
    const numbers = measure(...scores, at.threshold, at.prevalence);
    for (const one of cells) {
      const value = numbers[one.dataset.number];
      one.dataset.value = value;
      const whole = one.closest("table") === confusion ? 1 : one.dataset.number.includes("100") ? 10 : 0; // counts are whole
      one.textContent = Number.isNaN(value) ? "undefined" : whole ? String(Math.round(whole * value)) : value.toFixed(3);
    }
    for (const figure of figures) figure.move(at, numbers);
  }
  function receive(answer, buffers) {
    if (scores || answer.kind !== "scores") return;
    scores = buffers.map((buffer) => aligned(buffer, Float64Array));
    figures = [histogram(scores, `${id}-stripes`), rocCurve(scores), decisionCurve(scores, `${id}-clip`)];
    plots.append(...figures.map((figure) => figure.node));
    update();
  }
  state.on("msg:custom", receive);
  state.follow(["threshold", "prevalence"], update);
  el.append(node);
  state.send({ kind: "scores" });
  return () => state.close();
}
export default { render };
