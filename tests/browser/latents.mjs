// A model that makes latents and its decoder, as another page would use them and as a visitor of the app does.
// Both are small and random; the command line tool puts their configurations into their headers.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ROOT, distance, finished, native, pixels, site, tool, withPage } from "./lab.mjs";
import { send } from "./server.mjs";

const FIXTURES = join(ROOT, "tests/fixtures");
const CASES = { model: "diffmoe_flow", kl: "vae_kl_mini", tiny: "vae_tiny_mini" };
/** Pixels along a cell of the latents, which are 8 × 8. */
const FACTOR = { kl: 2, tiny: 4 };
let folder;
const file = (name) => join(folder, `${name}.safetensors`);

/** The model for latents of 4 × 16 cells instead of 8 × 8, which are as many tokens. */
function widened(bytes) {
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length));
  const config = JSON.parse(header.__metadata__.diffmoe);
  config.params.input_size = [4, 16];
  header.__metadata__.diffmoe = JSON.stringify(config);
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")]);
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(BigInt(padded.length));
  return Buffer.concat([start, padded, bytes.subarray(8 + length)]);
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "diffmoe-"));
  const serve = (name, bytes) =>
    site.special.set(`/${name}.safetensors`, (request, response) => send(request, response, bytes));
  for (const [name, source] of Object.entries(CASES)) {
    await tool("convert", join(FIXTURES, source, "model.safetensors"), "--out", file(name));
    serve(name, await readFile(file(name)));
  }
  await writeFile(file("wide"), widened(await readFile(file("model"))));
  serve("wide", await readFile(file("wide")));
  site.special.set("/latents.html", (_, response) =>
    response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>latents</title><link rel=icon href=data:,>"));
});
after(() => rm(folder, { recursive: true }));

const drawn = (page, vae, model = "model") =>
  native(page, { model: file(model), vae: file(vae), class: 3, seed: 7, steps: 3, guidance: 2, scheduler: "euler" });

/** Draws in an empty page; `bytes` brings the decoder as bytes, `destroy` loses its device while it decodes. */
const generate = (page, vae, { model = "model", backend = "cpu", bytes = false, destroy = false } = {}) =>
  page.evaluate(async ({ vae, model, backend, bytes, destroy }) => {
    const { default: init, Generator } = await import("/diffmoe.js");
    await init();
    const address = `/${vae}.safetensors`;
    const files = new Set();
    const generator = await Generator.create({
      model: `/${model}.safetensors`,
      vae: bytes ? await (await fetch(address)).arrayBuffer() : address,
      backend,
      onProgress: ({ file, stage }) => files.add(`${file} ${stage}`),
    });
    const [steps, fractions] = [[], []];
    const { rgba, width, height } = await generator.sample({
      labels: { class: 3 }, seed: 7, steps: 3, guidance: 2, scheduler: "euler",
      onStep: (step, total, rgba, ...size) => steps.push([step, total, rgba.length, ...size, new Set(rgba).size > 8]),
      onDecode: (fraction) => {
        if (destroy && fractions.length === 0) window.devices.at(-1).destroy();
        fractions.push(fraction);
      },
    });
    const { latent, decoder, ...info } = generator.info;
    const devices = window.devices.length;
    const sizes = [width, height, info.width, info.height];
    return { rgba: Array.from(rgba), sizes, steps, fractions, files: [...files], latent, decoder, devices };
  }, { vae, model, backend, bytes, destroy });

for (const [vae, bytes] of [["kl", false], ["tiny", true]]) {
  test(`latents are decoded by a page as by the command line: ${CASES[vae]}`, async () => {
    await withPage(`${site.origin}/latents.html`, {}, async (page) => {
      const made = await generate(page, vae, { bytes });
      const side = 8 * FACTOR[vae];
      assert.deepEqual([made.sizes, made.rgba.length], [Array(4).fill(side), 4 * side * side]);
      const worst = distance(made.rgba, await drawn(page, vae));
      assert.ok(worst <= 2, `${worst}`);
      assert.deepEqual(made.steps, [1, 2, 3].map((step) => [step, 3, 8 * 8 * 4, 8, 8, true]), "a preview of each step");
      assert.deepEqual(made.latent, { width: 8, height: 8, channels: 4 });
      assert.equal(made.decoder, vae === "kl" ? "AutoencoderKL" : "AutoencoderTiny");
      assert.ok(made.files.includes("vae open") && made.files.includes("vae download") === !bytes, String(made.files));
      assert.equal(made.fractions.at(-1), 1);
      assert.deepEqual(made.fractions, [...made.fractions].sort((a, b) => a - b));
    });
  });
}

test("images that are wider than high keep their shape, on both backends and in the app", async () => {
  await withPage(`${site.origin}/latents.html`, {}, async (page) => {
    const wanted = await drawn(page, "kl", "wide");
    for (const backend of ["cpu", "gpu"]) {
      const made = await generate(page, "kl", { model: "wide", backend });
      assert.deepEqual(made.sizes, [32, 8, 32, 8]);
      assert.deepEqual(made.latent, { width: 16, height: 4, channels: 4 });
      assert.deepEqual(made.steps, [1, 2, 3].map((step) => [step, 3, 4 * 16 * 4, 16, 4, true]));
      assert.ok(distance(made.rgba, wanted) <= 2, `${backend}: ${distance(made.rgba, wanted)}`);
    }
  });
  const query = new URLSearchParams({ backend: "cpu", model: `${site.origin}/wide.safetensors` });
  await withPage(`${site.origin}/?${query}`, {}, async (page) => {
    const state = await finished(page);
    assert.deepEqual([state.width, state.height], [16, 4]);
  });
});

test("WebGPU decodes the same, and goes on when the device is lost", async () => {
  await withPage(`${site.origin}/latents.html`, {}, async (page) => {
    const wanted = await drawn(page, "kl");
    const made = await generate(page, "kl", { backend: "gpu" });
    assert.ok(distance(made.rgba, wanted) <= 2, `${distance(made.rgba, wanted)}`);
    const again = await generate(page, "kl", { backend: "gpu", destroy: true });
    assert.equal(again.devices - made.devices, 3, "one for the model, one for the decoder, and one in its place");
    assert.deepEqual(again.rgba, made.rgba);
  });
});

test("a script hears which decoder is missing, and which does not belong to the model", async () => {
  await withPage(`${site.origin}/latents.html`, {}, async (page) => {
    const told = await page.evaluate(async () => {
      const { default: init, Generator } = await import("/diffmoe.js");
      await init();
      const told = (promise) => promise.then(() => "nothing", (error) => error.message);
      const without = await Generator.create({ model: "/model.safetensors", backend: "cpu" });
      return {
        missing: await told(without.sample({ seed: 1 })),
        needless: await told(Generator.create({ model: "models/emoji.safetensors", vae: "/kl.safetensors", backend: "cpu" })),
        another: await told(Generator.create({ model: "/model.safetensors", vae: "/model.safetensors", backend: "cpu" })),
        form: await told(Generator.create({ model: "/model.safetensors", vae: 7, backend: "cpu" })),
      };
    });
    assert.match(told.missing, /generates latents with 4 channels: pass their image decoder to `create` as `vae`/);
    assert.match(told.needless, /remove vae/);
    assert.match(told.another, /is not an image decoder/);
    assert.match(told.form, /vae must be a URL, an ArrayBuffer or a Uint8Array/);
  });
});

test("the app decodes what a link names, and its own link names it again", async () => {
  const address = (name) => `${site.origin}/${name}.safetensors`;
  const query = new URLSearchParams({ backend: "cpu", model: address("model"), vae: address("kl") });
  const share = new URLSearchParams({ model: address("model"), seed: 7, count: 1, steps: 3, guidance: 2, scheduler: "euler", labels: 3 });
  const draw = (link) => withPage(link, {}, async (page) => {
    // The first run may end before the decoder is there.
    await page.waitForFunction(() => window.diffmoe?.state().rendering === "decoded", null, { timeout: 60_000, polling: 50 });
    const state = await finished(page);
    assert.equal(state.width, 16);
    assert.equal(state.decoder, "kl.safetensors");
    const worst = distance(await pixels(page), await drawn(page, "kl"));
    assert.ok(worst <= 2, `${worst}`);
    return state.share;
  });
  let shared;
  await withPage(`${site.origin}/?${query}#${share}`, {}, async (page) => {
    await page.waitForFunction(() => window.diffmoe?.state().rendering === "decoded", null, { timeout: 60_000, polling: 50 });
    shared = (await finished(page)).share;
  });
  assert.equal(new URLSearchParams(shared).get("vae"), address("kl"));
  await draw(`${site.origin}/?backend=cpu#${shared}`);
});
