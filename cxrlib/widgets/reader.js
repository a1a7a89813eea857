const PIECE = 2 ** 21; // bytes in a message: servers refuse messages of 10 MiB

function render({ model, el }) {
  const input = element("input", { type: "file", accept: "image/*,.dcm", "aria-label": "Choose a radiograph" });
  const drop = element("div", { className: "drop" }, element("label", {}, "Drop a radiograph here, or choose a file: ", input));
  const sentence = element("div", { className: "caption", role: "status", "aria-live": "polite" });
  const view = filmView({ evidence: { start: 0.6, finding: () => model.get("result").finding } });
  const node = root("Radiograph reader", drop, sentence, element("div", { className: "columns" }, view.node));
  onKeys(node, (event) => view.key(event));

  async function upload(file) {
    if (!file) return;
    sentence.textContent = `Reading ${file.name}.`;
    view.show(null);
    const of = Math.max(1, Math.ceil(file.size / PIECE));
    for (let number = 0; number < of; number++) {
      const piece = await file.slice(number * PIECE, (number + 1) * PIECE).arrayBuffer();
      model.send({ kind: "piece", name: file.name, number, of }, undefined, [piece]);
    }
  }
  input.addEventListener("change", () => {
    upload(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    drop.classList.remove("over");
    upload(event.dataTransfer.files[0]);
  });
  function tell() {
    const { name, status, sentence: text } = model.get("result");
    sentence.textContent = text;
    sentence.dataset.status = status;
    sentence.dataset.name = name;
  }
  function receive(answer, buffers) {
    tell();
    if (answer.kind !== "film") return view.show(null);
    const pixels = aligned(buffers[0], Uint16Array);
    const evidence = buffers[1].byteLength ? Array.from(aligned(buffers[1], Float32Array)) : null;
    const { name, sentence: label } = model.get("result");
    view.show({ pixels, side: Math.sqrt(pixels.length), evidence, boxes: [], name, label });
  }
  model.on("msg:custom", receive);
  model.on("change:result", tell);
  el.append(node);
  tell();
  model.send({ kind: "show" });
  return () => {
    model.off("msg:custom", receive);
    model.off("change:result", tell);
  };
}
export default { render };
