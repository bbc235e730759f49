// What was saved, in this browser's IndexedDB and nowhere else.

import type { Answer } from "./answer";

export interface Entry {
  id: string;
  time: number;
  picture: Blob;
  answer: Answer;
}

const STORE = "entries";

function database(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("dermserve", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function run<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const db = await database();
  try {
    return await new Promise<T>((resolve, reject) => {
      const transaction = db.transaction(STORE, mode);
      const request = work(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    db.close();
  }
}

export async function save(picture: Blob, answer: Answer): Promise<Entry> {
  const entry = { id: crypto.randomUUID(), time: Date.now(), picture, answer };
  await run("readwrite", (store) => store.add(entry));
  return entry;
}

/** All of it, the latest first. */
export async function all(): Promise<Entry[]> {
  const entries = await run<Entry[]>("readonly", (store) => store.getAll());
  return entries.sort((a, b) => b.time - a.time);
}

export async function remove(id: string): Promise<void> {
  await run("readwrite", (store) => store.delete(id));
}

export async function removeAll(): Promise<void> {
  await run("readwrite", (store) => store.clear());
}

/** Everything as one JSON file, pictures included. */
export async function exported(): Promise<Blob> {
  const entries = await Promise.all(
    (await all()).map(async ({ picture, time, ...rest }) => ({
      ...rest,
      time: new Date(time).toISOString(),
      picture: await dataUrl(picture),
    })),
  );
  const notice = "A screening aid, not a diagnosis.";
  return new Blob([JSON.stringify({ notice, entries }, null, 1)], { type: "application/json" });
}

function dataUrl(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
