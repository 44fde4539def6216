// The page as it looks: on a desk, on a phone, light and dark. Written to the folder in $SCREENS where it is set.

import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { finished, site, withPage } from "./lab.mjs";

const SHARE = "model=emoji&seed=11&count=4&steps=12&guidance=2&scheduler=euler&labels=varied,3";
// One pixel a point: the browser's emulation of finer screens tells the canvas another size than it has.
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

const SCREENS = {
  "page-desktop-dark": { colorScheme: "dark" },
  "page-desktop-light": { colorScheme: "light" },
  "page-phone-dark": { colorScheme: "dark", ...PHONE },
  "page-phone-light": { colorScheme: "light", ...PHONE },
};

/** How many different colours an image has, up to a limit. */
const colours = (page, png) =>
  page.evaluate(async (png) => {
    const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
    const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
    canvas.drawImage(image, 0, 0);
    const pixels = new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer);
    return new Set(pixels).size;
  }, png);

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
      assert.ok((await colours(page, png.toString("base64"))) > 200, "more than a blank page");
      const wider = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
      assert.equal(wider, false, "nothing to scroll sideways");
      await kept(name, png);
      await page.keyboard.press("e");
      await page.waitForTimeout(500);
      // A run without the router's scores is drawn again.
      await finished(page);
      await page.waitForTimeout(1000);
      const explore = await page.screenshot();
      assert.ok((await colours(page, explore.toString("base64"))) > 200, "Explore is painted");
      assert.notDeepEqual(explore, png, "Explore is another mode");
      assert.match(await page.evaluate(() => location.hash), /explore=/, "the link shows what is looked at");
      await kept(`${name}-explore`, explore);
    });
  });
}
