/* Keeps the page's files, so that it works offline after the first load, and adds the headers without which browsers
   allow no threads, for static hosts that cannot send them. */

const VERSION = "@VERSION@", FILES = "@FILES@".split(" ");   // the files that every browser needs
const CACHE = `wssl ${self.registration.scope} ${VERSION}`;

self.addEventListener("install", event => event.waitUntil(caches.open(CACHE).then(
  cache => cache.addAll(FILES.map(name => new Request(name, {cache: "no-cache"}))))));

// A new version takes over when no tab shows the old one, whose files it then removes.
self.addEventListener("activate", event => event.waitUntil((async () => {
  const ours = (await caches.keys()).filter(name => name.startsWith(`wssl ${self.registration.scope} `));
  await Promise.all(ours.filter(name => name !== CACHE).map(name => caches.delete(name)));
  await self.clients.claim();
})()));

// Another page below this folder is none of ours.
const path = name => new URL(name, self.registration.scope).pathname;
const OURS = new Set(FILES.map(path)), RUNTIME = path("ort/");

self.addEventListener("fetch", event => {
  const {method, url} = event.request, {origin, pathname} = new URL(url);
  const ours = origin === self.location.origin && (OURS.has(pathname) || pathname.startsWith(RUNTIME));
  if (method === "GET" && ours) event.respondWith(answer(event.request));
});

async function answer(request) {
  const cache = await caches.open(CACHE);
  let response = await cache.match(request, {ignoreSearch: true, ignoreVary: true});
  if (!response) {
    response = await fetch(request);
    // What only some browsers need is kept once one has needed it.
    if (response.ok && new URL(request.url).pathname.startsWith(RUNTIME)) {
      await cache.put(request, response.clone()).catch(() => {});   // the disk is full: it works all the same
    }
  }
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(response.body, {status: response.status, statusText: response.statusText, headers});
}
