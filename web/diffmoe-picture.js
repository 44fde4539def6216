// An element that draws an image, for pages that want nothing else:
//
//   <diffmoe-picture model="models/emoji.safetensors" labels="fox, fluent3d" seed="7" alt="A fox"></diffmoe-picture>
//
// The page names it: customElements.define("diffmoe-picture", DiffmoePicture).

import init, { Generator } from "./diffmoe.js";

const TEXTS = ["prompt", "scheduler"];
const NUMBERS = ["seed", "steps", "guidance"];

/** One generator for each model and backend on the page. */
const generators = new Map();

async function open(model, backend) {
  await init();
  return Generator.create({ model, backend });
}

function generator(model, backend) {
  const key = JSON.stringify([model, backend]);
  if (!generators.has(key)) {
    const opening = open(model, backend);
    // It may work the next time.
    opening.catch(() => generators.delete(key));
    generators.set(key, opening);
  }
  return generators.get(key);
}

/** Label names by table, from names alone. */
function tables(known, names) {
  const labels = {};
  for (const name of names.split(",").map((name) => name.trim()).filter(Boolean)) {
    const table = Object.keys(known).find((table) => known[table].includes(name));
    if (!table) throw new Error(`the model has no label "${name}"`);
    labels[table] = name;
  }
  return labels;
}

/** Servers import this file too; they have no elements. */
export class DiffmoePicture extends (globalThis.HTMLElement ?? Object) {
  static observedAttributes = ["model", "backend", "labels", ...TEXTS, ...NUMBERS];

  #canvas;
  #run = new AbortController();
  #isPlanned = false;

  connectedCallback() {
    if (!this.#canvas) {
      this.#canvas = document.createElement("canvas");
      this.#canvas.setAttribute("role", "img");
      Object.assign(this.#canvas.style, { width: "100%", height: "100%", objectFit: "contain", imageRendering: "pixelated" });
      this.attachShadow({ mode: "open" }).append(this.#canvas);
      if (!this.style.display) this.style.display = "inline-block";
    }
    this.#plan();
  }

  disconnectedCallback() {
    this.#run.abort();
  }

  attributeChangedCallback() {
    if (this.isConnected) this.#plan();
  }

  /** Draws once, however many attributes change now. */
  #plan() {
    if (this.#isPlanned) return;
    this.#isPlanned = true;
    queueMicrotask(() => {
      this.#isPlanned = false;
      if (this.isConnected) this.#draw();
    });
  }

  async #draw() {
    this.#run.abort();
    const { signal } = (this.#run = new AbortController());
    const value = (name) => this.getAttribute(name) ?? undefined;
    const show = (rgba, width, height) => {
      if (signal.aborted) return;
      Object.assign(this.#canvas, { width, height });
      this.#canvas.getContext("2d").putImageData(new ImageData(rgba, width), 0, 0);
    };
    this.#canvas.setAttribute("aria-label", value("alt") ?? value("prompt") ?? value("labels") ?? "A generated image");
    this.setAttribute("aria-busy", "true");
    try {
      const model = await generator(value("model"), value("backend"));
      signal.throwIfAborted();
      const options = { signal, trace: false, onStep: (step, steps, rgba, width, height) => show(rgba, width, height) };
      if (value("labels")) options.labels = tables(model.info.labels, value("labels"));
      for (const name of TEXTS) if (value(name)) options[name] = value(name);
      for (const name of NUMBERS) if (value(name)) options[name] = Number(value(name));
      const { rgba, width, height, seed } = await model.sample(options);
      show(rgba, width, height);
      if (!signal.aborted) this.dispatchEvent(new CustomEvent("drawn", { detail: { rgba, width, height, seed } }));
    } catch (error) {
      if (signal.aborted) return;
      this.#canvas.setAttribute("aria-label", error.message);
      this.#canvas.title = error.message;
      this.dispatchEvent(new ErrorEvent("error", { error, message: error.message }));
    } finally {
      if (!signal.aborted) this.removeAttribute("aria-busy");
    }
  }
}
