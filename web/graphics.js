// A worker that makes the browser start its graphics process while the page loads: asked for by the page itself, the first
// context would stop it for a moment. It ends once the page has its own (`start.js`).

const context = globalThis.OffscreenCanvas && new OffscreenCanvas(1, 1).getContext("webgl2");
context?.clear(context.COLOR_BUFFER_BIT);
postMessage("ready");
