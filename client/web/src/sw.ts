// The service worker: the page opens without a network, and a new version replaces it as soon as it is there.

declare const SHELL: string[];
declare const BUILD: string;
declare const DEVICE_CACHE: string;
declare const self: ServiceWorkerGlobalScope;
export {};

const SHELL_CACHE = `dermserve-shell-${BUILD}`;
const SHARED_CACHE = "dermserve-shared";

self.addEventListener("install", (event) => {
  const files = ["/app/", ...SHELL.map((name) => `/app/${name}`)];
  event.waitUntil(
    caches
      .open(SHELL_CACHE)
      .then((cache) => cache.addAll(files))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  const kept = [SHELL_CACHE, DEVICE_CACHE, SHARED_CACHE];
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter((name) => !kept.includes(name)).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method === "POST" && url.pathname === "/app/share") return event.respondWith(take(event.request));
  const ours = url.origin === self.location.origin && event.request.method === "GET";
  if (!ours || url.pathname.startsWith("/v1/") || url.pathname === "/device/index.json") return;
  const kept = caches.match(event.request, { ignoreSearch: true }).catch(() => undefined); // the storage may be damaged
  event.respondWith(kept.then((found) => found ?? fetch(event.request)));
});

/** Put a photo that another app shares into a cache for the page; it stays on this device. */
async function take(request: Request): Promise<Response> {
  const photo = (await request.formData()).get("photo");
  if (photo instanceof File) await (await caches.open(SHARED_CACHE)).put("/app/shared-photo", new Response(photo));
  return Response.redirect("/app/#/check/shared", 303);
}
