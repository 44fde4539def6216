import { after, test } from "node:test";
import { writeFile } from "node:fs/promises";
import { close, finished, site, withPage } from "./lab.mjs";
after(close);
const shots = [
  ["explore", "explore=step:6,overlay:many", { viewport: { width: 1280, height: 800 } }],
  ["coarse", "explore=step:2,overlay:who", { viewport: { width: 1280, height: 800 } }],
  ["phone", "explore=step:7,overlay:many", { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true }],
  ["draw", "", { viewport: { width: 1280, height: 800 } }],
];
for (const [name, more, options] of shots) {
  test(name, async () => {
    await withPage(`${site.origin}/?backend=cpu#model=emoji_256&seed=7&count=4&labels=best,best&${more}`, { colorScheme: "light", ...options }, async (page) => {
      await finished(page);
      await page.waitForTimeout(2500);
      await writeFile(`/work/exp/shot-${name}.png`, await page.screenshot());
    });
  });
}

test("steps", async () => {
  await withPage(`${site.origin}/?backend=cpu#model=emoji_256&seed=7&count=4&labels=best,best&explore=step:0,overlay:many`, { colorScheme: "light", viewport: { width: 1280, height: 800 } }, async (page) => {
    await finished(page);
    await page.waitForTimeout(2500);
    for (let step = 0; step < 10; step++) {
      await writeFile(`/work/exp/step-${step}.png`, await page.screenshot());
      await page.keyboard.press("ArrowRight");
      await page.waitForTimeout(700);
    }
  });
});
