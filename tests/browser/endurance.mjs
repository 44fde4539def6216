// What a page goes through with a visitor: no room to store anything, two tabs at once, and nobody looking.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { DIST, distance, finished, native, pixels, site, withPage } from "./lab.mjs";
import { send } from "./server.mjs";

const SHARE = "seed=7&count=1&steps=3&guidance=2&scheduler=euler&labels=3,2";
const NATIVE = { class: 3, style: 2, seed: 7, steps: 3, guidance: 2, scheduler: "euler", model: "emoji" };

/** The model at an address of its own, with the address of the page that draws it. */
async function withModel(path, body) {
  const bytes = await readFile(join(DIST, "models/emoji.safetensors"));
  site.special.set(path, (request, response) => send(request, response, bytes));
  const model = encodeURIComponent(`${site.origin}${path}`);
  try {
    await body(`${site.origin}/?backend=cpu&model=${model}#model=${model}&${SHARE}`);
  } finally {
    site.special.delete(path);
  }
}

const downloads = (path, from = 0) => site.requests.slice(from).filter((request) => request.path === path).length;

test("without room in the browser's storage the model is used and not kept", async () => {
  const path = "/no-room.safetensors";
  await withModel(path, (address) => withPage("about:blank", {}, async (page, context) => {
    await context.addInitScript(() => {
      if (!globalThis.Cache) return;
      Cache.prototype.put = () => Promise.reject(new DOMException("too much", "QuotaExceededError"));
      Storage.prototype.setItem = () => { throw new DOMException("too much", "QuotaExceededError"); };
    });
    for (const visit of [1, 2]) {
      await page.goto("about:blank");
      await page.goto(address);
      await finished(page);
      assert.ok(distance(await pixels(page), await native(page, NATIVE)) <= 2);
      assert.equal(downloads(path), visit, "each visit downloads it once");
    }
  }));
});

test("two tabs that download the same model at once both draw, and what they keep is whole", async () => {
  const path = "/two-tabs.safetensors";
  await withModel(path, (address) => withPage(address, {}, async (page, context) => {
    const other = await context.newPage();
    await other.goto(address);
    // Only the tab in front has frames.
    for (const tab of [other, page]) {
      await tab.bringToFront();
      await finished(tab);
    }
    const wanted = await native(page, NATIVE);
    for (const tab of [page, other]) assert.ok(distance(await pixels(tab), wanted) <= 2);
    await other.close();
    const before = site.requests.length;
    await page.reload();
    await finished(page);
    assert.ok(distance(await pixels(page), wanted) <= 2);
    assert.equal(downloads(path, before), 0, "the next visit downloads nothing");
  }));
});

test("a server that falls silent is asked again, and the download goes on where it was", async () => {
  const path = "/silent.safetensors";
  const bytes = await readFile(join(DIST, "models/emoji.safetensors"));
  const silent = [];
  await withModel(path, (address) => withPage("about:blank", {}, async (page, context) => {
    site.special.set(path, (request, response) => {
      silent.push(request.headers.range ?? null);
      // Half of the file and no more, then not even headers, then the rest.
      if (silent.length === 2) return;
      if (silent.length > 2) return send(request, response, bytes);
      response.writeHead(200, { "content-length": bytes.length, "cache-control": "no-store", etag: '"1"' });
      response.write(bytes.subarray(0, bytes.length / 2));
    });
    // A minute of patience passes in a second.
    await context.addInitScript(() => {
      const { setTimeout } = window;
      window.setTimeout = (callback, time, ...rest) => setTimeout.call(window, callback, time === 60_000 ? 1000 : time, ...rest);
    });
    await page.goto(address);
    await finished(page);
    assert.ok(distance(await pixels(page), await native(page, NATIVE)) <= 2);
    assert.equal(silent.length, 3);
    assert.equal(silent[0], null);
    assert.match(silent[1], /^bytes=[1-9]\d*-$/);
    assert.equal(silent[2], silent[1]);
  }));
});

test("a server that claims more bytes than there is memory is refused with a sentence", async () => {
  const path = "/huge.safetensors";
  await withModel(path, (address) => withPage("about:blank", { expected: /ERR_|Failed to load resource/ }, async (page) => {
    site.special.set(path, (_, response) => {
      response.writeHead(200, { "content-length": 2 ** 52, "cache-control": "no-store" });
      response.write("a few");
    });
    for (const visit of [1, 2]) {
      await page.goto("about:blank");
      await page.goto(address);
      const said = () => window.diffmoe?.state().notes.find((note) => note.includes("memory"));
      assert.ok(await page.waitForFunction(said, null, { timeout: 60_000 }), `visit ${visit}`);
    }
  }));
});

/** A page is hidden while `window.isHidden`: it has no frames, and timers come once a second. */
function hideable() {
  window.isHidden = true;
  const waiting = [];
  const { requestAnimationFrame, setTimeout } = window;
  window.requestAnimationFrame = (callback) => window.isHidden ? waiting.push(callback) : requestAnimationFrame.call(window, callback);
  window.setTimeout = (callback, time = 0, ...rest) => setTimeout.call(window, callback, window.isHidden ? Math.max(time, 1000) : time, ...rest);
  Object.defineProperty(Document.prototype, "hidden", { get: () => window.isHidden });
  Object.defineProperty(Document.prototype, "visibilityState", { get: () => window.isHidden ? "hidden" : "visible" });
  window.setHidden = (isHidden) => {
    window.isHidden = isHidden;
    document.dispatchEvent(new Event("visibilitychange"));
    if (!isHidden) for (const callback of waiting.splice(0)) requestAnimationFrame.call(window, callback);
  };
}

test("a page in the background rests, and draws the same image once it is looked at", async () => {
  const path = "/hidden.safetensors";
  await withModel(path, (address) => withPage("about:blank", {}, async (page, context) => {
    await context.addInitScript(hideable);
    await page.goto(address);
    await page.waitForTimeout(4000);
    const state = await page.evaluate(() => window.diffmoe?.state());
    assert.ok(!state || !state.step, "nothing is drawn for nobody");
    await page.evaluate(() => window.setHidden(false));
    // Hidden again in the middle of the run.
    await page.waitForFunction(() => window.diffmoe?.state().phase === "running", null, { timeout: 60_000, polling: 5 });
    await page.evaluate(() => window.setHidden(true));
    await page.waitForTimeout(2500);
    await page.evaluate(() => window.setHidden(false));
    await finished(page);
    assert.ok(distance(await pixels(page), await native(page, NATIVE)) <= 2);
  }));
});

test("a script draws in a tab that is hidden for the whole run", async () => {
  site.special.set("/empty.html", (_, response) =>
    response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>empty</title><link rel=icon href=data:,>"));
  await withPage("about:blank", {}, async (page, context) => {
    await context.addInitScript(hideable);
    await page.goto(`${site.origin}/empty.html`);
    const wanted = await native(page, NATIVE);
    for (const create of [{ backend: "cpu", workers: 0 }, { backend: "cpu", workers: 2 }, { backend: "gpu" }]) {
      const rgba = await page.evaluate(async (create) => {
        const { default: init, Generator } = await import("/diffmoe.js");
        await init();
        const generator = await Generator.create({ model: "models/emoji.safetensors", ...create });
        const options = { labels: { subject: 3, style: 2 }, seed: 7, steps: 3, guidance: 2, scheduler: "euler" };
        const { rgba } = await generator.sample(options);
        return Array.from(rgba);
      }, create);
      assert.ok(distance(rgba, wanted) <= 2, JSON.stringify(create));
    }
  });
});
