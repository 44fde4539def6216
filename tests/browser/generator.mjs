// The API without a user interface, as another page would use it.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT, distance, native, site, tool, withPage } from "./lab.mjs";
import { send } from "./server.mjs";

const OPTIONS = { labels: { subject: 3, style: 2 }, seed: 7, steps: 3, guidance: 2, scheduler: "euler" };
const NATIVE = { class: 3, style: 2, seed: 7, steps: 3, guidance: 2, scheduler: "euler", model: "emoji" };

/** An empty page of the site, with a generator in `window.generator`. */
async function withGenerator(options, create, body) {
  site.special.set("/empty.html", (_, response) =>
    response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>empty</title><link rel=icon href=data:,>"));
  await withPage(`${site.origin}/empty.html`, options, async (page) => {
    await page.evaluate(async (create) => {
      const { default: init, Generator, shaders } = await import("/diffmoe.js");
      await init();
      window.shaders = shaders;
      window.generator = await Generator.create({ model: "models/emoji.safetensors", ...create });
    }, create);
    await body(page);
  });
}

const sample = (page, options) =>
  page.evaluate(async (options) => {
    const steps = [];
    const onStep = (step, total, rgba, width) => steps.push([step, total, rgba.length, width]);
    const { rgba, trace, ...rest } = await window.generator.sample({ ...options, onStep });
    return { ...rest, rgba: Array.from(rgba), trace, steps, kind: rgba.constructor.name };
  }, options);

test("the processor draws what the command line draws", async () => {
  await withGenerator({}, { backend: "cpu" }, async (page) => {
    const made = await sample(page, OPTIONS);
    assert.equal(distance(made.rgba, await native(page, NATIVE)), 0, "the same bytes");
    assert.deepEqual(made.steps, [1, 2, 3].map((step) => [step, 3, 64 * 64 * 4, 64]));
    assert.equal(made.kind, "Uint8ClampedArray");
    assert.equal(made.width * made.height * 4, made.rgba.length);
    assert.ok(made.capacity > 0 && made.capacity < 8, `capacity ${made.capacity}`);
    assert.equal(typeof made.trace, "object");
    const info = await page.evaluate(() => window.generator.info);
    assert.equal(info.labels.subject.length, 876);
    assert.equal(info.labels.style.length, 8);
    assert.equal(info.refiner, null);
  });
});

test("a refiner ends what its model began, with more tokens", async () => {
  await withGenerator({}, { model: "models/emoji_256.safetensors", backend: "cpu" }, async (page) => {
    const info = await page.evaluate(() => window.generator.info);
    assert.deepEqual([info.tokens, info.refiner], [64, { from: 0.5, tokens: 256 }]);
    const made = await sample(page, OPTIONS);
    assert.equal(distance(made.rgba, await native(page, { ...NATIVE, model: "emoji_256" })), 0, "the same bytes");
    const grids = new Set(made.trace.forwards.map(({ scale = 1 }) => scale));
    assert.deepEqual([...grids], [2, 1]);
  });
});

test("without relaxed SIMD the other form of the program draws, up to rounding", async () => {
  const before = site.requests.length;
  await withGenerator({ withoutRelaxedSimd: true }, { backend: "cpu" }, async (page) => {
    const made = await sample(page, OPTIONS);
    assert.ok(distance(made.rgba, await native(page, NATIVE)) <= 2);
  });
  const programs = new Set(site.requests.slice(before).map(({ path }) => path).filter((path) => path.endsWith(".wasm")));
  assert.deepEqual([...programs], ["/diffmoe_bg.wasm"]);
});

test("any number of workers draws the same bytes, and so does the page's own thread", async () => {
  await withGenerator({}, { backend: "cpu" }, async (page) => {
    const made = await page.evaluate(async (options) => {
      const { Generator } = await import("/diffmoe.js");
      const hash = async (bytes) => Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
      const made = [];
      for (const workers of [0, 1, 2, 3]) {
        const generator = await Generator.create({ model: "models/emoji.safetensors", backend: "cpu", workers });
        const { rgba, trace } = await generator.sample({ ...options, count: 3 });
        const text = new TextEncoder().encode(JSON.stringify(trace));
        made.push({ rgba: await hash(rgba), trace: await hash(text), device: generator.info.device });
        generator.free();
      }
      return made;
    }, { seed: 7, steps: 2, guidance: 2, scheduler: "heun" });
    for (const { rgba, trace } of made.slice(1)) {
      assert.deepEqual(rgba, made[0].rgba);
      assert.deepEqual(trace, made[0].trace, "the same routing");
    }
    const workers = made.map(({ device }) => /, (\d) workers?$/.exec(device)?.[1]);
    assert.deepEqual(workers, [undefined, "1", "2", "3"]);
  });
});

test("the API works in a user's own worker, with relative addresses", async () => {
  site.special.set("/own/worker.js", (_, response) =>
    response.writeHead(200, { "content-type": "text/javascript" }).end(`
      import init, { Generator } from "../diffmoe.js";
      onmessage = async ({ data }) => {
        try {
          await init();
          const generator = await Generator.create({ model: "../models/emoji.safetensors", backend: "cpu" });
          const { rgba } = await generator.sample(data);
          postMessage({ rgba: Array.from(rgba), device: generator.info.device });
        } catch (error) {
          postMessage({ error: String(error) });
        }
      };`));
  await withPage(`${site.origin}/example.html`, {}, async (page) => {
    const made = await page.evaluate((options) => new Promise((resolve, reject) => {
      const worker = new Worker("/own/worker.js", { type: "module" });
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
      worker.postMessage(options);
    }), OPTIONS);
    assert.equal(made.error, undefined);
    assert.match(made.device, /worker/, "it has workers of its own");
    assert.ok(distance(made.rgba, await native(page, NATIVE)) <= 2);
  });
});

test("a worker that ends is replaced, and the image stays the same", async () => {
  await withGenerator({}, { backend: "cpu" }, async (page) => {
    const wanted = await sample(page, OPTIONS);
    const made = await page.evaluate(async (options) => {
      const { Generator } = await import("/diffmoe.js");
      const original = window.Worker;
      const workers = [];
      window.Worker = class extends original {
        constructor(...given) { super(...given); workers.push(this); }
      };
      const generator = await Generator.create({ model: "models/emoji.safetensors", backend: "cpu", workers: 1 });
      const onStep = (step) => step === 1 && workers.length === 1 && workers[0].dispatchEvent(new ErrorEvent("error", { message: "gone" }));
      const { rgba } = await generator.sample({ ...options, onStep });
      return { rgba: Array.from(rgba), workers: workers.length };
    }, OPTIONS);
    assert.equal(made.workers, 2);
    assert.deepEqual(made.rgba, wanted.rgba);
  });
});

test("words become the image that the command line makes of them", async () => {
  const words = { seed: 3, steps: 2, scheduler: "euler" };
  const [prompt, negative] = ["a fox, twemoji", "blob"];
  await withGenerator({}, { backend: "cpu", model: "models/emoji_text.safetensors" }, async (page) => {
    const wanted = await native(page, { ...words, prompt, negative, model: "emoji_text" });
    const made = await sample(page, { ...words, prompt, negative });
    assert.ok(distance(made.rgba, wanted) <= 2, `${distance(made.rgba, wanted)}`);
    const other = await sample(page, { ...words, prompt: "a rocket, twemoji", negative });
    assert.ok(distance(other.rgba, wanted) > 50);
  });
});

test("WebGPU draws what the command line draws, and goes on when the device is lost", async () => {
  await withGenerator({}, { backend: "gpu" }, async (page) => {
    const wanted = await native(page, NATIVE);
    const made = await sample(page, OPTIONS);
    assert.ok(distance(made.rgba, wanted) <= 2, `${distance(made.rgba, wanted)}`);
    assert.ok(made.device.includes("BrowserWebGpu"), made.device);
    const again = await page.evaluate(async (options) => {
      const onStep = (step) => step === 1 && window.devices.at(-1).destroy();
      const { rgba } = await window.generator.sample({ ...options, onStep });
      return { rgba: Array.from(rgba), devices: window.devices.length };
    }, OPTIONS);
    assert.equal(again.devices, 2, "a second device was made");
    assert.deepEqual(again.rgba, made.rgba, "the image is the same");
  });
});

test("a JiT with experts draws what the command line draws, on the processor and with both kinds of kernels", async () => {
  const folder = await mkdtemp(join(tmpdir(), "diffmoe-"));
  try {
    const file = join(folder, "jit.safetensors");
    await tool("convert", join(ROOT, "tests/fixtures/jit_moe/published.safetensors"), "--out", file);
    const bytes = await readFile(file);
    site.special.set("/jit.safetensors", (request, response) => send(request, response, bytes));
    const run = { seed: 7, steps: 3, guidance: 2, scheduler: "euler" };
    for (const [backend, asRealGpu, most] of [["cpu", false, 0], ["gpu", false, 2], ["gpu", true, 2]]) {
      await withGenerator({ asRealGpu }, { model: "/jit.safetensors", backend }, async (page) => {
        const made = await sample(page, { ...run, labels: { class: 3 } });
        const far = distance(made.rgba, await native(page, { ...run, class: 3, model: file }));
        assert.ok(far <= most, `${backend}, ${asRealGpu}: ${far}`);
        // Of sixteen patches, without the class tokens, each takes two experts.
        const masks = made.trace.forwards.flatMap(({ layers }) => layers.map(({ masks }) => masks));
        assert.ok(masks.length > 0 && masks.every((of) => of.length === 16), "tokens of patches");
        assert.equal(made.capacity, 2);
      });
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});

for (const asRealGpu of [false, true]) {
  test(`every pipeline of the kernels for ${asRealGpu ? "real GPUs" : "software"} compiles`, async () => {
    await withGenerator({ asRealGpu }, { backend: "gpu" }, async (page) => {
      const report = await page.evaluate(async () => {
        // Pipelines are made before the first step is computed; its pixels are checked elsewhere.
        const abort = new AbortController();
        const run = window.generator.sample({ seed: 1, steps: 2, scheduler: "heun", signal: abort.signal });
        await new Promise((resolve) => setTimeout(resolve, 500));
        while (window.pipelines.length === 0) await new Promise((resolve) => setTimeout(resolve, 100));
        abort.abort();
        const end = await run.then(() => "finished", (error) => error.name);
        const messages = [];
        for (const { label, info } of window.modules) {
          for (const { type, lineNum, message } of (await info).messages) messages.push(`${label}:${lineNum} ${type}: ${message}`);
        }
        for (const { label, constants, error } of window.pipelines) {
          const failure = await error;
          if (failure) messages.push(`${label} ${JSON.stringify(constants)}: ${failure.message}`);
        }
        return { end, messages, kernels: [...new Set(window.pipelines.map(({ label }) => label))] };
      });
      assert.deepEqual(report.messages, []);
      assert.equal(report.end, "AbortError");
      assert.ok(report.kernels.length >= 11, `only ${report.kernels}`);
      assert.equal(report.kernels.includes("linear_software"), !asRealGpu, String(report.kernels));
    });
  });
}

test("every shader compiles without a message", async () => {
  await withGenerator({}, { backend: "cpu" }, async (page) => {
    const report = await page.evaluate(async () => {
      const device = await (await navigator.gpu.requestAdapter()).requestDevice();
      const messages = [];
      const sources = window.shaders();
      for (const { name, source, constants } of sources) {
        const module = device.createShaderModule({ code: source });
        for (const { type, lineNum, message } of (await module.getCompilationInfo()).messages) {
          messages.push(`${name}:${lineNum} ${type}: ${message}`);
        }
        await device
          .createComputePipelineAsync({ layout: "auto", compute: { module, constants } })
          .catch((error) => messages.push(`${name}: ${error.message}`));
      }
      return { messages, count: sources.length };
    });
    assert.deepEqual(report.messages, []);
    assert.ok(report.count >= 16, `${report.count} shaders`);
  });
});

test("a run starts from an image, and keeps what the mask keeps", async () => {
  await withGenerator({}, { backend: "cpu" }, async (page) => {
    const report = await page.evaluate(async (options) => {
      const first = await window.generator.sample(options);
      const { rgba, width, height } = first;
      const mask = new ImageData(width, height);
      for (let i = 0; i < mask.data.length; i += 4) mask.data.set((i / 4) % width < 32 ? [0, 0, 0, 255] : [255, 255, 255, 255], i);
      const other = { ...options, labels: { subject: "pizza", style: 2 }, steps: 4, initImage: first };
      const steps = [];
      const half = await window.generator.sample({ ...other, strength: 0.5, onStep: (step, of) => steps.push([step, of]) });
      const masked = await window.generator.sample({ ...other, mask });
      const told = (promise) => promise.then(() => "nothing", (error) => error.message);
      const same = (a, b, kept) => a.every((value, i) => ((i >> 2) % width < 32) !== kept || value === b[i]);
      const varied = await window.generator.sample({ ...options, variationSeed: 8, variationStrength: 0.2, png: true, scale: 2, smooth: true });
      const mixed = (mixStrength) => window.generator.sample({ ...options, mix: { subject: "pizza" }, mixStrength });
      const [none, between, all] = [await mixed(0), await mixed(0.5), await mixed(1)];
      const pizza = await window.generator.sample({ ...options, labels: { ...options.labels, subject: "pizza" } });
      const equal = (a, b) => a.rgba.every((value, i) => value === b.rgba[i]);
      return {
        steps,
        blends: equal(none, first) && equal(all, pizza) && !equal(between, first) && !equal(between, pizza),
        mix: await told(window.generator.sample({ mix: { subject: "unicorns" } })),
        mixStrength: await told(window.generator.sample({ mixStrength: 0.5 })),
        differs: !same(half.rgba, rgba, true) && !same(varied.rgba, rgba, true),
        kept: same(masked.rgba, rgba, true),
        redrawn: !same(masked.rgba, rgba, false),
        // Width and height, after the signature and the head of the first chunk.
        png: [new DataView(varied.png.buffer).getUint32(16), new DataView(varied.png.buffer).getUint32(20)],
        image: await told(window.generator.sample({ initImage: "photo.png" })),
        mask: await told(window.generator.sample({ mask })),
        strength: await told(window.generator.sample({ strength: 0.5 })),
        variation: await told(window.generator.sample({ variationSeed: 3 })),
      };
    }, OPTIONS);
    assert.deepEqual(report.steps, [[1, 2], [2, 2]]);
    assert.ok(report.differs && report.kept && report.redrawn, JSON.stringify(report));
    assert.deepEqual(report.png, [128, 128]);
    assert.match(report.image, /initImage must be an ImageData/);
    assert.match(report.mask, /mask needs initImage/);
    assert.match(report.strength, /strength needs initImage/);
    assert.match(report.variation, /need each other/);
    assert.ok(report.blends, "a blend lies between two labels");
    assert.match(report.mix, /unknown subject "unicorns"/);
    assert.match(report.mixStrength, /needs a label to blend with/);
  });
});

test("a script hears what is wrong with its options, and a signal stops the work", async () => {
  await withGenerator({ expected: /404/ }, { backend: "cpu" }, async (page) => {
    const outcomes = await page.evaluate(async () => {
      const told = (promise) => promise.then(() => "nothing", (error) => `${error.name}: ${error.message}`);
      const { Generator } = await import("/diffmoe.js");
      const abort = new AbortController();
      const steps = [];
      const onStep = (step) => { steps.push(step); abort.abort(); };
      return {
        steps,
        label: await told(window.generator.sample({ labels: { subject: "unicorns" } })),
        table: await told(window.generator.sample({ labels: { mood: "happy" } })),
        option: await told(window.generator.sample({ step: 4 })),
        number: await told(window.generator.sample({ steps: 0 })),
        broken: await told(Generator.create({ model: new Uint8Array(100) })),
        missing: await told(Generator.create({ model: "models/none.safetensors" })),
        aborted: await told(window.generator.sample({ steps: 50, signal: abort.signal, onStep })),
        still: (await window.generator.sample({ steps: 1 })).count,
      };
    });
    assert.match(outcomes.label, /unknown subject "unicorns"/);
    assert.match(outcomes.table, /unknown option "mood": expected subject, style/);
    assert.match(outcomes.option, /unknown option "step"/);
    assert.match(outcomes.number, /steps must be 1–10000, got 0/);
    assert.match(outcomes.broken, /not a complete safetensors file/);
    assert.match(outcomes.missing, /status 404/);
    assert.match(outcomes.aborted, /^AbortError/);
    assert.deepEqual(outcomes.steps, [1]);
    assert.equal(outcomes.still, 1, "the generator works on");
  });
});

test("a PNG keeps its settings, and like uses them", async () => {
  await withGenerator({}, { backend: "cpu" }, async (page) => {
    const [first, again, other] = await page.evaluate(async (options) => {
      const bare = { trace: false };
      const first = await window.generator.sample({ ...options, ...bare, png: true });
      const again = await window.generator.sample({ like: first.png, ...bare });
      const other = await window.generator.sample({ like: first.png.buffer, seed: 8, ...bare });
      return [first, again, other].map(({ rgba, seed, png }) => ({ rgba: Array.from(rgba), seed, png: png && Array.from(png) }));
    }, OPTIONS);
    assert.deepEqual(again.rgba, first.rgba);
    assert.equal(again.png, undefined, "only where it is asked for");
    assert.equal(other.seed, 8);
    assert.notDeepEqual(other.rgba, first.rgba);
    const text = Buffer.from(first.png).toString("latin1");
    assert.match(text, /parameters\0.*\nSteps: 3, Sampler: Euler, CFG scale: 2, Seed: 7, Size: 64x64, /);
    assert.match(text, /diffmoe\0model=models\/emoji\.safetensors&hash=[0-9a-f]{10}&seed=7&count=1&/);
    const told = await page.evaluate(() => window.generator.sample({ like: new Uint8Array(9) }).catch((error) => error.message));
    assert.match(told, /like: this is no PNG file/);
  });
});

test("the example page draws", async () => {
  await withPage(`${site.origin}/example.html`, {}, async (page) => {
    await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("Generated on"), null, { timeout: 60_000 });
    const colours = await page.evaluate(() => {
      const { data } = document.querySelector("canvas").getContext("2d").getImageData(0, 0, 64, 64);
      return new Set(new Uint32Array(data.buffer)).size;
    });
    assert.ok(colours > 50, `${colours} colours`);
  });
});
