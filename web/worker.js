// Added to diffmoe.js by `cargo xtask web`: how workers are made, and what they do. A worker is this same program; it
// gets the compiled WebAssembly from the page and then computes what messages ask for.

// Workers that were made before the program was there.
const early = [];

/** Makes workers while the program is on its way. */
export function prepare(count) {
  for (let i = 0; i < count; i++) {
    const worker = new_worker();
    early.push(worker);
    // The program makes another one, and hears of its error.
    worker.onerror = (event) => {
      event.preventDefault();
      early.splice(early.indexOf(worker), 1);
    };
  }
}

/** Hands them the compiled program, which they start while the page starts it, too. */
export function hand(module) {
  for (const worker of early) {
    worker.postMessage(module);
    worker.postMessage("warm up");
  }
}

// Ends those that the program did not take.
function dismiss_workers() {
  for (const worker of early.splice(0)) worker.terminate();
}

function diffmoe_worker() {
  return early.pop() ?? new_worker();
}

function new_worker() {
  // A page in one file has no other files, and browsers let a worker from a file load nothing: `start.js` has made one
  // script of all of it.
  if (globalThis.diffmoeWorker) return new Worker(globalThis.diffmoeWorker, { name: "diffmoe worker" });
  try {
    // Bundlers look for just this form.
    return new Worker(new URL("./diffmoe-worker.js", import.meta.url), { type: "module", name: "diffmoe worker" });
  } catch {
    // Workers have to come from the page's own site; a module that they import may come from elsewhere.
    const address = new URL("./diffmoe-worker.js", import.meta.url).href;
    const script = new Blob([`import ${JSON.stringify(address)};`], { type: "text/javascript" });
    return new Worker(URL.createObjectURL(script), { type: "module", name: "diffmoe worker" });
  }
}

/** Makes this thread a worker of the page that made it; for `diffmoe-worker.js`. */
export function work() {
  // An error in a promise would not reach the page.
  const fail = (error) => setTimeout(() => { throw error; });
  let running;
  self.onunhandledrejection = (event) => { event.preventDefault(); fail(event.reason); };
  self.onmessageerror = () => fail(new Error("the program cannot be handed to a worker"));
  self.onmessage = ({ data }) => {
    if (data === "warm up") {
      running.then(worker_warm_up).catch(console.info);
      return;
    }
    if (!(data instanceof WebAssembly.Module)) {
      running.then(() => worker_receive(new Uint8Array(data)));
      return;
    }
    // Sent twice to a worker that was made early: the first answer came before anyone listened.
    running ??= __wbg_init({ module_or_path: data });
    running.then(() => self.postMessage("running"));
  };
}
