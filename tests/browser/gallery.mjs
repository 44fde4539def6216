// Kept images: there on the next visit, until they are deleted; and images to start from, pasted and dropped.

import assert from "node:assert/strict";
import { test } from "node:test";
import { distance, drop, finished, pixels, site, withPage } from "./lab.mjs";

const SHARE = "model=emoji&seed=7&count=1&steps=3&guidance=2&scheduler=euler&labels=3,2";
const address = `${site.origin}/?backend=cpu#${SHARE}`;
// All controls are on the screen: what is scrolled away has no element.
const TALL = { viewport: { width: 1280, height: 2000 } };

/** Presses what a screen reader would press; `name` is a pattern. */
async function press(page, name) {
  const find = (name) => [...document.querySelectorAll("#mirror [role=button]")]
    .find((element) => new RegExp(name).test(element.getAttribute("aria-label")) && element.getAttribute("aria-disabled") !== "true");
  // The elements follow the app some frames later: one that the app has just replaced by another cannot be pressed.
  for (let before = null; ;) {
    const element = await page.waitForFunction(find, name, { timeout: 20_000, polling: 50 });
    const id = await element.evaluate((element) => element.id);
    if (id === before) return element.evaluate((element) => { element.focus(); element.click(); });
    before = id;
    await page.waitForTimeout(250);
  }
}

/** Waits until no element has the name: the elements follow the app a frame later. */
const gone = (page, name) => page.waitForFunction((name) => ![...document.querySelectorAll("#mirror [role=button]")]
  .some((element) => element.getAttribute("aria-label") === name), name, { timeout: 20_000, polling: 50 });

const kept = (page, count) => page.waitForFunction((count) => window.diffmoe?.state().kept === count, count, { timeout: 30_000, polling: 50 });

/** What the browser has stored. */
const stored = (page) => page.evaluate(async () => {
  const cache = await caches.open("diffmoe-gallery-1");
  const keys = await cache.keys();
  return Promise.all(keys.map(async (key) => {
    const bytes = new Uint8Array(await (await cache.match(key)).arrayBuffer());
    return { name: new URL(key.url).pathname, start: [...bytes.slice(1, 4)].map((byte) => String.fromCharCode(byte)).join("") };
  }));
});

test("a kept image is there after a reload, draws its run again, and is gone when it is deleted", async () => {
  await withPage(address, TALL, async (page) => {
    await finished(page);
    await kept(page, 0);
    const made = await pixels(page);
    const before = site.requests.length;
    await press(page, "^Keep$");
    await kept(page, 1);
    const said = () => /^Kept .* in the gallery\.$/.test(document.getElementById("said").textContent);
    await page.waitForFunction(said, null, { timeout: 20_000, polling: 50 });
    const [only, ...others] = await stored(page);
    assert.deepEqual([others.length, only.start], [0, "PNG"]);
    assert.match(only.name, /^\/diffmoe-gallery\/\d{13}-[0-9a-f]{16}\.png$/);
    assert.ok(!site.requests.slice(before).some(({ path }) => path.includes("gallery")), "nothing left the browser");

    await page.goto(address.replace("seed=7", "seed=8"));
    await page.reload();
    await finished(page);
    await kept(page, 1);
    assert.equal(await page.evaluate(() => window.diffmoe.state().seed), 8);
    await press(page, "^Kept: ");
    await press(page, "^Use these settings$");
    await gone(page, "Use these settings");
    await page.waitForFunction(() => window.diffmoe.state().seed === 7, null, { timeout: 60_000 });
    await finished(page);
    assert.equal(distance(await pixels(page), made), 0, "the same image");

    await press(page, "^Kept: ");
    await press(page, "^Delete$");
    await kept(page, 0);
    await gone(page, "Delete");
    await press(page, "^Restore the deleted image$");
    await kept(page, 1);
    assert.equal((await stored(page)).length, 1);
    await press(page, "^Kept: ");
    await press(page, "^Delete$");
    await kept(page, 0);
    await page.reload();
    await finished(page);
    await kept(page, 0);
    assert.deepEqual(await stored(page), []);
  });
});

test("an image for which there is no room is refused with a sentence, and those that are there stay", async () => {
  await withPage(address, TALL, async (page) => {
    await finished(page);
    await press(page, "^Keep$");
    await kept(page, 1);
    await page.evaluate(() => {
      Cache.prototype.put = () => Promise.reject(new DOMException("too much", "QuotaExceededError"));
    });
    await press(page, "^Another seed$");
    await press(page, "^Generate$");
    await page.waitForFunction(() => window.diffmoe.state().seed !== 7, null, { timeout: 30_000 });
    await finished(page);
    await press(page, "^Keep$");
    await page.waitForFunction(() => window.diffmoe.state().notes.some((note) => note.includes("no more room")), null, { timeout: 20_000 });
    assert.equal((await stored(page)).length, 1);
    assert.equal(await page.evaluate(() => window.diffmoe.state().kept), 1);
  });
});

/** A picture of four colours in a format of the browser, as base64. */
const picture = (page, type) => page.evaluate(async (type) => {
  const canvas = new OffscreenCanvas(96, 64);
  const context = canvas.getContext("2d");
  for (const [i, colour] of ["red", "lime", "blue", "white"].entries()) {
    context.fillStyle = colour;
    context.fillRect(48 * (i % 2), 32 * Math.floor(i / 2), 48, 32);
  }
  const blob = await canvas.convertToBlob({ type });
  if (blob.type !== type) throw new Error(`${blob.type} instead of ${type}`);
  return btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer())));
}, type);

const starts = (page, name) => page.waitForFunction((name) => window.diffmoe.state().startImage === name, name, { timeout: 20_000, polling: 50 });

test("runs start from an image that is dropped or pasted, in the formats of the browser", async () => {
  await withPage(address, TALL, async (page) => {
    await finished(page);
    const before = await pixels(page);
    for (const [name, type] of [["photo.jpg", "image/jpeg"], ["photo.webp", "image/webp"]]) {
      await drop(page, name, type, Buffer.from(await picture(page, type), "base64"));
      await starts(page, name);
    }
    await page.evaluate((base64) => {
      const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      const clipboardData = new DataTransfer();
      clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
      document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
    }, await picture(page, "image/png"));
    await starts(page, "pasted image");
    await press(page, "^Generate$");
    await page.waitForFunction(() => window.diffmoe.state().share.includes("strength="), null, { timeout: 60_000 });
    await finished(page);
    assert.ok(distance(await pixels(page), before) > 16, "it starts elsewhere");
  });
});

test("a damaged image is refused with a sentence, and the one before stays", async () => {
  await withPage(address, TALL, async (page) => {
    await finished(page);
    const jpeg = Buffer.from(await picture(page, "image/jpeg"), "base64");
    await drop(page, "good.jpg", "image/jpeg", jpeg);
    await starts(page, "good.jpg");
    await drop(page, "cut.jpg", "image/jpeg", jpeg.subarray(0, 20));
    await page.waitForFunction(() => window.diffmoe.state().notes.some((note) => note.startsWith("cut.jpg: ")), null, { timeout: 20_000 });
    assert.equal(await page.evaluate(() => window.diffmoe.state().startImage), "good.jpg");
  });
});
