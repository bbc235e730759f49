// Saved spots and their photos, in this browser's IndexedDB and nowhere else.

import type { Answer } from "./answer";
import type { Place } from "./bodymap";
import type { Questions } from "./questions";
import { newId } from "./store";
import { t } from "./strings";

export interface Spot {
  id: string;
  name: string;
  place: Place | null;
  notes: string;
  /** Day to check it again, YYYY-MM-DD; empty for none. */
  again: string;
}

/** One photo of a spot, and its answer. */
export interface Entry {
  id: string;
  spot: string;
  time: number;
  picture: Blob;
  answer: Answer;
  questions: Questions;
}

/** Spots with their photos: all of them, or those removed. */
export interface Kept {
  spots: Spot[];
  entries: Entry[];
}

const SPOTS = "spots";
const ENTRIES = "photos";
const VERSION = 2;

/** Tells other tabs of changes. */
const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("dermserve.history") : null;

export function onChange(then: () => void): void {
  channel?.addEventListener("message", then);
}

function database(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("dermserve", VERSION);
    request.onupgradeneeded = () => {
      for (const store of Array.from(request.result.objectStoreNames)) request.result.deleteObjectStore(store);
      for (const store of [SPOTS, ENTRIES]) request.result.createObjectStore(store, { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => reject(request.error ?? new Error("blocked by another tab"));
  });
}

/** Run one transaction: all of it, or nothing. */
async function run<T>(mode: IDBTransactionMode, work: (spots: IDBObjectStore, entries: IDBObjectStore) => IDBRequest<T> | void): Promise<T> {
  const db = await database();
  try {
    return await new Promise<T>((resolve, reject) => {
      const transaction = db.transaction([SPOTS, ENTRIES], mode);
      const request = work(transaction.objectStore(SPOTS), transaction.objectStore(ENTRIES));
      transaction.oncomplete = () => resolve(request?.result as T);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    db.close();
  }
}

async function write(work: (spots: IDBObjectStore, entries: IDBObjectStore) => void): Promise<void> {
  await run("readwrite", work);
  channel?.postMessage("changed");
}

/** All spots, by name. */
export async function spots(): Promise<Spot[]> {
  const found = await run<Spot[]>("readonly", (store) => store.getAll());
  return found.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}

/** All photos, the latest first. */
export async function entries(): Promise<Entry[]> {
  const found = await run<Entry[]>("readonly", (_, store) => store.getAll());
  return found.sort((a, b) => b.time - a.time);
}

export async function all(): Promise<Kept> {
  return { spots: await spots(), entries: await entries() };
}

/** One spot with its photos, the latest first; null if it was removed. */
export async function spotOf(id: string): Promise<{ spot: Spot; photos: Entry[] } | null> {
  const kept = await all();
  const spot = kept.spots.find((one) => one.id === id);
  return spot ? { spot, photos: kept.entries.filter((entry) => entry.spot === id) } : null;
}

/** Save a photo of an existing or a new spot. */
export async function save(what: Omit<Entry, "id">): Promise<Entry> {
  const known = await spots();
  const spot = known.find(({ id }) => id === what.spot) ?? { id: newId(), name: freeName(known), place: null, notes: "", again: "" };
  const entry = { ...what, id: newId(), spot: spot.id };
  await write((spots, entries) => {
    spots.put(spot);
    entries.put(entry);
  });
  void navigator.storage?.persist?.().catch(() => false);
  return entry;
}

function freeName(known: Spot[]): string {
  let n = known.length + 1;
  while (known.some(({ name }) => name === t("spotName", { n }))) n++;
  return t("spotName", { n });
}

/** Change some fields of a spot. Others keep what another tab wrote; a removed spot stays removed. */
export function change(id: string, what: Partial<Omit<Spot, "id">>): Promise<void> {
  return write((spots) => {
    const request: IDBRequest<Spot | undefined> = spots.get(id);
    request.onsuccess = () => request.result && spots.put({ ...request.result, ...what });
  });
}

/** Add spots and photos; existing ones are kept unchanged. Returns how many photos are new. */
export async function add(kept: Kept): Promise<number> {
  const now = await all();
  const spotsThere = new Set(now.spots.map(({ id }) => id));
  const entriesThere = new Set(now.entries.map(({ id }) => id));
  const fresh = kept.entries.filter(({ id }) => !entriesThere.has(id));
  await write((spots, entries) => {
    for (const spot of kept.spots) if (!spotsThere.has(spot.id)) spots.put(spot);
    for (const entry of fresh) entries.put(entry);
  });
  return fresh.length;
}

/** Remove spots and photos. A spot without photos stays, for its name, place and notes. */
export async function remove(kept: Kept): Promise<void> {
  await write((spots, entries) => {
    for (const { id } of kept.spots) spots.delete(id);
    for (const { id } of kept.entries) entries.delete(id);
  });
}
