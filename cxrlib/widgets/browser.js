const PAGE = 20;
const BATCH = 5; // thumbnails asked for at once, so that the next film need not wait for a page
const FILMS_KEPT = 6;

function render({ model, el }) {
  const films = new Map(); // position: {pixels, side} or {reason}, the latest last
  const asked = new Set();
  let page = -1;
  let version = -1;
  let pending = []; // thumbnails to ask for

  function choice(trait, name, every) {
    const options = model.get("choices")[trait].map((value) => element("option", { value }, value));
    if (every) options.unshift(element("option", { value: "" }, every));
    const select = element("select", { "aria-label": name }, ...options);
    select.addEventListener("change", () => send(trait, select.value));
    const shown = () => (select.value = model.get(trait));
    model.on(`change:${trait}`, shown);
    shown();
    return options.length > 1 ? element("label", {}, name, select) : "";
  }
  function send(trait, value) {
    model.set(trait, value);
    model.save_changes();
  }
  const patient = element("input", { type: "search", size: 12, "aria-label": "Patient" });
  patient.value = model.get("patient");
  patient.addEventListener("input", () => send("patient", patient.value.trim()));
  model.on("change:patient", () => {
    if (patient.value.trim() !== model.get("patient")) patient.value = model.get("patient");
  });
  const button = (name, step) => {
    const node = element("button", { type: "button" }, name);
    node.addEventListener("click", () => move(model.get("position") + step));
    return node;
  };
  const place = element("span", {});
  const thumbnails = element("div", { className: "thumbnails", role: "group", "aria-label": "Thumbnails" });
  const caption = element("div", { className: "caption", role: "status", "aria-live": "polite" });
  const hasRun = model.get("choices").outcome.length > 0;
  const view = filmView({ boxes: true, evidence: hasRun && { start: 0, finding: () => model.get("choices").evidence }, evidenceWanted: () => askEvidence() });
  const node = root(
    "Radiograph browser",
    element(
      "div",
      {},
      choice("finding", "Finding", "all"),
      choice("view", "View", "all"),
      choice("split", "Split", "all"),
      choice("outcome", "Outcome", "all"),
      choice("order", "Order"),
      element("label", {}, "Patient", patient),
    ),
    element(
      "div",
      {},
      button("Previous radiograph", -1),
      button("Next radiograph", 1),
      button("Previous page", -PAGE),
      button("Next page", PAGE),
      " ",
      place,
    ),
    element("div", { className: "columns" }, thumbnails, view.node),
    caption,
  );
  node.tabIndex = 0;
  onKeys(node, (event) => {
    const now = model.get("position");
    if (event.shiftKey) return view.key(event);
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: model.get("count") - 1 }[event.key];
    if (to === undefined) return view.key(event);
    move(to);
    return true;
  });

  function move(to) {
    const position = Math.min(model.get("count") - 1, Math.max(0, to));
    if (position < 0 || position === model.get("position")) return;
    send("position", position);
    refresh();
  }
  // One question of a kind at a time: keys held down skip films instead of queueing them.
  function ask(kind, at) {
    if (asked.has(kind) || !at.length) return;
    asked.add(kind);
    model.send({ kind, at, version: model.get("version") });
  }
  function askFilms() {
    const now = model.get("position");
    const wanted = [now, now + 1, now - 1].find((i) => i >= 0 && i < model.get("count") && !films.has(i));
    if (wanted !== undefined) ask("picture", [wanted]);
    if (films.has(now) && !asked.has("picture")) ask("thumbnails", pending.splice(0, asked.has("thumbnails") ? 0 : BATCH));
  }
  function askEvidence() {
    const film = films.get(model.get("position"));
    if (view.at.evidence > 0 && film?.pixels && !film.evidence) ask("evidence", [model.get("position")]);
  }
  function refresh() {
    if (version !== model.get("version")) {
      version = model.get("version");
      films.clear();
      asked.clear();
      page = -1;
    }
    const [now, count] = [model.get("position"), model.get("count")];
    place.textContent = count ? `${now + 1} of ${count}` : "no radiograph";
    if (count && page !== Math.floor(now / PAGE)) layOut(Math.floor(now / PAGE));
    if (!count) layOut(0);
    for (const child of thumbnails.children) {
      child.setAttribute("aria-current", child.dataset.at === String(now));
    }
    showFilm();
    askFilms();
  }
  function layOut(number) {
    page = number;
    for (const image of thumbnails.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    const last = Math.min(model.get("count"), (page + 1) * PAGE);
    pending = Array.from({ length: Math.max(0, last - page * PAGE) }, (_, i) => page * PAGE + i);
    const cells = pending.map((at) => {
      const cell = element("button", { type: "button", "data-at": at, "aria-label": `Radiograph ${at + 1}` });
      cell.addEventListener("click", () => move(at));
      return cell;
    });
    thumbnails.replaceChildren(...cells);
  }
  function showFilm() {
    const described = model.get("film");
    const film = films.get(model.get("position"));
    caption.textContent = film?.reason ? `${described.caption} · cannot be shown: ${film.reason}` : described.caption;
    if (!film || film.reason || !described.filename) {
      if (film?.reason || !described.filename) view.show(null);
      return;
    }
    view.show({ ...film, name: described.filename, boxes: described.boxes, label: described.caption });
    askEvidence();
  }
  function receive(answer, buffers) {
    if (answer.version !== version) return;
    asked.delete(answer.kind);
    answer.at.forEach((at, i) => {
      const reason = answer.reasons[at];
      if (answer.kind === "thumbnails") {
        const cell = thumbnails.querySelector(`[data-at="${at}"]`);
        if (!cell) return;
        if (reason) cell.textContent = reason;
        else {
          const src = URL.createObjectURL(new Blob([buffers[i]], { type: "image/jpeg" }));
          cell.replaceChildren(element("img", { src, alt: "" }));
        }
      } else if (answer.kind === "picture") {
        const pixels = reason ? null : aligned(buffers[i], Uint16Array);
        films.set(at, reason ? { reason } : { pixels, side: Math.sqrt(pixels.length), evidence: null });
        while (films.size > FILMS_KEPT) films.delete(films.keys().next().value);
        if (at === model.get("position")) showFilm();
      } else if (films.get(at)) {
        films.get(at).evidence = reason ? null : Array.from(aligned(buffers[i], Float32Array));
        if (at === model.get("position")) view.setEvidence(films.get(at).evidence);
        else askEvidence();
      }
    });
    askFilms();
  }
  model.on("msg:custom", receive);
  for (const trait of ["version", "position", "count", "film"]) model.on(`change:${trait}`, refresh);
  el.append(node);
  refresh();
  return () => {
    model.off("msg:custom", receive);
    for (const trait of ["version", "position", "count", "film"]) model.off(`change:${trait}`, refresh);
    thumbnails.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
  };
}
export default { render };
