// The service worker of the page: it keeps the program for visits without a network. Models are not its business: the
// program keeps them itself, checked by their sums.
//
// With a network everything comes from the network, so that the files of two versions never meet. A new version of
// this script installs a whole new set and then drops the old one.

// The build fills in these two lines.
const VERSION = "unbuilt";
const FILES = [];

// The page names the form of the program that this browser needs; the others are not kept.
const program = location.search.slice(1);
const OURS = FILES.filter((file) => !file.endsWith(".wasm") || file === program);

const PREFIX = "diffmoe-program-";
const CACHE = PREFIX + VERSION;

self.addEventListener("install", (event) => {
  const keep = async () => {
    const cache = await caches.open(CACHE);
    await cache.addAll(OURS.map((file) => new Request(file, { cache: "no-cache" })));
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

self.addEventListener("activate", (event) => {
  const drop = async () => {
    const names = await caches.keys();
    const old = names.filter((name) => name.startsWith(PREFIX) && name !== CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
  };
  event.waitUntil(drop());
});

/** The kept file that answers a request; nothing where it is none of ours. */
function fileOf(request) {
  if (request.method !== "GET") return undefined;
  const address = new URL(request.url);
  const wanted = OURS.find((file) => {
    const own = new URL(file, self.registration.scope);
    return own.origin === address.origin && own.pathname === address.pathname;
  });
  const index = new URL("index.html", self.registration.scope);
  return wanted ?? (index.origin === address.origin && index.pathname === address.pathname ? "./" : undefined);
}

self.addEventListener("fetch", (event) => {
  const file = fileOf(event.request);
  if (!file) return;
  const kept = async (error) => {
    const cache = await caches.open(CACHE);
    const response = await cache.match(file, { ignoreVary: true });
    if (response) return response;
    throw error;
  };
  event.respondWith(fetch(event.request).catch(kept));
});
