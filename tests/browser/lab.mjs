// What all tests share: the browser, pages that must not complain, and images of the command line tool.

import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { chromium } from "playwright-core";
import { serve } from "./server.mjs";

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../..");
export const DIST = process.env.DIFFMOE_DIST ?? join(ROOT, "dist");
export const DOCS = join(ROOT, "docs");
const TOOL = process.env.DIFFMOE ?? join(ROOT, "target/debug/diffmoe");

/** The form of the program for a browser with relaxed SIMD, as this one is. */
export const PROGRAM = "diffmoe_relaxed_bg.wasm";

/** WebGPU and WebGL on SwiftShader, and a browser that talks to no one. */
const FLAGS = [
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-features=Vulkan",
  "--use-vulkan=swiftshader",
  "--use-angle=swiftshader",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: FLAGS,
});
export const site = await serve(DIST);

export async function close() {
  await browser.close();
  site.close();
}

// Ends any test file that `node --test` runs; plain scripts call `close` themselves.
if (process.env.NODE_TEST_CONTEXT) after(close);

/** Runs in every page before its own scripts. */
function instruments(options) {
  if (options.withoutWebGl) {
    const { getContext } = HTMLCanvasElement.prototype;
    HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
      return kind.startsWith("webgl") ? null : getContext.call(this, kind, ...rest);
    };
  }
  if (options.withoutWebGpu) Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });
  // The kernels for real GPUs are chosen by this flag.
  if (options.asRealGpu && globalThis.GPUAdapterInfo) {
    Object.defineProperty(GPUAdapterInfo.prototype, "isFallbackAdapter", { get: () => false });
  }
  if (options.withoutRelaxedSimd) WebAssembly.validate = () => false;
  window.longTasks = [];
  new PerformanceObserver((list) => {
    for (const { startTime, duration } of list.getEntries()) window.longTasks.push({ startTime, duration });
  }).observe({ type: "longtask", buffered: true });
  window.devices = [];
  if (globalThis.GPUAdapter) {
    const original = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...rest) {
      const device = await original.apply(this, rest);
      window.devices.push(device);
      return device;
    };
  }
  window.modules = [];
  window.pipelines = [];
  if (globalThis.GPUDevice) {
    const { createShaderModule, createComputePipeline } = GPUDevice.prototype;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      const module = createShaderModule.call(this, descriptor);
      window.modules.push({ label: descriptor.label, info: module.getCompilationInfo() });
      return module;
    };
    GPUDevice.prototype.createComputePipeline = function (descriptor) {
      this.pushErrorScope("validation");
      const pipeline = createComputePipeline.call(this, descriptor);
      const error = this.popErrorScope();
      window.pipelines.push({ label: descriptor.label, constants: descriptor.compute.constants, error });
      return pipeline;
    };
  }
}

/**
 * Opens a page in a fresh context, runs `body`, and fails where the page wrote an error.
 * `options`: `withoutWebGpu`, `withoutWebGl`, `withoutRelaxedSimd`, `asRealGpu`, `offline`, `expected` (a pattern of errors that belong to the test),
 * and what Playwright takes for a context.
 */
export async function withPage(address, options, body) {
  const { withoutWebGpu, withoutWebGl, withoutRelaxedSimd, asRealGpu, offline, expected, ...rest } = options;
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, offline: !!offline, ...rest });
  const complaints = [];
  try {
    await context.addInitScript(instruments, { withoutWebGpu, withoutWebGl, withoutRelaxedSimd, asRealGpu });
    const page = await context.newPage();
    const note = (text) => expected?.test(text) || complaints.push(text);
    page.on("console", (message) => message.type() === "error" && note(message.text()));
    page.on("pageerror", (error) => note(String(error.stack ?? error)));
    page.on("crash", () => note("the page's process has crashed"));
    await page.goto(address);
    await body(page, context);
  } finally {
    await context.close();
  }
  if (complaints.length) throw new Error(`the page complained:\n${complaints.join("\n")}`);
}

/** Waits until the app in the page has finished a run; its state. */
export async function finished(page, timeout = 120_000) {
  const done = () => {
    const state = window.diffmoe?.state();
    return state?.phase === "ready" && state.steps > 0 && state.step === state.steps && state;
  };
  try {
    return await (await page.waitForFunction(done, null, { timeout, polling: 100 })).jsonValue();
  } catch (error) {
    const seen = await page.evaluate(() => JSON.stringify(window.diffmoe?.state() ?? document.body.innerText));
    throw new Error(`${error.message}\nthe page says: ${seen}`);
  }
}

/** Waits until the browser has stored a whole model, which the page does beside the first run. */
export const modelKept = (page) =>
  page.waitForFunction(async () => {
    const cache = await caches.open("diffmoe-models-1");
    const manifests = (await cache.keys()).filter(({ url }) => url.endsWith("/manifest"));
    const all = await Promise.all(manifests.map(async (key) => (await cache.match(key)).json()));
    return all.some(({ sha256 }) => sha256);
  }, null, { timeout: 60_000, polling: 100 });

export const pixels = (page) => page.evaluate(() => Array.from(window.diffmoe.rgba() ?? []));

/** How many different colours a screenshot has. */
export const colours = (page, png) =>
  page.evaluate(async (png) => {
    const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
    const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
    canvas.drawImage(image, 0, 0);
    const pixels = new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer);
    return new Set(pixels).size;
  }, png.toString("base64"));

/** Drops a file on the page. */
export const drop = (page, name, type, bytes) =>
  page.evaluate(({ name, type, base64 }) => {
    const data = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([data], name, { type }));
    const canvas = document.getElementById("app");
    for (const kind of ["dragenter", "dragover", "drop"]) {
      canvas.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
    }
  }, { name, type, base64: Buffer.from(bytes).toString("base64") });

/** Runs the command line tool. */
export const tool = (...given) => promisify(execFile)(TOOL, given.map(String));

/** What the command line tool draws on the CPU, four bytes a pixel. */
export async function native(page, options) {
  const folder = await mkdtemp(join(tmpdir(), "diffmoe-"));
  try {
    const file = join(folder, "image.png");
    const given = Object.entries(options).flatMap(([key, value]) => [`--${key}`, String(value)]);
    await tool("sample", "--backend", "cpu", "--count", "1", "--out", file, ...given);
    const png = (await readFile(file)).toString("base64");
    return await page.evaluate(async (png) => {
      const blob = await (await fetch(`data:image/png;base64,${png}`)).blob();
      const image = await createImageBitmap(blob, { colorSpaceConversion: "none" });
      const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
      canvas.drawImage(image, 0, 0);
      return Array.from(canvas.getImageData(0, 0, image.width, image.height).data);
    }, png);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Largest difference between two images. */
export function distance(a, b) {
  if (a.length !== b.length || a.length === 0) throw new Error(`${a.length} and ${b.length} bytes`);
  return a.reduce((most, value, at) => Math.max(most, Math.abs(value - b[at])), 0);
}
