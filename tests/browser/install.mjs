// The page as an app: installed, without a network, in a newer version, and where others link to it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { DIST, PROGRAM, distance, finished, modelKept, native, pixels, site, withPage } from "./lab.mjs";
import { send } from "./server.mjs";

const SHARE = "model=emoji&seed=7&count=1&steps=3&guidance=2&scheduler=euler&labels=3,2";
const NATIVE = { class: 3, style: 2, seed: 7, steps: 3, guidance: 2, scheduler: "euler", model: "emoji" };
const address = `${site.origin}/?backend=cpu#${SHARE}`;

/** Waits until the page is kept. */
const kept = (page) => page.evaluate(async () => {
  const { active } = await navigator.serviceWorker.ready;
  while (active.state !== "activated") await new Promise((resolve) => setTimeout(resolve, 50));
});

test("after the first visit the page draws without a network", async () => {
  await withPage(address, { expected: /ERR_|Failed to load|Failed to fetch/ }, async (page) => {
    await finished(page);
    await kept(page);
    await modelKept(page);
    const caches = await page.evaluate(async () => {
      const names = await window.caches.keys();
      const of = async (name) => (await (await window.caches.open(name)).keys()).map(({ url }) => new URL(url).pathname);
      return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await of(name)])));
    });
    const [program] = Object.keys(caches).filter((name) => name.startsWith("diffmoe-program-"));
    const programs = caches[program].filter((path) => path.endsWith(".wasm"));
    assert.deepEqual(programs, [`/${PROGRAM}`], "the form for this browser alone");
    assert.ok(!caches[program].some((path) => path.includes("models/")), "models are kept by the program, with their sums");
    site.state.isDown = true;
    try {
      await page.reload();
      await finished(page);
      assert.ok(distance(await pixels(page), await native(page, NATIVE)) <= 2);
    } finally {
      site.state.isDown = false;
    }
  });
});

test("a newer version is announced", async () => {
  const script = (await readFile(join(DIST, "sw.js"))).toString();
  try {
    await withPage(address, {}, async (page) => {
      await finished(page);
      await kept(page);
      await page.reload();
      await finished(page);
      assert.equal(await page.isVisible("#newer"), false);
      const newer = Buffer.from(script.replace(/const VERSION = "[^"]*"/, 'const VERSION = "newer"'));
      site.special.set("/sw.js", (request, response) => send(request, response, newer, ".js", '"2"'));
      await page.evaluate(async () => (await navigator.serviceWorker.getRegistration()).update());
      await page.waitForSelector("#newer", { state: "visible", timeout: 30_000 });
      const names = () => page.evaluate(async () => (await caches.keys()).filter((name) => name.startsWith("diffmoe-program-")));
      for (let i = 0; i < 100 && (await names()).length > 1; i++) await page.waitForTimeout(100);
      assert.deepEqual(await names(), ["diffmoe-program-newer"], "the old set is gone");
    });
  } finally {
    site.special.delete("/sw.js");
  }
});

test("the manifest and its icons are good enough to be installed", async () => {
  await withPage(address, {}, async (page, context) => {
    const session = await context.newCDPSession(page);
    const { errors, data } = await session.send("Page.getAppManifest");
    assert.deepEqual(errors, []);
    const manifest = JSON.parse(data);
    assert.equal(manifest.display, "standalone");
    for (const { src, sizes } of [...manifest.icons, { src: "card.png", sizes: "1200x630" }, { src: "icon-180.png", sizes: "180x180" }]) {
      const size = await page.evaluate(async (src) => {
        const image = await createImageBitmap(await (await fetch(src)).blob());
        return `${image.width}x${image.height}`;
      }, src);
      assert.equal(size, sizes, src);
    }
    const shown = await page.getAttribute("meta[property='og:image']", "content");
    assert.match(shown, /card\.png$/);
  });
});

test("the tab's icon shows the image while it is generated, unless motion is unwelcome", async () => {
  const share = SHARE.replace("steps=3", "steps=12");
  for (const reducedMotion of ["no-preference", "reduce"]) {
    await withPage(`${site.origin}/?backend=cpu#${share}`, { reducedMotion }, async (page) => {
      await page.evaluate(() => {
        window.icons = [];
        const link = document.querySelector("link[rel=icon]");
        new MutationObserver(() => window.icons.push(link.href.slice(0, 20))).observe(link, { attributes: true });
      });
      await page.waitForFunction(() => window.diffmoe, null, { timeout: 60_000 });
      await finished(page);
      await page.waitForTimeout(500);
      const icons = await page.evaluate(() => window.icons);
      if (reducedMotion === "reduce") {
        assert.deepEqual(icons, []);
      } else {
        assert.ok(icons.length >= 2, String(icons));
        assert.equal(icons[0], "data:image/png;base6");
        assert.match(icons.at(-1), /^data:image\/svg/, "in the end the page's own");
      }
    });
  }
});
