// A view of one film, or of two that move together: window, level, zoom, boxes, map and calipers.

const PRESETS = { default: [1, 0.5, false], "soft tissue": [0.5, 0.75, false], bone: [0.6, 0.55, false], inverted: [1, 0.5, true] };
const COLOURS = ["#f0e442", "#56b4e9", "#e69f00", "#cc79a7", "#2fc79b", "#ff8a5c", "#9bc1ff"]; // of findings
const LINES = { heart: "#ff9d3c", chest: "#6cc5ff" };
const [LEAST, MOST] = [0.25, 16]; // zoom
const KEYS = [
  ["+ and -", "zoom in and out"],
  ["0", "fit the radiograph into the view"],
  ["1", "one pixel of the picture on one pixel of the screen"],
  ["Shift with an arrow", "move the radiograph"],
  ["w", "dragging moves, or sets window (across) and level (down); the right button always sets them"],
  ["i", "invert"],
  ["r", "reset window, level, inversion and zoom"],
  ["m", "lines for heart and chest"],
  ["f", "full screen"],
];
const ZOOM_KEYS = { "+": 1.2, "=": 1.2, "-": 1 / 1.2 };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const between = (low, value, high) => Math.min(high, Math.max(low, value));

// One canvas: grey values of 16 bits through window and level, and what lies on them.
function pane(state, className) {
  const canvas = element("canvas", { className, tabIndex: 0, role: "img", "aria-label": "no radiograph" });
  const windowed = element("canvas");
  let film = null;
  let drawn = null; // what `windowed` holds

  // Device pixels per side of the film, and where the film begins.
  function place() {
    const { width, height } = canvas;
    const zoom = state.get("zoom");
    const scale = Math.min(width, height) * zoom;
    const centre = state.get("centre").map((at, axis) => {
      const half = [width, height][axis] / scale / 2;
      return half >= 0.5 ? 0.5 : between(half, at, 1 - half);
    });
    return { scale, centre, left: width / 2 - centre[0] * scale, top: height / 2 - centre[1] * scale };
  }
  function applyWindow() {
    const [width, level, invert] = ["window", "level", "invert"].map(state.get);
    const wanted = [film.pixels, width, level, invert];
    if (drawn && wanted.every((value, i) => value === drawn[i])) return;
    drawn = wanted;
    windowed.width = windowed.height = film.side;
    const context = windowed.getContext("2d");
    const image = context.createImageData(film.side, film.side);
    const words = new Uint32Array(image.data.buffer);
    const table = new Uint32Array(65536);
    for (let i = 0; i < 65536; i++) {
      const grey = between(0, (i / 65535 - level) / width + 0.5, 1);
      const byte = Math.round(255 * (invert ? 1 - grey : grey));
      table[i] = 0xff000000 | (byte << 16) | (byte << 8) | byte;
    }
    for (let i = 0; i < film.pixels.length; i++) words[i] = table[film.pixels[i]];
    context.putImageData(image, 0, 0);
  }
  function text(context, words, x, y, colour, middle = false) {
    const size = 13 * devicePixelRatio;
    context.font = `600 ${size}px system-ui, sans-serif`;
    if (middle) x -= context.measureText(words).width / 2;
    context.fillStyle = "rgba(0, 0, 0, 0.6)";
    context.fillRect(x, y, context.measureText(words).width + size / 2, 1.4 * size);
    context.fillStyle = colour;
    context.fillText(words, x + size / 4, y + 1.05 * size);
  }
  function drawBoxes(context, { scale, left, top }) {
    context.globalAlpha = state.get("box_opacity");
    context.lineWidth = 2 * devicePixelRatio;
    if (!context.globalAlpha) return;
    for (const { label, colour, x, y, width, height } of film.boxes) {
      context.strokeStyle = COLOURS[colour % COLOURS.length];
      context.strokeRect(left + x * scale, top + y * scale, width * scale, height * scale);
      text(context, label, left + x * scale + context.lineWidth, top + y * scale + context.lineWidth, context.strokeStyle);
    }
    context.globalAlpha = 1;
  }
  // A bar with ends, dark around it so that it stands out on bone, too.
  function drawLines(context, { scale, left, top }) {
    for (const [name, colour] of Object.entries(LINES)) {
      const [from, to, height] = state.get(name).map((at, i) => (i < 2 ? left : top) + at * scale);
      const tip = 7 * devicePixelRatio;
      for (const [style, width] of [["#000", 4], [colour, 2]]) {
        context.strokeStyle = style;
        context.lineWidth = width * devicePixelRatio;
        context.beginPath();
        for (const x of [from, to]) {
          context.moveTo(x, height - tip);
          context.lineTo(x, height + tip);
        }
        context.moveTo(from, height);
        context.lineTo(to, height);
        context.stroke();
      }
      text(context, lengthOf(state, name, film), (from + to) / 2, height + tip / 2, colour, true);
    }
  }
  return {
    canvas,
    place,
    show(next) {
      film = next;
      canvas.setAttribute("aria-label", next ? next.label : "no radiograph");
    },
    get film() {
      return film;
    },
    draw(drawMap, measuring) {
      const context = canvas.getContext("2d");
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
      canvas.dataset.film = film ? film.name : "";
      if (!film || !canvas.width) return;
      applyWindow();
      const at = place();
      const sharp = at.scale >= 2 * film.side; // single pixels are to be seen
      context.imageSmoothingEnabled = !sharp;
      context.imageSmoothingQuality = "high";
      context.setTransform(at.scale, 0, 0, at.scale, at.left, at.top);
      context.drawImage(windowed, 0, 0, 1, 1);
      context.imageSmoothingEnabled = true;
      drawMap?.(context, film);
      context.setTransform(1, 0, 0, 1, 0, 0);
      drawBoxes(context, at);
      if (measuring) drawLines(context, at);
    },
    // Where a point of the page lies on the film, 0..1.
    toFilm(event) {
      const shown = canvas.getBoundingClientRect();
      const { scale, left, top } = place();
      const ratio = canvas.width / shown.width;
      return [((event.clientX - shown.left) * ratio - left) / scale, ((event.clientY - shown.top) * ratio - top) / scale];
    },
    // Where a point of the film lies on the canvas, in CSS pixels.
    toPage([x, y]) {
      const { scale, left, top } = place();
      const ratio = canvas.clientWidth / canvas.width;
      return [(left + x * scale) * ratio, (top + y * scale) * ratio];
    },
  };
}

const widthOf = (state, name) => Math.abs(state.get(name)[1] - state.get(name)[0]);

function lengthOf(state, name, film) {
  return film?.millimetres ? `${name} ${(widthOf(state, name) * film.millimetres).toFixed(0)} mm` : name;
}

// Ends of the two lines as elements of the page: they take fingers and keys, and show the focus.
function calipers(state, view) {
  const handles = Object.keys(LINES).flatMap((name) => [0, 1].map((end) => {
    const node = element("button", { type: "button", className: `handle ${name}`, role: "slider", "aria-label": `${name}, ${end ? "right" : "left"} end`, "aria-valuemin": 0, "aria-valuemax": 1, title: "Drag it, or use the arrow keys" });
    const put = (x, y) => {
      const line = [...state.get(name)];
      line[end] = +between(0, x, 1).toFixed(4);
      line[2] = +between(0, y, 1).toFixed(4);
      state.set({ [name]: line });
    };
    node.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      node.setPointerCapture(event.pointerId);
    });
    node.addEventListener("pointermove", (event) => {
      if (node.hasPointerCapture(event.pointerId)) put(...view.toFilm(event));
    });
    node.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key];
      if (!step) return;
      event.preventDefault();
      const by = event.shiftKey ? 0.02 : 0.002;
      put(state.get(name)[end] + by * step[0], state.get(name)[2] + by * step[1]);
    });
    return { node, name, end };
  }));
  return {
    nodes: handles.map(({ node }) => node),
    move() {
      for (const { node, name, end } of handles) {
        const line = state.get(name);
        const [x, y] = view.toPage([line[end], line[2]]);
        const seen = x >= 0 && y >= 0 && x <= view.canvas.clientWidth && y <= view.canvas.clientHeight;
        node.hidden = !state.get("measuring") || !seen || !view.film;
        node.style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
        node.setAttribute("aria-valuenow", line[end]);
      }
    },
  };
}

// `about` has finding(), and may have boxes, evidence and compare; `more` are controls beside the others.
function filmView(state, about, ...more) {
  const view = pane(state, "present");
  const earlier = pane(state, "earlier");
  const panes = [view, earlier];
  const ends = calipers(state, view);
  const map = element("canvas");
  const legend = element("div", { className: "legend", hidden: true });
  const measured = element("div", { className: "measured", role: "status", hidden: true });
  const note = element("div", { className: "note" });
  let waiting = false;

  const twice = () => Boolean(about.compare && state.get("compare"));
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      view.draw(about.evidence ? drawMap : null, state.get("measuring"));
      if (twice()) earlier.draw();
      ends.move();
      const whole = state.get("zoom") <= 1 && state.get("tool") === "move";
      for (const { canvas } of panes) canvas.style.touchAction = whole ? "pan-y" : "none"; // so that a page can be scrolled
    });
  }
  // Interpolated, on a film of less contrast, so that a dark place does not look like a strong one.
  function drawMap(context, { evidence }) {
    const opacity = state.get("map_opacity");
    legend.hidden = !(evidence && opacity > 0);
    if (legend.hidden) return;
    map.width = map.height = Math.sqrt(evidence.length);
    const image = map.getContext("2d").createImageData(map.width, map.height);
    evidence.forEach((value, i) => {
      image.data.set(value > 0 ? [178, 24, 43] : [33, 102, 172], 4 * i);
      image.data[4 * i + 3] = between(0, (255 * Math.abs(value) * evidence.length) / 100 / EVIDENCE, 255);
    });
    map.getContext("2d").putImageData(image, 0, 0);
    context.globalAlpha = 0.5 * opacity;
    context.fillStyle = "#808080";
    context.fillRect(0, 0, 1, 1);
    context.globalAlpha = opacity;
    context.drawImage(map, 0, 0, 1, 1);
    context.globalAlpha = 1;
    legend.replaceChildren(`against ${about.finding()} -${EVIDENCE}`, element("span", { className: "scale" }), `+${EVIDENCE} logits per 1 % of the image for it`);
  }
  function look(zoom, centre = state.get("centre")) {
    state.set({ zoom: +between(LEAST, zoom, MOST).toFixed(3), centre });
    state.set({ centre: view.place().centre });
  }
  // The point of the film stays where it is on the screen.
  function zoomAt(by, point) {
    const now = state.get("zoom");
    const next = between(LEAST, now * by, MOST);
    const { centre } = view.place();
    look(next, centre.map((at, i) => point[i] + ((at - point[i]) * now) / next));
  }
  const fit = () => look(1, [0.5, 0.5]);
  const toPixels = () => view.film && look(view.film.side / Math.min(view.canvas.width, view.canvas.height));
  function preset(name) {
    const [width, level, invert] = PRESETS[name];
    state.set({ window: width, level, invert });
  }
  const reset = () => (preset("default"), fit());
  const node = element("div", { className: "film" });
  function fullScreen() {
    if (document.fullscreenElement) return document.exitFullscreen();
    // Frames of some editors do not allow it: the widget then fills the frame.
    const larger = () => node.classList.toggle("larger");
    return node.requestFullscreen ? node.requestFullscreen().catch(larger) : larger();
  }

  // Pointers: one moves or windows, two pinch.
  function listen(one) {
    const { canvas } = one;
    const pointers = new Map();
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", (event) => (state.get("zoom") === 1 ? zoomAt(2, one.toFilm(event)) : fit()));
    canvas.addEventListener("wheel", (event) => {
      // Without the focus the wheel scrolls the page.
      if (canvas.getRootNode().activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      zoomAt(event.deltaY < 0 ? 1.2 : 1 / 1.2, one.toFilm(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, right: event.button === 2 });
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = { ...before, x: event.clientX, y: event.clientY };
      pointers.set(event.pointerId, now);
      const [across, down] = [now.x - before.x, now.y - before.y];
      const { scale, centre } = one.place();
      const shown = scale * (canvas.clientWidth / canvas.width);
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (!other && (before.right || state.get("tool") === "window")) {
        state.set({
          window: between(0.01, state.get("window") + across / canvas.clientWidth, 1),
          level: between(0, state.get("level") + down / canvas.clientHeight, 1),
        });
        return;
      }
      look(state.get("zoom"), [centre[0] - across / shown / (other ? 2 : 1), centre[1] - down / shown / (other ? 2 : 1)]);
      if (!other) return;
      const apart = (at) => Math.hypot(at.x - other.x, at.y - other.y);
      const middle = one.toFilm({ clientX: (now.x + other.x) / 2, clientY: (now.y + other.y) / 2 });
      zoomAt(apart(now) / Math.max(1, apart(before)), middle);
    });
    new ResizeObserver(() => {
      [canvas.width, canvas.height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * devicePixelRatio));
      redraw();
    }).observe(canvas);
  }
  panes.forEach(listen);

  const presets = select("Preset", [["", "own"], ...Object.keys(PRESETS).map((name) => [name, name])], (name) => name && preset(name), "Window and level: soft tissue for the heart and below the diaphragm, bone for ribs and clavicles");
  state.follow(["window", "level", "invert"], () => {
    const now = ["window", "level", "invert"].map(state.get);
    presets.input.value = Object.keys(PRESETS).find((name) => PRESETS[name].every((value, i) => value === now[i])) ?? "";
  });
  const drag = button("", "What dragging does (w); the right button always sets window and level", () => state.set({ tool: state.get("tool") === "move" ? "window" : "move" }));
  state.follow("tool", () => (drag.textContent = state.get("tool") === "move" ? "Drag: moves" : "Drag: window"));
  const keys = help([...(about.keys ?? []), ...KEYS]);
  const truth = button("Show the true ratio", "What the simulator made", () => state.set({ truth_shown: true }));
  state.follow(["measuring", "heart", "chest", "ratio", "truth_shown"], tell);

  function tell() {
    measured.hidden = !state.get("measuring");
    redraw();
    if (measured.hidden) return;
    const film = view.film;
    const ratio = state.get("ratio");
    if (ratio === null) return measured.replaceChildren("Drag the ends of both lines: one to the widest heart, one to the widest inner chest.");
    const lengths = film?.millimetres ? ` (${Object.keys(LINES).map((name) => lengthOf(state, name, film)).join(", ")})` : "";
    const score = Number.isFinite(film?.probability) ? ` Probability of ${about.finding()} ${film.probability.toFixed(2)}.` : "";
    const words = element("span", {}, `Cardiothoracic ratio ${ratio.toFixed(2)}${lengths}. On a PA radiograph, more than 0.50 counts as an enlarged heart.${score} `);
    const known = Number.isFinite(film?.truth);
    const answer = known && state.get("truth_shown") ? ` True ratio ${film.truth.toFixed(3)}: of the patient's heart on a standard PA radiograph.` : "";
    measured.replaceChildren(words, known && !answer ? truth : answer);
  }
  state.on(["change:window", "change:level", "change:invert", "change:zoom", "change:centre", "change:tool", "change:box_opacity", "change:map_opacity"], redraw);

  const tools = element("div", { className: "tools", role: "toolbar", "aria-label": "Radiograph" },
    drag, presets.node, toggle(state, "Invert", "invert", "Invert (i)"),
    button("Fit", "Fit into the view (0, or double click)", fit), button("1:1", "One pixel on one pixel of the screen (1)", toPixels),
    button("Reset", "Reset window, level, inversion and zoom (r)", reset),
    toggle(state, "Measure", "measuring", "Lines for heart and chest (m)"), ...more,
    button("Full screen", "Full screen (f)", fullScreen), keys.node);
  const sliders = element("div", { className: "sliders" },
    slider(state, "Window", "window", { min: 0.01, max: 1, step: 0.01, title: "Range of grey values between black and white" }),
    slider(state, "Level", "level", { min: 0, max: 1, step: 0.01, title: "Grey value in the middle of it" }),
    slider(state, "Zoom", "zoom", { min: LEAST, max: MOST, log: true, title: "1 fits the view" }));
  if (about.boxes) sliders.append(slider(state, "Boxes", "box_opacity", { min: 0, max: 1, step: 0.05 }));
  if (about.evidence) sliders.append(slider(state, "Evidence", "map_opacity", { min: 0, max: 1, step: 0.05, title: "Map of what speaks for the finding and against it" }));
  const second = element("div", { className: "stage", hidden: true }, earlier.canvas, note);
  node.append(element("div", { className: "panes" }, element("div", { className: "stage" }, view.canvas, ...ends.nodes), second), tools, keys.panel, measured, legend, sliders);
  if (about.compare) {
    state.follow("compare", () => {
      second.hidden = !twice();
      node.classList.toggle("two", twice());
      redraw();
    });
  }
  return {
    node,
    show(film) {
      view.show(film);
      tell();
      redraw();
    },
    showEarlier(film, words) {
      earlier.show(film);
      note.textContent = words;
      redraw();
    },
    // Returns whether the key was used.
    key(event) {
      const { centre } = view.place();
      const step = event.shiftKey && ARROWS[event.key];
      const does = {
        0: fit, 1: toPixels, r: reset, f: fullScreen,
        w: () => drag.click(),
        i: () => state.set({ invert: !state.get("invert") }),
        m: () => state.set({ measuring: !state.get("measuring") }),
        "?": () => keys.node.click(),
      };
      if (step) look(state.get("zoom"), centre.map((at, i) => at + (0.1 * step[i]) / state.get("zoom")));
      else if (ZOOM_KEYS[event.key]) zoomAt(ZOOM_KEYS[event.key], centre);
      else if (Object.hasOwn(does, event.key)) does[event.key]();
      else return false;
      return true;
    },
  };
}
