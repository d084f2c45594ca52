const SHOWN = 10;
const payload = JSON.parse(document.getElementById("payload").textContent);
const state = document.getElementById("state"), drop = document.getElementById("drop");
document.querySelector("h1").textContent = payload.name;

const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

const element = (kind, text = "", name = "") =>
  Object.assign(document.createElement(kind), { textContent: text, className: name });

// Open the model and return what answers an input tensor with the raw output.
async function open(model) {
  const quiet = { print() {}, printErr() {} };
  const wasm = await ModuleFactory({ wasmBinary: await unpack(payload.wasm), ...quiet });
  const environment = wasm.LiteRtEnvironment.create(null);
  const place = wasm._malloc(model.length);
  wasm.HEAPU8.set(model, place);
  const loaded = wasm.loadModel(environment, place, model.length);
  const compiled = await wasm.compileModel(environment, loaded, {
    environment: { liteRtEnvironment: environment, options: {} }, accelerator: "wasm",
    cpuOptions: { numThreads: 1 }, gpuOptions: {}, webNNOptions: {},
  });
  const { HOST_MEMORY } = wasm.LiteRtTensorBufferType, { READ, WRITE } = wasm.LiteRtTensorBufferLockMode;
  return async (tensor) => {
    const type = loaded.getInputTensorType(0, 0);
    const source = wasm.LiteRtTensorBuffer.createManaged(environment, HOST_MEMORY, type, tensor.length);
    wasm.HEAPU8.set(new Uint8Array(tensor.buffer, tensor.byteOffset, tensor.length), source.lock(WRITE));
    source.unlock();
    const [target] = await compiled.run(0, [source]);
    const start = target.lock(READ);
    const raw = new Int8Array(wasm.HEAPU8.slice(start, start + LABELS.length).buffer);
    target.unlock();
    [type, source, target].forEach((one) => one.delete());
    return raw;
  };
}

// Say how far the answers to the golden photos lie from the recorded ones.
async function prove() {
  const tensors = await unpack(payload.inputs), length = SIZE * SIZE * 3;
  const gaps = [];
  for (const [place, wanted] of payload.raw.entries()) {
    const raw = await run(tensors.subarray(place * length, (place + 1) * length));
    gaps.push(max(...wanted.map((level, index) => Math.abs(level - raw[index]))));
  }
  const equal = gaps.filter((gap) => gap === 0).length;
  const rest = equal < gaps.length ? `, the others at most ${max(...gaps)} of 255 levels off` : "";
  state.textContent = `Ready: ${equal} of ${gaps.length} golden photos are answered to the bit as recorded${rest}.`;
}

async function show(file) {
  const card = element("section"), words = element("div"), list = element("dl");
  words.append(element("h2", file.name), list);
  card.append(words);
  document.getElementById("cards").prepend(card);
  try {
    const seen = await pixels(file);
    const canvas = Object.assign(element("canvas"), { width: seen.width, height: seen.height });
    canvas.getContext("2d").putImageData(seen, 0, 0);
    card.prepend(canvas);
    const raw = await run(input(letterbox(seen.data, seen.width, seen.height)));
    const found = answers(raw);
    if (!found.some((one) => one.said)) words.append(element("p", "The app says none of the labels."));
    for (const one of found.filter(({ said }, place) => said || place < SHOWN)) {
      const meter = Object.assign(element("meter"), { value: one.probability, ariaLabel: one.label });
      const percent = `${(100 * one.probability).toFixed(1)}%`;
      list.append(element("dt", one.label, one.said ? "said" : ""), meter, element("dd", percent));
    }
    card.dataset.raw = raw.join(" ");
  } catch (error) {
    words.append(element("p", `This browser cannot open it as a photo (${error.message}).`));
    card.dataset.raw = "";
  }
}

const showAll = async (files) => {
  for (const file of files) await show(file);
};
const run = await open(await unpack(payload.model));
await prove();
drop.querySelector("input").onchange = (event) => showAll(event.target.files);
addEventListener("dragover", (event) => (event.preventDefault(), drop.classList.add("over")));
addEventListener("dragleave", () => drop.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  showAll(event.dataTransfer.files);
});
