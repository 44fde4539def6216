// Added to diffmoe.js by `cargo xtask web`: how workers are made, and what they do. A worker is this same program; it
// gets the compiled WebAssembly from the page and then computes what messages ask for.

function diffmoe_worker() {
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
    if (running) {
      running.then(() => worker_receive(new Uint8Array(data)));
      return;
    }
    running = __wbg_init({ module_or_path: data }).then(() => self.postMessage("running"));
  };
}
