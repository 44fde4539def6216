// Explore on the page: links to a stop of the tour, to a patch and to two runs; muting; traces that are dropped.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { drop, finished, site, tool, withPage } from "./lab.mjs";

const SHARE = "model=emoji&seed=7&count=2&steps=3&guidance=2&scheduler=euler&labels=3,2";
const page_ = (more) => `${site.origin}/?backend=cpu#${SHARE}&${more}`;

/** Waits until the address matches; what Explore looks at is written there. */
async function address(page, pattern) {
  const matches = (source) => new RegExp(source).test(decodeURIComponent(location.hash));
  try {
    await page.waitForFunction(matches, pattern.source, { timeout: 60_000, polling: 100 });
  } catch (error) {
    throw new Error(`${error.message}\nthe address is ${await page.evaluate(() => location.hash)}`);
  }
}

const runs = (page, count) =>
  page.waitForFunction((count) => {
    const state = window.diffmoe.state();
    return state.runs >= count && state.phase === "ready";
  }, count, { timeout: 120_000, polling: 100 });

/** Waits until Explore shows a finished run. */
const explored = async (page, more) => {
  await finished(page);
  await address(page, /explore=/);
  if (more) await address(page, more);
};

test("a link opens the tour at its stop, and a key goes on", async () => {
  await withPage(page_("explore=tour:4"), {}, async (page) => {
    await explored(page, /tour:4/);
    await page.keyboard.press("n");
    await address(page, /tour:5/);
    await page.keyboard.press("Escape");
    await address(page, /explore=(?!.*tour)/);
  });
});

test("a click locks a patch, keys choose, and the address opens the same view", async () => {
  await withPage(page_("explore=image:0"), {}, async (page, context) => {
    await explored(page);
    // On the image, whose corner is at about (22, 141).
    await page.mouse.click(120, 240);
    await address(page, /patch:\d+/);
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("3");
    await address(page, /step:1.*expert:3/);
    const before = await page.evaluate(() => location.hash);
    const other = await context.newPage();
    await other.goto(page.url());
    await finished(other);
    await address(other, /patch:\d+/);
    assert.equal(await other.evaluate(() => location.hash), before);
    await other.close();
    await page.bringToFront();
    await page.keyboard.press("Escape");
    await address(page, /explore=(?!.*(patch:|expert:))/);
  });
});

test("an expert is muted, and the run before stays on screen", async () => {
  await withPage(page_("explore=image:1"), {}, async (page) => {
    await explored(page);
    const before = await page.evaluate(() => window.diffmoe.state().runs);
    await page.keyboard.press("2");
    await page.keyboard.press("x");
    await runs(page, before + 1);
    await address(page, /tab:mute/);
    const state = await page.evaluate(() => window.diffmoe.state());
    assert.ok(!state.share.includes("mute="), "A has all experts");
  });
});

test("a link of two runs draws both", async () => {
  const other = encodeURIComponent(SHARE.replace("guidance=2", "guidance=4"));
  await withPage(page_(`other=${other}&explore=step:1`), {}, async (page) => {
    await explored(page);
    await runs(page, 2);
    await address(page, /other=.*guidance=4/);
    const state = await page.evaluate(() => window.diffmoe.state());
    assert.match(state.share, /guidance=2/);
    await page.keyboard.press("b");
    await address(page, /^(?!.*other=)/);
  });
});

test("a trace that is dropped is explored without its model", async () => {
  const folder = await mkdtemp(join(tmpdir(), "diffmoe-"));
  const [trace, image] = ["t.safetensors", "x.png"].map((name) => join(folder, name));
  const run = ["--model", "eurosat", "--count", 2, "--steps", 4, "--scheduler", "euler", "--seed", 5];
  await tool("sample", "--backend", "cpu", ...run, "--out", image, "--trace", trace, "--trace-scores");
  const bytes = await readFile(trace);
  await rm(folder, { recursive: true });
  await withPage(page_("explore=image:0"), {}, async (page) => {
    await explored(page);
    await drop(page, "t.safetensors", "application/octet-stream", bytes);
    const state = await (
      await page.waitForFunction(() => {
        const state = window.diffmoe.state();
        return state.traced && state;
      }, null, { timeout: 60_000 })
    ).jsonValue();
    assert.deepEqual([state.steps, state.count, state.model], [4, 2, "emoji"]);
  });
});

test("a frame of Explore costs little while nothing changes", async (context) => {
  await withPage(page_("explore=step:1,overlay:who"), {}, async (page) => {
    await explored(page);
    await page.evaluate(() => {
      window.frames_ = [];
      const { requestAnimationFrame: request } = window;
      window.requestAnimationFrame = (draw) => request.call(window, (time) => {
        const began = performance.now();
        draw(time);
        window.frames_.push(performance.now() - began);
      });
    });
    // A pointer that moves over empty space asks for frames and changes nothing.
    for (let i = 0; i < 60; i++) {
      await page.mouse.move(560 + (i % 2), 795);
      await page.waitForTimeout(20);
    }
    const times = (await page.evaluate(() => window.frames_)).sort((a, b) => a - b);
    assert.ok(times.length >= 20, `${times.length} frames`);
    const [median, most] = [times[times.length >> 1], times.at(-1)];
    context.diagnostic(`median of ${times.length} frames ${median.toFixed(1)} ms, longest ${most.toFixed(1)} ms`);
    // The aim is 16 ms. A machine that is busy with other things gets four times that.
    assert.ok(median <= 64, `a frame takes ${median} ms`);
  });
});
