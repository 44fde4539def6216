// Loads the app, shows the progress, and explains what to do if it does not start.
// The build puts `program.js` in front of it; the offline page also contains everything it loads.

const element = (id) => document.getElementById(id);
const classes = document.documentElement.classList;

function progress(text, done, total) {
  element("step").textContent = text;
  if (total) Object.assign(element("bar"), { max: total, value: Math.min(done, total) });
  else element("bar").removeAttribute("value");
}

function fail(what, advice, error) {
  console.warn(what, error);
  element("what").textContent = what;
  element("advice").textContent = advice;
  element("detail").textContent = String(error?.message ?? error ?? "");
  classes.remove("running");
  classes.add("failed");
}

// The form of the program for this browser.
const program = () => (hasRelaxedSimd() ? "diffmoe_relaxed_bg.wasm" : "diffmoe_bg.wasm");

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

// The response with its bytes counted. Servers may compress it, so the build provides the total.
function counted(response, total) {
  if (!response.ok) throw new Error(`${response.url} answered with status ${response.status}`);
  let done = 0;
  const count = new TransformStream({
    transform(piece, out) {
      done += piece.byteLength;
      progress(`Loading the app: ${megabytes(done)} of ${megabytes(total)} MB`, done, total);
      out.enqueue(piece);
    },
  });
  return new Response(response.body.pipeThrough(count), { headers: { "content-type": "application/wasm" } });
}

// Decodes base64 text from the page.
const unpacked = (id, type) => fetch(`data:${type};base64,${element(id).textContent.trim()}`);

// The bytes of the first model arrive while the program does, which takes them from here (`fetch.rs`) instead of asking
// again; a model that is kept from an earlier visit is not fetched.
function preload(first) {
  const asked = (text) => new URLSearchParams(text).get("model");
  const name = asked(location.hash.slice(1)) ?? asked(location.search) ?? first;
  const model = JSON.parse(element("models").textContent)[name];
  if (!model) return;
  const address = new URL(`models/${name}.safetensors?v=${model.sha256.slice(0, 8)}`, document.baseURI).href;
  const arrive = async () => {
    const key = `${location.origin}/diffmoe-kept/${encodeURIComponent(address)}/manifest`;
    if (await globalThis.caches?.match(key)) return null;
    const response = await fetch(address);
    // Without a reader a browser would stop after the first megabyte.
    const room = new ByteLengthQueuingStrategy({ highWaterMark: 2 ** 31 });
    const body = response.body.pipeThrough(new TransformStream(undefined, undefined, room));
    return new Response(body, { status: response.status, headers: response.headers });
  };
  const response = arrive();
  // The program sees it, and asks again.
  response.catch(() => {});
  globalThis.diffmoePreloaded = new Map([[address, response]]);
}

// Makes the browser start its graphics process; done when that is there, or when it takes too long.
function graphics() {
  try {
    const worker = new Worker("graphics.js");
    const there = new Promise((done) => Object.assign(worker, { onmessage: done, onerror: done }));
    const late = new Promise((done) => setTimeout(done, 2000));
    return { ready: Promise.race([there, late]), end: () => worker.terminate() };
  } catch {
    // Such as in a frame without an origin: the page then waits for its own context.
    return null;
  }
}

// Keeps the program for visits without a network, and says when there is a newer one. Not for a page from a file.
function keep() {
  const { serviceWorker } = navigator;
  if (!serviceWorker || !location.protocol.startsWith("http")) return;
  let before = serviceWorker.controller;
  serviceWorker.addEventListener("controllerchange", () => {
    // The first one replaces none.
    if (before) {
      element("newer").hidden = false;
      element("newer").querySelector("button").onclick = () => location.reload();
    }
    before = serviceWorker.controller;
  });
  serviceWorker.register(`sw.js?${program()}`).then((registration) => {
    const look = () => document.hidden || registration.update().catch(() => {});
    document.addEventListener("visibilitychange", look);
    setInterval(look, 3_600_000);
  }).catch((error) => console.info("The page is not kept for later:", error));
}

// The model of the first image: the finer one where a GPU computes, the faster one where the processor does. Like the
// program (`place.rs`), it does not count a software adapter as a GPU.
async function firstModel({ gpu, cpu }) {
  const backend = new URLSearchParams(location.search).get("backend");
  if (backend === "gpu") return gpu;
  if (backend === "cpu") return cpu;
  const asked = navigator.gpu?.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  // A driver that does not answer does not keep the page from starting.
  const late = new Promise((done) => setTimeout(done, 5000, null));
  const adapter = await Promise.race([asked, late]);
  return adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter) ? gpu : cpu;
}

// How many workers the program will surely take: none where a GPU may compute.
function workers() {
  const query = new URLSearchParams(location.search);
  const backend = query.get("backend") ?? "auto";
  if (backend !== "cpu" && !(backend === "auto" && !navigator.gpu)) return 0;
  const wanted = Number.parseInt(query.get("workers") ?? navigator.hardwareConcurrency, 10);
  return Math.min(Number.isNaN(wanted) ? 1 : wanted, 4);
}

async function load({ bytes, inside }) {
  if (!inside) {
    const response = fetch(program());
    // It is waited for below.
    response.catch(() => {});
    const glue = await import("./diffmoe.js");
    glue.prepare(workers());
    const module = await WebAssembly.compileStreaming(counted(await response, bytes));
    glue.hand(module);
    await glue.default({ module_or_path: module });
    return glue;
  }
  const script = await (await unpacked("glue", "text/javascript")).text();
  const address = (text) => URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const glue = await import(address(script));
  // The same for workers, which can neither import it nor be modules in a page from a file.
  const plain = script.replace(/^export (function|class|async)/gm, "$1").replace(/^export \{.*\};?$/gm, "");
  globalThis.diffmoeWorker = address(`(() => {${plain.replaceAll("import.meta.url", "self.location.href")}\nwork();\n})();`);
  const module = await WebAssembly.compile(await (await unpacked("wasm", "application/wasm")).arrayBuffer());
  glue.prepare(workers());
  glue.hand(module);
  await glue.default({ module_or_path: module });
  for (const id of ["glue", "wasm"]) element(id).remove();
  return glue;
}

// Developer tools that emulate a finer screen report the size of the canvas in CSS pixels where device pixels are asked
// for, and the app would take its part of the screen for a smaller one. Rounding on real screens stays below two pixels.
function correctSizes() {
  const entry = globalThis.ResizeObserverEntry?.prototype;
  const reported = entry && Object.getOwnPropertyDescriptor(entry, "devicePixelContentBoxSize")?.get;
  if (!reported) return;
  const size = ({ inlineSize, blockSize }) =>
    Object.create(ResizeObserverSize.prototype, { inlineSize: { value: inlineSize }, blockSize: { value: blockSize } });
  Object.defineProperty(entry, "devicePixelContentBoxSize", {
    configurable: true,
    enumerable: true,
    get() {
      const pixels = reported.call(this);
      const [box] = this.contentBoxSize;
      const inlineSize = Math.round(box.inlineSize * devicePixelRatio);
      const blockSize = Math.round(box.blockSize * devicePixelRatio);
      const off = Math.max(Math.abs(pixels[0].inlineSize - inlineSize), Math.abs(pixels[0].blockSize - blockSize));
      return off < 2 ? pixels : [size({ inlineSize, blockSize })];
    },
  });
}

// Panics are reported by the program. Traps (out of memory, stack overflow) and exceptions that pass through the program are
// not, and after them it cannot go on.
function watch(crashed) {
  const look = (error) => {
    // The program may be in the middle of something now.
    setTimeout(() => {
      const ended = window.diffmoe ? !("phase" in window.diffmoe.state()) : error instanceof WebAssembly.RuntimeError;
      if (ended && !classes.contains("failed")) crashed(error);
    });
  };
  addEventListener("error", (event) => look(event.error ?? event.message));
  addEventListener("unhandledrejection", (event) => look(event.reason));
}

export async function start(source) {
  let glue, warm, first;
  correctSizes();
  const crashed = (error) => fail("The app has crashed.", "Reload the page. If it happens again, please report it with this message:", error);
  watch(crashed);
  try {
    // Pages from a file have no other files.
    if (!source.inside) warm = graphics();
    // This also makes the browser start its graphics process.
    first = firstModel(source.first);
    if (!source.inside) first.then(preload);
    glue = await load(source);
    await warm?.ready;
  } catch (error) {
    const old = error instanceof WebAssembly.CompileError;
    return fail(
      old ? "This browser cannot run the app." : "The app could not be loaded.",
      old ? "It needs WebAssembly with SIMD, which Chrome, Edge, Firefox and Safari have supported since 2023. Please update your browser."
        : "Check the connection and reload the page.",
      error,
    );
  }
  progress("Starting", 1, 1);
  try {
    // For tests; see web/README.md.
    window.diffmoe = await glue.start(element("app"), await first, crashed);
    // egui's own field for what is typed: screen readers meet it too.
    document.querySelector("body > input:not([aria-label])")?.setAttribute("aria-label", "Text entry");
    classes.add("running");
    warm?.end();
    element("app").focus();
    // Now that nothing is waited for.
    if (!source.inside) keep();
  } catch (error) {
    fail("The app cannot be displayed.", "It needs WebGL or WebGPU, and this browser provides neither. Enable hardware acceleration in its settings, or use another browser.", error);
  }
}
