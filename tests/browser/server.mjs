// A web server for the tests: the finished page, and files that misbehave on purpose.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".wasm": "application/wasm",
  ".json": "application/json",
  ".webmanifest": "application/manifest+json",
  ".png": "image/png",
};

/** Serves a folder on a free port. `requests` lists what was asked for; `special` maps paths to handlers; with
 * `state.isDown` nobody answers. */
export async function serve(folder) {
  const requests = [];
  const state = { isDown: false };
  const special = new Map();
  const server = createServer(async (request, response) => {
    if (state.isDown) return request.socket.destroy();
    const path = new URL(request.url, "http://localhost").pathname;
    const { range = null, "if-range": ifRange = null, "sec-fetch-dest": destination = null } = request.headers;
    requests.push({ path, range, ifRange, destination });
    try {
      const handler = special.get(path);
      if (handler) return await handler(request, response);
      const file = join(folder, normalize(path === "/" ? "/index.html" : path));
      send(request, response, await readFile(file), extname(file));
    } catch {
      response.writeHead(404, { "content-type": "text/plain" }).end("not found");
    }
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  return {
    origin: `http://localhost:${server.address().port}`,
    requests,
    special,
    state,
    close: () => server.closeAllConnections?.() ?? server.close(),
  };
}

/** Answers with bytes, or with the part of them that was asked for. */
export function send(request, response, bytes, extension = "", version = '"1"') {
  const headers = {
    "content-type": TYPES[extension] ?? "application/octet-stream",
    "cache-control": "no-store",
    "accept-ranges": "bytes",
    etag: version,
  };
  const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? "");
  const fresh = !request.headers["if-range"] || request.headers["if-range"] === version;
  if (!range || !fresh) {
    return response.writeHead(200, { ...headers, "content-length": bytes.length }).end(bytes);
  }
  const part = bytes.subarray(Number(range[1]));
  headers["content-range"] = `bytes ${range[1]}-${bytes.length - 1}/${bytes.length}`;
  response.writeHead(206, { ...headers, "content-length": part.length }).end(part);
}

/** Answers with the beginning of some bytes and then drops the connection. */
export function sendAndBreak(response, bytes, until, version = '"1"') {
  response.writeHead(200, {
    "content-type": "application/octet-stream",
    "cache-control": "no-store",
    "accept-ranges": "bytes",
    "content-length": bytes.length,
    etag: version,
  });
  response.write(bytes.subarray(0, until), () => setTimeout(() => response.destroy(), 300));
}
