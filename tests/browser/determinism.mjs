// How much devices differ: the same seeds on each, compared with the command line on the processor. Not part of the usual tests:
// `node tests/browser/determinism.mjs`, after `cargo xtask web --offline` and `cargo build`, prints the table of docs/reliability.md.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { firefox, webkit } from "./drivers.mjs";
import { browser, close, ROOT, site, withPage } from "./lab.mjs";

const TOOL = process.env.DIFFMOE ?? join(ROOT, "target/debug/diffmoe");
const STEPS = Number(process.env.STEPS ?? 8);
const SEEDS = Number(process.env.SEEDS ?? 3);
const RUNS = ["eurosat", "emoji"].flatMap((model) =>
  Array.from({ length: SEEDS }, (_, i) => i + 1).map((seed) => ({ model, seed, steps: STEPS, guidance: 2, scheduler: "euler" })));

site.special.set("/empty.html", (_, response) =>
  response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>empty</title><link rel=icon href=data:,>"));

/** Pixels and trace of a run of the command line tool. */
async function native(run, given, environment = {}) {
  const folder = await mkdtemp(join(tmpdir(), "diffmoe-"));
  try {
    const [png, trace] = ["image.png", "trace.json"].map((name) => join(folder, name));
    const options = Object.entries(run).flatMap(([key, value]) => [`--${key}`, String(value)]);
    const files = ["--count", "1", "--scale", "1", "--out", png, "--trace", trace, "--trace-scores"];
    const env = { ...process.env, ...environment };
    await promisify(execFile)(TOOL, ["sample", "--class", "2", ...options, ...files, ...given], { env });
    return { png: (await readFile(png)).toString("base64"), trace: JSON.parse(await readFile(trace, "utf8")) };
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Runs in a page: a generator for each model, and what it draws. */
const inPage = async (run, create) => {
  const { default: init, Generator } = await import("/diffmoe.js");
  if (!window.generators) await init();
  window.generators ??= {};
  const key = JSON.stringify([run.model, create]);
  const model = `models/${run.model}.safetensors`;
  const generator = (window.generators[key] ??= await Generator.create({ model, ...create }));
  const { model: _, ...options } = run;
  const table = Object.keys(generator.info.labels)[0];
  const { rgba, trace, device } = await generator.sample({ ...options, labels: { [table]: 2 } });
  return { rgba: Array.from(rgba), trace: { forwards: trace.forwards.map(({ layers }) => ({ layers: layers.map(({ masks }) => ({ masks })) })) }, device };
};

/** Decoded in a browser, so that every device is compared with the same pixels. */
const decoded = (page, png) =>
  page.evaluate(async (png) => {
    const blob = await (await fetch(`data:image/png;base64,${png}`)).blob();
    const image = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
    canvas.drawImage(image, 0, 0);
    return Array.from(canvas.getImageData(0, 0, image.width, image.height).data);
  }, png);

/** Routing decisions that differ, of how many, and the largest distance of one of them from its threshold, in log-odds. */
function flips(wanted, made) {
  let [count, all, margin] = [0, 0, 0];
  wanted.forwards.forEach(({ layers }, pass) => layers.forEach(({ masks, need, thresholds }, layer) => {
    const experts = thresholds.length;
    const other = made.forwards[pass].layers[layer].masks;
    assert.equal(other.length, masks.length);
    masks.forEach((mask, token) => {
      for (let e = 0; e < experts; e++) {
        all += 1;
        if (Math.floor(mask / 2 ** e) % 2 === Math.floor(other[token] / 2 ** e) % 2) continue;
        count += 1;
        margin = Math.max(margin, Math.abs(need[token * experts + e] - Math.log(thresholds[e] / (1 - thresholds[e]))));
      }
    });
  }));
  return { count, all, margin };
}

const rows = new Map();
function add(name, wanted, made) {
  assert.equal(made.rgba.length, wanted.rgba.length);
  const row = rows.get(name) ?? { values: 0, different: 0, largest: 0, count: 0, all: 0, margin: 0 };
  wanted.rgba.forEach((value, at) => {
    if (at % 4 === 3) return;
    const difference = Math.abs(value - made.rgba[at]);
    row.values += 1;
    row.different += difference > 0;
    row.largest = Math.max(row.largest, difference);
  });
  const { count, all, margin } = flips(wanted.trace, made.trace);
  row.count += count;
  row.all += all;
  row.margin = Math.max(row.margin, margin);
  rows.set(name, row);
}

try {
  const wanted = [];
  await withPage(`${site.origin}/empty.html`, {}, async (page) => {
    const make = async (run, ...rest) => {
      const { png, trace } = await native(run, ...rest);
      return { rgba: await decoded(page, png), trace };
    };
    for (const run of RUNS) {
      const cpu = await make(run, ["--backend", "cpu"]);
      wanted.push(cpu);
      add("native, the same again", cpu, await make(run, ["--backend", "cpu"]));
      for (const variant of ["software", "gpu"]) {
        add(`native, wgpu on lavapipe, ${variant} kernels`, cpu, await make(run, ["--backend", "gpu"], { DIFFMOE_KERNELS: variant }));
      }
    }
    const pages = [
      ["processor, page's own thread", { backend: "cpu", workers: 0 }],
      ["processor, 2 workers", { backend: "cpu", workers: 2 }],
      ["WebGPU", { backend: "gpu" }],
    ];
    const engines = [{ name: "Chromium", page, close: () => {} }];
    for (const engine of [firefox, webkit]) {
      if (!engine.program) continue;
      const other = await engine.start();
      await other.goto(`${site.origin}/empty.html`);
      engines.push({ name: engine.name, page: other, close: () => other.close() });
    }
    for (const engine of engines) {
      for (const [what, create] of pages) {
        for (const [i, run] of RUNS.entries()) {
          try {
            const made = engine.name === "Chromium"
              ? await page.evaluate(([source, ...given]) => new Function(`return ${source}`)()(...given), [inPage.toString(), run, create])
              : await engine.page.evaluate(inPage, run, create);
            add(`${engine.name}, ${what}`, wanted[i], made);
          } catch (error) {
            console.error(`${engine.name}, ${what}: ${error.message.split("\n")[0]}`);
            break;
          }
        }
      }
      await engine.close();
    }
  });
  console.log(`${RUNS.length} images of ${STEPS} steps, Chromium ${browser.version()}\n`);
  console.log("| device | bytes that differ | largest difference of 255 | decisions that differ | their largest margin (log-odds) |");
  console.log("|---|---|---|---|---|");
  for (const [name, { values, different, largest, count, all, margin }] of rows) {
    console.log(`| ${name} | ${different} of ${values} | ${largest} | ${count} of ${all} | ${count ? margin.toFixed(4) : "–"} |`);
  }
} finally {
  await close();
}
