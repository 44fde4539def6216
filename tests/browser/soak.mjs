// Long runs in a browser, not part of the usual tests: `node --test tests/browser/soak.mjs`, after `cargo xtask web --offline`.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { DIST, site, withPage } from "./lab.mjs";

const CUTS = Number(process.env.CUTS ?? 100);
const IMAGES = Number(process.env.IMAGES ?? 200);

site.special.set("/empty.html", (_, response) =>
  response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>empty</title><link rel=icon href=data:,>"));

/** The generator xorshift32, so that a failure can be repeated. */
function generator(state) {
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

test(`a download that is cut at ${CUTS} random bytes ends as the whole file`, async (context) => {
  const bytes = await readFile(join(DIST, "models/emoji.safetensors"));
  const hash = createHash("sha256").update(bytes).digest("hex").slice(0, 10);
  const random = generator(7);
  let cuts = 0;
  let downloads = 0;
  site.special.set("/cut.safetensors", (request, response) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const rest = bytes.subarray(from);
    const headers = { "content-type": "application/octet-stream", "cache-control": "no-store", "accept-ranges": "bytes", etag: '"1"' };
    if (from) headers["content-range"] = `bytes ${from}-${bytes.length - 1}/${bytes.length}`;
    response.writeHead(from ? 206 : 200, { ...headers, "content-length": rest.length });
    if (random() < 0.2) return response.end(rest);
    cuts += 1;
    const until = Math.floor(random() * rest.length);
    // At once, so that a cut may also fall into the headers, or a moment later.
    response.write(rest.subarray(0, until), () => setTimeout(() => response.destroy(), random() * 50));
  });
  try {
    while (cuts < CUTS) {
      downloads += 1;
      await withPage(`${site.origin}/empty.html`, { expected: /ERR_|Failed to load resource/ }, async (page) => {
        const text = await page.evaluate(async () => {
          const { default: init, Generator } = await import("/diffmoe.js");
          await init();
          for (let attempt = 0; ; attempt += 1) {
            try {
              const generator = await Generator.create({ model: "/cut.safetensors", backend: "cpu" });
              const { png } = await generator.sample({ seed: 1, steps: 1, trace: false, png: true });
              return Array.from(png, (byte) => String.fromCharCode(byte)).join("");
            } catch (error) {
              // The page says that the download broke off; the next call resumes it.
              if (attempt === 50) throw error;
            }
          }
        });
        assert.match(text, new RegExp(`hash=${hash}`), "the whole file and nothing else");
      });
    }
  } finally {
    site.special.delete("/cut.safetensors");
  }
  context.diagnostic(`${cuts} cuts in ${downloads} downloads`);
});

test(`${IMAGES} images take no more memory than the first of them`, async (context) => {
  await withPage(`${site.origin}/empty.html`, {}, async (page) => {
    const sizes = await page.evaluate(async (images) => {
      const { default: init, Generator } = await import("/diffmoe.js");
      const { memory } = await init();
      const generator = await Generator.create({ model: "models/emoji.safetensors", backend: "cpu" });
      const sizes = [];
      for (let seed = 0; 4 * seed < images; seed += 1) {
        await generator.sample({ seed, steps: 2, labels: { subject: [0, 1, 2, 3] }, trace: false });
        sizes.push(memory.buffer.byteLength);
      }
      return sizes;
    }, IMAGES);
    const early = sizes[Math.floor(sizes.length / 10)];
    context.diagnostic(`${early} bytes early, ${sizes.at(-1)} at the end`);
    assert.ok(sizes.at(-1) <= 1.01 * early, String(sizes));
  });
});
