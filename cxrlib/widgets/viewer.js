// What the widgets share: elements, labelled controls, and a view of one film.

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// The attribute keeps the notebook's own shortcuts away from keys pressed in the widget.
function root(label, ...children) {
  return element("div", { className: "cxr", role: "group", "aria-label": label, "data-lm-suppress-shortcuts": "true" }, ...children);
}

function slider(name, [min, max, step, value], changed, digits = 2) {
  const output = element("output", {}, Number(value).toFixed(digits));
  const input = element("input", { type: "range", min, max, step, "aria-label": name });
  input.value = value;
  const set = (to) => {
    input.value = to;
    output.value = Number(to).toFixed(digits);
  };
  input.addEventListener("input", () => {
    output.value = Number(input.value).toFixed(digits);
    changed(Number(input.value));
  });
  return { node: element("label", {}, name, input, output), input, set };
}

function checkbox(name, changed) {
  const input = element("input", { type: "checkbox" });
  input.addEventListener("change", () => changed(input.checked));
  return { node: element("label", {}, input, name), input };
}

// A buffer may start anywhere in a message; typed arrays want it aligned.
function aligned(view, Type) {
  return new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

// Grey values of 16 bits through window and level, then zoom, pan, boxes and a map of evidence.
function filmView(overlays) {
  const canvas = element("canvas", { width: 1024, height: 1024, tabIndex: 0, role: "img", "aria-label": "no radiograph" });
  const windowed = element("canvas");
  const map = element("canvas");
  const legend = element("span", {}, "red: evidence for the finding; blue: evidence against it");
  const at = { window: 1, level: 0.5, invert: false, zoom: 1, x: 0.5, y: 0.5, boxes: 1, evidence: 0 };
  let film = null;
  let stale = true;
  let waiting = false;

  function redraw(pixelsChanged = false) {
    stale ||= pixelsChanged;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(draw);
  }
  function applyWindow() {
    const { pixels, side } = film;
    windowed.width = windowed.height = side;
    const context = windowed.getContext("2d");
    const image = context.createImageData(side, side);
    const words = new Uint32Array(image.data.buffer);
    const table = new Uint32Array(65536);
    for (let i = 0; i < 65536; i++) {
      let grey = (i / 65535 - at.level) / at.window + 0.5;
      grey = Math.round(255 * Math.min(1, Math.max(0, at.invert ? 1 - grey : grey)));
      table[i] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    for (let i = 0; i < pixels.length; i++) words[i] = table[pixels[i]];
    context.putImageData(image, 0, 0);
  }
  function draw() {
    waiting = false;
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    canvas.dataset.film = film ? film.name : "";
    if (!film) return;
    if (stale) applyWindow();
    stale = false;
    const half = 0.5 / at.zoom;
    at.x = Math.min(1 - half, Math.max(half, at.x));
    at.y = Math.min(1 - half, Math.max(half, at.y));
    const scale = canvas.width * at.zoom;
    context.setTransform(scale, 0, 0, scale, -(at.x - half) * scale, -(at.y - half) * scale);
    context.drawImage(windowed, 0, 0, 1, 1);
    if (film.evidence && at.evidence > 0) drawEvidence(context, film.evidence);
    context.globalAlpha = at.boxes;
    context.strokeStyle = "#f0e442";
    context.lineWidth = 3 / scale;
    for (const box of film.boxes) context.strokeRect(box.x, box.y, box.width, box.height);
    context.globalAlpha = 1;
  }
  // Interpolated, on a film of less contrast, so that a dark place does not look like a strong one.
  function drawEvidence(context, evidence) {
    const limit = Math.max(...evidence.map(Math.abs));
    map.width = map.height = Math.sqrt(evidence.length);
    const image = map.getContext("2d").createImageData(map.width, map.height);
    evidence.forEach((value, i) => {
      image.data.set(value > 0 ? [178, 24, 43] : [33, 102, 172], 4 * i);
      image.data[4 * i + 3] = (255 * Math.abs(value)) / limit;
    });
    map.getContext("2d").putImageData(image, 0, 0);
    context.globalAlpha = 0.5 * at.evidence;
    context.fillStyle = "#808080";
    context.fillRect(0, 0, 1, 1);
    context.globalAlpha = at.evidence;
    context.imageSmoothingQuality = "high";
    context.drawImage(map, 0, 0, 1, 1);
    const end = limit.toFixed(2);
    legend.textContent = `red: for ${overlays.evidence.finding()}, up to ${end} logits; blue: against it, up to ${end}`;
  }
  function zoomTo(zoom) {
    at.zoom = Math.min(8, Math.max(1, zoom));
    zoomSlider.set(at.zoom);
    redraw();
  }
  function control(name, key, range, pixelsChanged) {
    return slider(name, range, (value) => {
      at[key] = value;
      redraw(pixelsChanged);
      if (key === "evidence") overlays.evidenceWanted?.();
    });
  }
  const zoomSlider = control("Zoom", "zoom", [1, 8, 0.1, 1], false);
  const invert = checkbox("Invert", (checked) => {
    at.invert = checked;
    redraw(true);
  });
  const controls = [
    control("Window", "window", [0.05, 1, 0.01, 1], true).node,
    control("Level", "level", [0, 1, 0.01, 0.5], true).node,
    invert.node,
    zoomSlider.node,
  ];
  if (overlays.boxes) controls.push(control("Boxes", "boxes", [0, 1, 0.05, 1], false).node);
  if (overlays.evidence) {
    at.evidence = overlays.evidence.start;
    controls.push(control("Evidence", "evidence", [0, 1, 0.05, at.evidence], false).node);
    controls.push(legend);
  }
  canvas.addEventListener("wheel", (event) => {
    // Without the focus the wheel scrolls the page.
    if (document.activeElement !== canvas && !canvas.getRootNode().activeElement?.isSameNode(canvas)) return;
    event.preventDefault();
    zoomTo(at.zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    at.x -= event.movementX / (canvas.clientWidth * at.zoom);
    at.y -= event.movementY / (canvas.clientHeight * at.zoom);
    redraw();
  });
  const pan = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  return {
    canvas,
    at,
    node: element("div", { className: "film" }, canvas, element("div", {}, ...controls)),
    show(next) {
      film = next;
      canvas.setAttribute("aria-label", next ? next.label : "no radiograph");
      redraw(true);
    },
    setEvidence(evidence) {
      if (film) film.evidence = evidence;
      redraw();
    },
    // Returns whether the key was used.
    key(event) {
      if (event.shiftKey && pan[event.key]) {
        at.x += (0.1 * pan[event.key][0]) / at.zoom;
        at.y += (0.1 * pan[event.key][1]) / at.zoom;
        redraw();
      } else if (event.key === "+" || event.key === "-") zoomTo(at.zoom * (event.key === "+" ? 1.2 : 1 / 1.2));
      else if (event.key === "0") zoomTo(1);
      else if (event.key === "i") invert.input.click();
      else return false;
      return true;
    },
  };
}

// Keys go to a widget unless they are typed into one of its fields.
function onKeys(node, handle) {
  node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
    if (!handle(event)) return;
    event.preventDefault();
    event.stopPropagation();
  });
}
