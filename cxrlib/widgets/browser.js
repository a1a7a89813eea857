const PAGE = 20;
const BATCH = 5; // thumbnails asked for at once, so that the next film need not wait for a page
const FILMS_KEPT = 6;

function render({ model, el }) {
  const state = connect(model);
  const films = new Map(); // position: {pixels, side} or {reason}, the latest last
  const asked = new Set();
  let page = -1;
  let version = -1;
  let pending = []; // thumbnails to ask for

  function choice(trait, name, every, title) {
    const options = state.get("choices")[trait === "step" ? "outcome" : trait].map((value) => [value, value]);
    if (every) options.unshift(["", every]);
    const { node, input } = select(name, options, (value) => state.set({ [trait]: value }), title);
    state.follow(trait, () => (input.value = state.get(trait)));
    return options.length > 1 ? node : "";
  }
  const patient = element("input", { type: "search", size: 12, "aria-label": "Patient", title: "A patient's id, or its beginning" });
  patient.value = state.get("patient");
  patient.addEventListener("input", () => state.set({ patient: patient.value.trim() }));
  state.on("change:patient", () => {
    if (patient.value.trim() !== state.get("patient")) patient.value = state.get("patient");
  });
  const stepButton = (name, title, by) => button(name, title, () => step(by));
  const place = element("span", { className: "place" });
  const thumbnails = element("div", { className: "thumbnails", role: "group", "aria-label": "Thumbnails" });
  const caption = element("div", { className: "caption", role: "status", "aria-live": "polite" });
  const hasRun = state.get("choices").outcome.length > 0;
  const about = {
    boxes: true,
    compare: true,
    evidence: hasRun,
    finding: () => state.get("choices").evidence,
    keys: [
      ["left and right arrow", "the previous and the next radiograph, of the outcome chosen"],
      ["Home and End", "the first and the last radiograph"],
      ["c", "the patient's earlier radiograph beside this one"],
    ],
  };
  const view = filmView(state, about, toggle(state, "Compare", "compare", "The patient's earlier radiograph beside this one (c)"));
  const filters = element("div", { className: "filters" },
    choice("finding", "Finding", "all"), choice("view", "View", "all"), choice("split", "Split", "all"),
    choice("outcome", "Outcome", "all"), choice("order", "Order"), element("label", {}, "Patient", patient));
  const steps = element("div", { className: "steps" },
    stepButton("Previous radiograph", "Left arrow", -1), stepButton("Next radiograph", "Right arrow", 1),
    choice("step", "Step to", "any radiograph", "Previous and next skip radiographs of other outcomes"),
    button("Previous page", "20 radiographs back", () => move(state.get("position") - PAGE)),
    button("Next page", "20 radiographs on", () => move(state.get("position") + PAGE)), place);
  const layout = element("div", { className: "layout browser" }, steps, element("div", { className: "main" }, view.node, caption), thumbnails, filters);
  const node = root("Radiograph browser", layout);
  onKeys(node, (event) => {
    if (event.shiftKey) return view.key(event);
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") step(event.key === "ArrowLeft" ? -1 : 1);
    else if (event.key === "Home") move(0);
    else if (event.key === "End") move(state.get("count") - 1);
    else if (event.key === "c") state.set({ compare: !state.get("compare") });
    else return view.key(event);
    return true;
  });

  function step(by) {
    if (state.get("step")) state.send({ kind: "step", by, version: state.get("version"), at: [] });
    else move(state.get("position") + by);
  }
  function move(to) {
    const position = between(0, to, state.get("count") - 1);
    if (position < 0 || position === state.get("position")) return;
    state.set({ position });
  }
  // One question of a kind at a time: keys held down skip films instead of queueing them.
  function ask(kind, at) {
    if (asked.has(kind) || !at.length) return;
    asked.add(kind);
    state.send({ kind, at, version: state.get("version") });
  }
  function askFilms() {
    const now = state.get("position");
    const wanted = [now, now + 1, now - 1].find((i) => i >= 0 && i < state.get("count") && !films.has(i));
    if (wanted !== undefined) ask("picture", [wanted]);
    if (films.has(now) && !asked.has("picture")) ask("thumbnails", pending.splice(0, asked.has("thumbnails") ? 0 : BATCH));
  }
  // What only some want of the film shown: the map of evidence, and the film beside it.
  function askMore() {
    const film = films.get(state.get("position"));
    if (!film?.pixels) return;
    if (hasRun && state.get("map_opacity") > 0 && film.evidence === undefined) ask("evidence", [state.get("position")]);
    if (state.get("compare") && state.get("film").earlier && !film.earlier) ask("earlier", [state.get("position")]);
  }
  function refresh() {
    if (version !== state.get("version")) {
      version = state.get("version");
      films.clear();
      asked.clear();
      page = -1;
    }
    const [now, count] = [state.get("position"), state.get("count")];
    place.textContent = count ? `${now + 1} of ${count}` : "no radiograph";
    if (count && page !== Math.floor(now / PAGE)) layOut(Math.floor(now / PAGE));
    if (!count) layOut(0);
    for (const child of thumbnails.children) {
      child.setAttribute("aria-current", child.dataset.at === String(now));
      if (child.dataset.at === String(now)) thumbnails.scrollTo({ left: child.offsetLeft - thumbnails.offsetLeft - thumbnails.clientWidth / 2 + 49 });
    }
    showFilm();
    askFilms();
  }
  function layOut(number) {
    page = number;
    for (const image of thumbnails.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    const last = Math.min(state.get("count"), (page + 1) * PAGE);
    pending = Array.from({ length: Math.max(0, last - page * PAGE) }, (_, i) => page * PAGE + i);
    thumbnails.replaceChildren(...pending.map((at) => button("", `Radiograph ${at + 1}`, () => move(at), { "data-at": at, "aria-label": `Radiograph ${at + 1}` })));
  }
  function showFilm() {
    const described = state.get("film");
    const film = films.get(state.get("position"));
    caption.textContent = film?.reason ? `${described.caption} · cannot be shown: ${film.reason}` : described.caption;
    if (!film || film.reason || !described.filename) {
      if (film?.reason || !described.filename) view.show(null);
      return;
    }
    view.show({ ...film, ...described, name: described.filename, label: described.caption });
    const { earlier } = described;
    const shown = film.earlier?.pixels ? { ...film.earlier, name: earlier.filename, label: earlier.caption, boxes: earlier.boxes } : null;
    const words = earlier ? `Earlier: ${earlier.caption}${film.earlier?.reason ? ` · cannot be shown: ${film.earlier.reason}` : ""}` : "This patient has no earlier radiograph.";
    view.showEarlier(earlier && shown, words);
    askMore();
  }
  function receive(answer, buffers) {
    if (answer.version !== version) return;
    asked.delete(answer.kind);
    answer.at.forEach((at, i) => {
      const reason = answer.reasons[at];
      const film = films.get(at);
      if (answer.kind === "thumbnails") {
        const cell = thumbnails.querySelector(`[data-at="${at}"]`);
        if (!cell) return;
        if (reason) cell.textContent = reason;
        else {
          const src = URL.createObjectURL(new Blob([buffers[i]], { type: "image/jpeg" }));
          cell.replaceChildren(element("img", { src, alt: "" }));
        }
        return;
      }
      const pixels = reason || answer.kind === "evidence" ? null : aligned(buffers[i], Uint16Array);
      const picture = reason ? { reason } : { pixels, side: Math.sqrt(pixels?.length) };
      if (answer.kind === "picture") films.set(at, picture);
      else if (film && answer.kind === "earlier") film.earlier = picture;
      else if (film) film.evidence = reason ? null : Array.from(aligned(buffers[i], Float32Array));
      while (films.size > FILMS_KEPT) films.delete(films.keys().next().value);
      if (at === state.get("position")) showFilm();
      else askMore();
    });
    askFilms();
  }
  state.on("msg:custom", receive);
  state.on(["change:map_opacity", "change:compare"], askMore);
  state.on(["version", "position", "count", "film"].map((trait) => `change:${trait}`), refresh);
  el.append(node);
  refresh();
  return () => {
    state.close();
    thumbnails.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
  };
}
export default { render };
