// The page as it looks: on a desk, on a phone, light and dark. Written to the folder in $SCREENS where it is set.

import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { colours, distance, finished, native, pixels, site, withPage } from "./lab.mjs";

const SHARE = "model=emoji&seed=11&count=4&steps=12&guidance=2&scheduler=euler&labels=varied,3";
// As developer tools emulate it: they report the canvas in CSS pixels where device pixels are asked for.
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 3, hasTouch: true, isMobile: true };

const SCREENS = {
  "page-desktop-dark": { colorScheme: "dark" },
  "page-desktop-light": { colorScheme: "light" },
  "page-phone-dark": { colorScheme: "dark", ...PHONE },
  "page-phone-light": { colorScheme: "light", ...PHONE },
};

/** Writes a screenshot to the folder in $SCREENS. */
async function kept(name, png) {
  if (!process.env.SCREENS) return;
  await mkdir(process.env.SCREENS, { recursive: true });
  await writeFile(join(process.env.SCREENS, `${name}.png`), png);
}

for (const [name, options] of Object.entries(SCREENS)) {
  test(`${name} is painted`, async () => {
    await withPage(`${site.origin}/?backend=cpu#${SHARE}`, options, async (page) => {
      await finished(page);
      await page.waitForTimeout(1000);
      const png = await page.screenshot();
      assert.ok((await colours(page, png)) > 200, "more than a blank page");
      const canvas = await page.evaluate(() => ["width", "height"].map((side) => document.querySelector("canvas")[side]));
      const { width, height } = page.viewportSize();
      assert.deepEqual(canvas, [width, height].map((side) => side * (options.deviceScaleFactor ?? 1)), "sharp");
      const wider = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
      assert.equal(wider, false, "nothing to scroll sideways");
      await kept(name, png);
      await page.keyboard.press("e");
      await page.waitForTimeout(500);
      // A run without the router's scores is drawn again.
      await finished(page);
      await page.waitForTimeout(1000);
      const explore = await page.screenshot();
      assert.ok((await colours(page, explore)) > 200, "Explore is painted");
      assert.notDeepEqual(explore, png, "Explore is another mode");
      assert.match(await page.evaluate(() => location.hash), /explore=/, "the link shows what is looked at");
      await kept(`${name}-explore`, explore);
    });
  });
}

for (const [name, options] of [["WebGL", { withoutWebGpu: true }], ["WebGPU", { withoutWebGl: true }]]) {
  test(`with ${name} alone the page is painted, and computes`, async () => {
    const share = "model=emoji&seed=7&count=1&steps=3&guidance=2&scheduler=euler&labels=3,2";
    await withPage(`${site.origin}/?backend=auto#${share}`, options, async (page) => {
      assert.equal((await finished(page)).painter, name.toLowerCase());
      await page.waitForTimeout(1000);
      const png = await page.screenshot();
      await kept(`page-painted-with-${name.toLowerCase()}`, png);
      assert.ok((await colours(page, png)) > 200, "more than a blank page");
      const wanted = await native(page, { class: 3, style: 2, seed: 7, steps: 3, guidance: 2, scheduler: "euler", model: "emoji" });
      assert.ok(distance(await pixels(page), wanted) <= 2);
    });
  });
}
