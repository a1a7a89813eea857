const PIECE = 2 ** 21; // bytes in a message: servers refuse messages of 10 MiB

function render({ model, el }) {
  const state = connect(model);
  const input = element("input", { type: "file", multiple: true, accept: "image/*,.dcm,.dicom", "aria-label": "Choose a radiograph" });
  const shownName = element("strong", { className: "name" });
  const drop = element("div", { className: "drop" }, element("label", { className: "choose" }, "Choose radiographs", input), "or drop them anywhere here.", shownName);
  const sentence = element("div", { className: "caption", role: "status", "aria-live": "polite" });
  const looks = element("table", { className: "looks", hidden: true });
  const worklist = element("table", { className: "worklist", hidden: true });
  const about = {
    evidence: true,
    finding: () => state.get("result").finding,
    keys: [["left and right arrow", "the previous and the next file of the worklist"]],
  };
  const view = filmView(state, about);
  const node = root("Radiograph reader", element("div", { className: "layout reader" }, drop, sentence, looks, view.node, worklist));
  const choose = (at) => at >= 0 && at < state.get("files").length && state.set({ chosen: at });
  onKeys(node, (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.shiftKey) return view.key(event);
    choose(state.get("chosen") + by);
    return true;
  });

  let busy = Promise.resolve(); // pieces of one file after those of another
  async function upload(file, which, count) {
    sentence.textContent = `Reading ${file.name}${count > 1 ? ` (${which + 1} of ${count})` : ""}.`;
    view.show(null);
    const of = Math.max(1, Math.ceil(file.size / PIECE));
    for (let number = 0; number < of; number++) {
      const piece = await file.slice(number * PIECE, (number + 1) * PIECE).arrayBuffer();
      state.send({ kind: "piece", name: file.name, number, of }, [piece]);
    }
  }
  const uploadAll = (files) => [...files].forEach((file, which, { length }) => (busy = busy.then(() => upload(file, which, length))));
  input.addEventListener("change", () => {
    uploadAll(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  node.addEventListener("dragover", (event) => {
    event.preventDefault();
    node.classList.add("over");
  });
  node.addEventListener("dragleave", (event) => node.contains(event.relatedTarget) || node.classList.remove("over"));
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    node.classList.remove("over");
    uploadAll(event.dataTransfer.files);
  });
  function tell() {
    const { name, status, sentence: text, looks: lead = [] } = state.get("result");
    sentence.textContent = text;
    sentence.dataset.status = status;
    sentence.dataset.name = shownName.textContent = name;
    looks.hidden = !lead.length;
    const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(2)}`;
    const rows = [...lead, ["an upright frontal radiograph", 0]].sort((a, b) => b[1] - a[1]);
    looks.replaceChildren(element("caption", {}, "What it looks like to the check, the likeliest first"),
      ...rows.map(([what, by]) => element("tr", {}, element("th", { scope: "row" }, what), element("td", {}, signed(by)))));
  }
  function list() {
    const files = state.get("files");
    worklist.hidden = files.length < 2;
    const text = (file) => [file.status === "ok" ? file.probability.toFixed(2) : file.status, file.decision || file.reason];
    worklist.replaceChildren(element("caption", {}, `Worklist of ${files.length} files`), ...files.map((file, at) => {
      const open = button(file.path, "Show it", () => choose(at));
      return element("tr", { "aria-current": String(at === state.get("chosen")) }, ...[open, ...text(file)].map((what) => element("td", {}, what)));
    }));
  }
  function receive(answer, buffers) {
    tell();
    view.node.hidden = answer.kind !== "film";
    if (view.node.hidden) {
      if (["ok", "refused"].includes(state.get("result").status)) sentence.textContent += " To see it, drop it again: only the latest files are kept.";
      return view.show(null);
    }
    const pixels = aligned(buffers[0], Uint16Array);
    const evidence = buffers[1].byteLength ? Array.from(aligned(buffers[1], Float32Array)) : null;
    const { name, sentence: label, probability, millimetres } = state.get("result");
    view.show({ pixels, side: Math.sqrt(pixels.length), evidence, boxes: [], name, label, probability, millimetres });
  }
  state.on("msg:custom", receive);
  state.follow("result", tell);
  state.follow(["files", "chosen"], list);
  view.node.hidden = true; // until there is a radiograph
  el.append(node);
  state.send({ kind: "show" });
  return () => state.close();
}
export default { render };
