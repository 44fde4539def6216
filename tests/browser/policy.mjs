// What the page may load and run: nothing from others, and no text of a file.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { DIST, PROGRAM, finished, site, withPage } from "./lab.mjs";
import { send } from "./server.mjs";

const SHARE = "model=emoji&seed=7&count=1&steps=2&guidance=2&scheduler=euler&labels=3,2";

/** Notes what the page asks for, and which rules it breaks; the violations. */
async function watch(page, requests) {
  page.on("request", (request) => requests.push(request.url()));
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI, sourceFile, lineNumber }) =>
      window.violations.push(`${violatedDirective}: ${blockedURI} (${sourceFile}:${lineNumber})`));
  });
  return () => page.evaluate(() => window.violations);
}

test("the page asks no one but its own site, and breaks no rule of its policy", async () => {
  for (const backend of ["cpu", "gpu"]) {
    await withPage("about:blank", {}, async (page) => {
      const requests = [];
      const violations = await watch(page, requests);
      await page.goto(`${site.origin}/?backend=${backend}#${SHARE}`);
      await finished(page);
      const strangers = requests.filter((url) => !url.startsWith(`${site.origin}/`) && !/^(data|blob):/.test(url));
      assert.deepEqual(strangers, []);
      assert.ok(requests.some((url) => url.endsWith(`/${PROGRAM}`)), "requests are noted");
      assert.deepEqual(await violations(), []);
    });
  }
});

test("the offline file breaks no rule of its policy either", async () => {
  await withPage("about:blank", { offline: true }, async (page) => {
    const requests = [];
    const violations = await watch(page, requests);
    await page.goto(`${pathToFileURL(join(DIST, "diffmoe.html"))}?backend=cpu#${SHARE}`);
    await finished(page);
    assert.deepEqual(requests.filter((url) => /^https?:/.test(url)), []);
    assert.deepEqual(await violations(), []);
  });
});

test("a script that is not the page's own does not run", async () => {
  const expected = /Content Security Policy|content security policy/;
  await withPage("about:blank", { expected }, async (page) => {
    const violations = await watch(page, []);
    await page.goto(`${site.origin}/?backend=cpu#${SHARE}`);
    await finished(page);
    await page.evaluate(() => {
      const script = document.createElement("script");
      script.textContent = "window.injected = 1";
      document.body.append(script);
      const image = document.createElement("img");
      image.setAttribute("onerror", "window.injected = 2");
      image.src = "data:,";
      document.body.append(image);
      const stranger = document.createElement("script");
      stranger.src = "data:text/javascript,window.injected = 3";
      document.body.append(stranger);
    });
    await page.waitForFunction(() => window.violations.length >= 3, null, { timeout: 10_000 });
    assert.equal(await page.evaluate(() => window.injected), undefined);
    for (const violation of await violations()) assert.match(violation, /^script-src/);
  });
});

/** The file of a model with other names in its header. */
function renamed(bytes, change) {
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
  const config = JSON.parse(header.__metadata__.diffmoe);
  change(config);
  header.__metadata__.diffmoe = JSON.stringify(config);
  let text = JSON.stringify(header);
  text += " ".repeat((8 - (Buffer.byteLength(text) % 8)) % 8);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return Buffer.concat([size, Buffer.from(text), bytes.subarray(8 + length)]);
}

test("names in a model file are text and nothing else", async () => {
  const hostile = `</script><img src=x onerror="window.injected=1"><script>window.injected=2</script>`;
  const bytes = renamed(await readFile(join(DIST, "models/emoji.safetensors")), (config) => {
    config.name = hostile;
    for (const table of config.labels) table.values = table.values.map((name, i) => `${hostile}${i}`);
  });
  site.special.set("/hostile.safetensors", (request, response) => send(request, response, bytes));
  try {
    await withPage("about:blank", {}, async (page) => {
      const violations = await watch(page, []);
      const address = encodeURIComponent(`${site.origin}/hostile.safetensors`);
      const fragment = SHARE.replace("model=emoji", `model=${address}`);
      await page.goto(`${site.origin}/?backend=cpu&model=${address}#${fragment}`);
      const state = await finished(page);
      assert.ok(JSON.stringify(state).includes("window.injected"), "the app shows the name");
      assert.equal(await page.evaluate(() => window.injected), undefined);
      assert.equal(await page.evaluate(() => document.querySelectorAll("img").length), 0);
      assert.ok(!new URL(page.url()).hash.includes("<"), page.url());
      assert.deepEqual(await violations(), []);
    });
  } finally {
    site.special.delete("/hostile.safetensors");
  }
});
