// The page as a screen reader finds it: by the browser's own accessibility tree.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { finished, site, withPage } from "./lab.mjs";

const SHARE = "model=emoji&seed=7&count=1&steps=3&guidance=2&scheduler=euler&labels=3,2";

/** The accessibility tree: role, name and node of everything that is not ignored. */
async function tree(session) {
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  const shown = nodes.filter(({ ignored }) => !ignored);
  return shown.map(({ role, name, value, properties, backendDOMNodeId }) => ({
    role: role?.value, name: name?.value ?? "", value: value?.value, node: backendDOMNodeId,
    focusable: properties?.some(({ name, value }) => name === "focusable" && value.value) ?? false,
  }));
}

/** Waits for an element of the tree. */
async function found(session, role, name) {
  for (let i = 0; i < 100; i++) {
    const all = await tree(session);
    const element = all.find((other) => other.role === role && (name.test ? name.test(other.name) : other.name === name));
    if (element) return element;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`no ${role} ${name} among ${JSON.stringify((await tree(session)).map(({ role, name }) => [role, name]))}`);
}

/** Does what a screen reader does to press something. */
async function press(session, element) {
  const { object } = await session.send("DOM.resolveNode", { backendNodeId: element.node });
  await session.send("Runtime.callFunctionOn", { objectId: object.objectId, functionDeclaration: "function() { this.focus(); this.click(); }" });
}

test("a screen reader finds the controls, presses them, and hears what came of it", async () => {
  await withPage(`${site.origin}/?backend=cpu#${SHARE}`, {}, async (page, context) => {
    await finished(page);
    const session = await context.newCDPSession(page);
    await session.send("Accessibility.enable");
    await session.send("DOM.enable");
    const generate = await found(session, "button", /^Generate/);
    assert.ok(generate.focusable);
    await found(session, "textbox", "URL of a model file");
    await found(session, "status", "");
    const said = () => page.innerText("#said");
    assert.match(await page.textContent("#said"), /^Finished one image: /);
    const controls = (await tree(session)).filter(({ role }) => ["button", "checkbox", "radio", "slider", "spinbutton", "textbox", "link"].includes(role));
    assert.ok(controls.length > 20, `${controls.length} controls`);
    assert.deepEqual(controls.filter(({ name }) => !name), [], "each has a name");

    await press(session, await found(session, "button", "Another seed"));
    await press(session, generate);
    await page.waitForFunction(() => window.diffmoe.state().seed !== 7, null, { timeout: 30_000 });
    await finished(page);
    await page.waitForFunction(() => document.getElementById("said").textContent.startsWith("Finished one image"), null, { timeout: 10_000 });
    assert.ok(await said());
  });
});

test("elements lie where the app paints them, and leave the pointer to the canvas", async () => {
  await withPage(`${site.origin}/?backend=cpu#${SHARE}`, {}, async (page) => {
    await finished(page);
    const place = await (await page.waitForFunction(() => {
      const button = [...document.querySelectorAll("#mirror [role=button]")].find((other) => other.getAttribute("aria-label")?.startsWith("Generate"));
      if (!button) return null;
      const { x, y, width, height } = button.getBoundingClientRect();
      const [left, top] = [x + width / 2, y + height / 2];
      return { left, top, under: document.elementFromPoint(left, top).id };
    }, null, { timeout: 10_000 })).jsonValue();
    assert.equal(place.under, "app");
    await page.evaluate(() => (window.before = window.diffmoe.state().seed));
    // The same settings again: the app then takes another seed.
    await page.mouse.click(place.left, place.top);
    await page.waitForFunction(() => window.diffmoe.state().seed !== window.before, null, { timeout: 30_000 });
  });
});

test("what is wrong is an alert", async () => {
  await withPage(`${site.origin}/?backend=nonsense#${SHARE}`, {}, async (page) => {
    await page.waitForFunction(() => document.getElementById("warned").textContent.includes("backend"), null, { timeout: 60_000 });
  });
});

/** Rules of WCAG 2.0, 2.1 and 2.2, levels A and AA. */
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

/** What axe finds wrong, and the rules that were met. */
async function examined(page, session, axe) {
  // As a debugger does: the page's policy allows no scripts but its own.
  const { exceptionDetails } = await session.send("Runtime.evaluate", { expression: axe });
  assert.equal(exceptionDetails, undefined);
  const { violations, passes } = await page.evaluate((values) => window.axe.run(document, { runOnly: { type: "tag", values } }), RULES);
  const told = violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ")}`);
  return { told, met: passes.map(({ id }) => id) };
}

test("axe finds nothing wrong on levels A and AA", async (context) => {
  const axe = await readFile(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
  const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
  for (const [name, options] of [["desktop", {}], ["phone", phone]]) {
    await withPage(`${site.origin}/?backend=cpu#${SHARE}`, options, async (page, browserContext) => {
      await finished(page);
      const session = await browserContext.newCDPSession(page);
      await page.waitForFunction(() => document.querySelectorAll("#mirror *").length > 20, null, { timeout: 10_000 });
      const met = new Set();
      // Draw, Explore, and the help over both.
      for (const key of [null, "e", "?"]) {
        if (key) await page.keyboard.press(key);
        await page.waitForTimeout(500);
        await finished(page);
        await page.waitForTimeout(500);
        const { told, met: now } = await examined(page, session, axe);
        assert.deepEqual(told, [], `${name}, ${key ?? "at first"}`);
        now.forEach((id) => met.add(id));
      }
      // The rules that the mirror is subject to were not passed over.
      for (const id of ["aria-command-name", "aria-required-attr", "aria-valid-attr-value", "aria-roles", "aria-allowed-attr", "label"]) {
        assert.ok(met.has(id), `${name}: ${id} was not examined: ${[...met]}`);
      }
      context.diagnostic(`${name}: ${met.size} rules met`);
    });
  }
});
