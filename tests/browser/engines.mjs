// The page in Firefox and WebKit: what a visitor meets first there, and the API. Chromium has the other tests.
// An engine that is not installed is reported as a skipped test with the name of its package.

import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { firefox, pause, webkit } from "./drivers.mjs";
import { colours, DIST, distance, native, pixels, site, withPage } from "./lab.mjs";

const SHARE = "model=emoji&seed=7&count=1&steps=3&guidance=2&scheduler=euler&labels=fox,twemoji";
const NATIVE = { class: 3, style: 2, seed: 7, steps: 3, guidance: 2, scheduler: "euler", model: "emoji" };
const OPTIONS = { labels: { subject: 3, style: 2 }, seed: 7, steps: 3, guidance: 2, scheduler: "euler" };

// Of a test: an engine that hangs fails it, not all that follow.
const timeout = 300_000;

/** Waits until the app in the page has finished a run; its state. */
async function finished(page) {
  let seen;
  for (const end = Date.now() + 180_000; Date.now() < end; await pause(200)) {
    seen = await page.evaluate(() => window.diffmoe?.state() ?? document.body.innerText);
    if (seen?.phase === "ready" && seen.steps > 0 && seen.step === seen.steps && !seen.recorded) return seen;
  }
  const text = await page.evaluate(() => document.body.innerText);
  throw new Error(`no finished run: ${JSON.stringify(seen)}; the page says: ${text}`);
}

let wanted;
before(async () => {
  await withPage("about:blank", {}, async (page) => {
    wanted = await native(page, NATIVE);
  });
});

for (const engine of [firefox, webkit]) {
  const skip = engine.program ? false : `${engine.name} is not installed; on Debian: apt-get install ${engine.package}`;
  let page;
  const started = async () => (page ??= await engine.start());
  after(() => page?.close());

  test(`${engine.name}: the page draws what a link names`, { skip, timeout }, async (context) => {
    await started();
    await page.goto(`${site.origin}/#${SHARE}`);
    const state = await finished(page);
    context.diagnostic(`painted with ${state.painter}, computed by ${state.device}; steps ${state.stepMs.map(Math.round)} ms`);
    assert.ok(distance(await pixels(page), wanted) <= 2);
    await pause(1000);
    const png = await page.screenshot();
    if (process.env.SCREENS) {
      await mkdir(process.env.SCREENS, { recursive: true });
      await writeFile(join(process.env.SCREENS, `page-${engine.name.toLowerCase()}.png`), png);
    }
    assert.ok((await colours(page, png)) > 200, "it is painted");
    const shared = new URLSearchParams(state.share);
    for (const [key, value] of new URLSearchParams(SHARE)) assert.equal(shared.get(key), value, key);
  });

  test(`${engine.name}: the API draws what the command line draws, with any number of workers`, { skip, timeout }, async () => {
    await started();
    await page.goto(`${site.origin}/example.html`);
    const made = await page.evaluate(async (options) => {
      const { default: init, Generator } = await import("/diffmoe.js");
      await init();
      const made = [];
      for (const workers of [0, 1, 2]) {
        const generator = await Generator.create({ model: "models/emoji.safetensors", backend: "cpu", workers });
        const { rgba } = await generator.sample(options);
        const both = await generator.sample({ ...options, count: 2, labels: { subject: [3, 5], style: 2 } });
        made.push({ rgba: Array.from(rgba), both: Array.from(both.rgba), device: generator.info.device });
        generator.free();
      }
      return made;
    }, OPTIONS);
    assert.deepEqual(made.map(({ device }) => /, (\d) workers?$/.exec(device)?.[1] ?? "0"), ["0", "1", "2"]);
    for (const { rgba, both } of made) {
      // With multiply-adds the same bytes; WebKit rounds products and sums separately.
      const most = engine.name === "WebKit" ? 1 : 0;
      assert.ok(distance(rgba, wanted) <= most, `${distance(rgba, wanted)}`);
      assert.deepEqual(rgba, made[0].rgba);
      assert.deepEqual(both, made[0].both);
    }
  });

  test(`${engine.name}: WebGPU and the processor differ by 1 of 255 at most`, { skip, timeout }, async (context) => {
    await started();
    await page.goto(`${site.origin}/example.html`);
    const made = await page.evaluate(async (options) => {
      if (!(await navigator.gpu?.requestAdapter())) return null;
      const { default: init, Generator } = await import("/diffmoe.js");
      await init();
      const generator = await Generator.create({ model: "models/emoji.safetensors", backend: "gpu" });
      const { rgba, device } = await generator.sample(options);
      return { rgba: Array.from(rgba), device };
    }, OPTIONS);
    if (!made) return context.skip(`${engine.name} has no WebGPU here`);
    assert.match(made.device, /BrowserWebGpu/);
    assert.ok(distance(made.rgba, wanted) <= 1, `${distance(made.rgba, wanted)}`);
  });

  test(`${engine.name}: the API works in a worker of one's own`, { skip, timeout }, async () => {
    await started();
    await page.goto(`${site.origin}/example.html`);
    const made = await page.evaluate((origin, options) => new Promise((resolve) => {
      const script = `
        import init, { Generator } from "${origin}/diffmoe.js";
        onmessage = async ({ data }) => {
          try {
            await init();
            const generator = await Generator.create({ model: "models/emoji.safetensors", backend: "cpu" });
            const { rgba } = await generator.sample(data);
            postMessage(Array.from(rgba));
          } catch (error) {
            postMessage(String(error));
          }
        };
        postMessage("ready");`;
      const worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
      // A busy Firefox may lose what is sent before the module listens.
      worker.onmessage = ({ data }) => (data === "ready" ? worker.postMessage(options) : resolve(data));
      worker.onerror = ({ message }) => resolve(message);
    }), site.origin, OPTIONS);
    assert.equal(typeof made, "object", made);
    assert.ok(distance(made, wanted) <= 1);
  });

  test(`${engine.name}: the offline file draws from a file`, { skip, timeout }, async () => {
    await started();
    await page.goto(`${pathToFileURL(join(DIST, "diffmoe.html"))}#${SHARE}`);
    const state = await finished(page);
    assert.equal(state.model, "emoji");
    assert.ok(distance(await pixels(page), wanted) <= 2);
  });
}
