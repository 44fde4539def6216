// The npm package as others get it: packed, installed into empty projects, bundled, imported in Node, used in workers.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { DIST, distance, native, site, withPage } from "./lab.mjs";
import { serve } from "./server.mjs";

const OPTIONS = { labels: { subject: 3, style: 2 }, seed: 7, steps: 3, guidance: 2, scheduler: "euler" };
const NATIVE = { class: 3, style: 2, seed: 7, steps: 3, guidance: 2, scheduler: "euler", model: "emoji" };

const PAGE = `<!doctype html><html lang="en"><title>a project</title><link rel="icon" href="data:,">
<script type="module" src="./main.js"></script></html>`;

/** Draws on the page's own thread, in workers of the package, and in a worker of the project. */
const MAIN = `import init, { Generator } from "diffmoe";
import { DiffmoePicture } from "diffmoe/picture";

customElements.define("diffmoe-picture", DiffmoePicture);
const model = new URL("/models/emoji.safetensors", location.href).href;
window.draw = async (workers, options) => {
  await init();
  const generator = await Generator.create({ model, backend: "cpu", workers });
  const { rgba } = await generator.sample(options);
  const { device } = generator.info;
  generator.free();
  return { rgba: Array.from(rgba), device };
};
window.drawElsewhere = (options) => new Promise((resolve, reject) => {
  const worker = new Worker(new URL("./own.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = ({ message }) => reject(new Error(message));
  worker.postMessage({ model, options });
});`;

const OWN = `import init, { Generator } from "diffmoe";
onmessage = async ({ data: { model, options } }) => {
  try {
    await init();
    const generator = await Generator.create({ model, backend: "cpu", workers: 0 });
    const { rgba } = await generator.sample(options);
    postMessage({ rgba: Array.from(rgba) });
  } catch (error) {
    postMessage({ error: String(error) });
  }
};`;

let folder, packed, listed, wanted;

const run = async (program, given, cwd) => {
  const { stdout } = await promisify(execFile)(program, given, { cwd, maxBuffer: 1 << 24 });
  return stdout;
};

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "diffmoe-npm-"));
  const [report] = JSON.parse(await run("npm", ["pack", DIST, "--json", "--pack-destination", folder]));
  packed = join(folder, report.filename);
  listed = report.files.map(({ path }) => path);
  await withPage("about:blank", {}, async (page) => {
    wanted = await native(page, NATIVE);
  });
});
after(() => rm(folder, { recursive: true, force: true }));

/** An empty project with the package installed. */
async function project(name, files) {
  const place = join(folder, name);
  await mkdir(place);
  await writeFile(join(place, "package.json"), JSON.stringify({ name, private: true, type: "module" }));
  await run("npm", ["install", "--offline", "--no-audit", "--no-fund", packed], place);
  for (const [file, text] of Object.entries(files)) await writeFile(join(place, file), text);
  return place;
}

/** Opens a built project, and draws in every way that it knows. */
async function visit(built) {
  const server = await serve(built);
  const model = await readFile(join(DIST, "models/emoji.safetensors"));
  server.special.set("/models/emoji.safetensors", (_, response) => response.writeHead(200).end(model));
  try {
    await withPage(`${server.origin}/index.html`, {}, async (page) => {
      await page.waitForFunction(() => window.draw);
      for (const workers of [0, 1]) {
        const { rgba, device } = await page.evaluate(([workers, options]) => window.draw(workers, options), [workers, OPTIONS]);
        assert.ok(distance(rgba, wanted) <= 2, `${workers} workers`);
        assert.equal(/worker/.test(device), workers > 0, device);
      }
      const { rgba, error } = await page.evaluate((options) => window.drawElsewhere(options), OPTIONS);
      assert.equal(error, undefined);
      assert.ok(distance(rgba, wanted) <= 2, "in the project's worker");
    });
  } finally {
    server.close();
  }
}

test("the package has the scripts, the WebAssembly, types and licences, and every file that it exports", async () => {
  const { exports, sideEffects } = JSON.parse(await readFile(join(DIST, "package.json"), "utf8"));
  const targets = Object.values(exports).flatMap((target) => (typeof target === "string" ? [target] : Object.values(target)));
  for (const target of targets) assert.ok(listed.includes(target.replace("./", "")), target);
  assert.ok(exports["."].types && exports["./diffmoe_bg.wasm"] && exports["./diffmoe_relaxed_bg.wasm"]);
  assert.equal(sideEffects, false);
  assert.ok(listed.some((path) => path.startsWith("LICENSE-")));
  const strangers = listed.filter((path) => /^(models|index\.html|sw\.js)/.test(path));
  assert.deepEqual(strangers, []);
});

test("Vite bundles it", async () => {
  const { build, version } = await import("vite");
  assert.match(version, /^8\./);
  const place = await project("with-vite", { "index.html": PAGE, "main.js": MAIN, "own.js": OWN });
  await build({ root: place, configFile: false, logLevel: "error", worker: { format: "es" } });
  const assets = await readdir(join(place, "dist/assets"));
  // Both forms of the program, once each.
  const programs = assets.filter((name) => name.endsWith(".wasm")).map((name) => name.split("-")[0]);
  assert.deepEqual(programs.sort(), ["diffmoe_bg", "diffmoe_relaxed_bg"], String(assets));
  await visit(join(place, "dist"));
});

test("webpack bundles it", async () => {
  const { default: webpack } = await import("webpack");
  assert.match(webpack.version, /^5\./);
  const place = await project("with-webpack", { "main.js": MAIN, "own.js": OWN });
  const compiler = webpack({ mode: "production", context: place, entry: "./main.js", output: { path: join(place, "dist"), filename: "main.js" } });
  const stats = await promisify(compiler.run.bind(compiler))();
  const { errors, warnings } = stats.toJson({ all: false, errors: true, warnings: true });
  assert.deepEqual(errors.map(({ message }) => message), []);
  // That the WebAssembly is large is true.
  assert.deepEqual(warnings.map(({ message }) => message).filter((text) => !/size|code splitting/i.test(text)), []);
  await writeFile(join(place, "dist/index.html"), PAGE);
  await visit(join(place, "dist"));
});

test("Node imports it, describes a model and writes a PNG", async () => {
  const model = JSON.stringify(join(DIST, "models/emoji.safetensors"));
  const place = await project("in-node", {
    "main.js": `import { readFile, writeFile } from "node:fs/promises";
      import init, { Generator } from "diffmoe";
      import { DiffmoePicture } from "diffmoe/picture";
      if (globalThis.window || globalThis.document || !DiffmoePicture) throw new Error("this is not Node");
      await init();
      const generator = await Generator.create({ model: await readFile(${model}) });
      const { png, rgba } = await generator.sample({ ...${JSON.stringify(OPTIONS)}, png: true });
      await writeFile("image.png", png);
      const { name, device, labels } = generator.info;
      console.log(JSON.stringify({ name, device, subjects: labels.subject.length, rgba: Array.from(rgba) }));`,
  });
  const { rgba, name, device, subjects } = JSON.parse(await run("node", ["main.js"], place));
  assert.equal(subjects, 876);
  assert.ok(name && /processor/.test(device), device);
  assert.ok(distance(rgba, wanted) <= 2);
  const png = await readFile(join(place, "image.png"));
  assert.equal(png.subarray(1, 4).toString(), "PNG");
  assert.ok(png.length > 1000, `${png.length} bytes`);
});

test("the element draws its attributes, and says what is wrong", async () => {
  await withPage(`${site.origin}/embed.html?backend=cpu&labels=fox,twemoji&seed=7&steps=3&guidance=2&scheduler=euler`, {}, async (page) => {
    const drawn = await page.evaluate(() => new Promise((resolve, reject) => {
      const picture = document.querySelector("diffmoe-picture");
      picture.addEventListener("drawn", ({ detail }) => resolve(Array.from(detail.rgba)));
      picture.addEventListener("error", ({ message }) => reject(new Error(message)));
      // The page may have drawn already.
      picture.setAttribute("steps", "3");
    }));
    assert.ok(distance(drawn, wanted) <= 2, `${distance(drawn, wanted)}`);
    const shown = await page.evaluate(() => {
      const canvas = document.querySelector("diffmoe-picture").shadowRoot.querySelector("canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return { rgba: Array.from(data), name: canvas.getAttribute("aria-label"), width: canvas.getBoundingClientRect().width };
    });
    assert.ok(distance(shown.rgba, wanted) <= 2, "on the canvas");
    assert.equal(shown.name, "fox,twemoji");
    assert.ok(shown.width > 500, `${shown.width} pixels wide`);
    await page.evaluate(() => document.querySelector("diffmoe-picture").setAttribute("labels", "unicorns"));
    await page.waitForFunction(() => /no label "unicorns"/.test(document.querySelector("p").textContent));
  });
});
