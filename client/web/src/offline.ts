// The model and runtime that let this device answer offline: what is offered, downloading, removing.

import type { Answer } from "./answer";
import * as api from "./api";
import type { Card } from "./api.gen";
import { get, remove, set } from "./store";

declare const DEVICE_CACHE: string;

/** The model and runtime that the server offers. */
interface Offer {
  runtime: boolean;
  model?: string;
  version?: string;
}

/** What this device has downloaded, and its total bytes. */
export interface Prepared {
  url: string;
  bytes: number;
  version: string;
  card: Card;
}

const SCHEMA = 2; // of the cards that this page reads, as dermserve.contract.SCHEMA_VERSION
const RUNTIME = ["litert_wasm_internal.js", "litert_wasm_internal.wasm"];
const COMPAT = ["litert_wasm_compat_internal.js", "litert_wasm_compat_internal.wasm"];

type Device = typeof import("./device");
const device = (): Promise<Device> => import("./device.js" as string) as Promise<Device>;

/** What the device can answer with; null if there is nothing, or if its card has numbers that this page would misread. */
export function prepared(): Prepared | null {
  try {
    const here = JSON.parse(get("device") ?? "null") as Prepared | null;
    return here?.card.schemaVersion === SCHEMA ? here : null;
  } catch {
    return null;
  }
}

/** Forget what was downloaded if the files are gone: the browser's space was short, or the runtime is another now. */
export async function check(): Promise<void> {
  if (prepared() && !(await globalThis.caches?.has(DEVICE_CACHE).catch(() => true))) remove("device");
}

/** Remove everything downloaded. */
export async function forget(): Promise<void> {
  remove("device");
  await caches.delete(DEVICE_CACHE);
}

/** The offered model, if this device does not have it yet; null if there is none. */
export async function offered(): Promise<{ model: string; version: string } | null> {
  try {
    const offer = (await (await fetch("/device/index.json")).json()) as Offer;
    if (!offer.runtime || !offer.model || !offer.version || !("caches" in window)) return null;
    if (prepared()?.version === offer.version) return null;
    return { model: offer.model, version: offer.version };
  } catch {
    return null;
  }
}

/** Download runtime, model and card, and run them once. */
export async function prepare(offer: { model: string; version: string }, progress: (share: number) => void): Promise<void> {
  const card = await cardOf(offer);
  const url = `/device/${offer.model}/${offer.version}/model.tflite`;
  const cache = await caches.open(DEVICE_CACHE);
  const files = [url, ...(await runtimeFiles()).map((name) => `/app/litert/${name}`)];
  let done = 0;
  let bytes = 0;
  for (const file of files) {
    const response = await fetch(file);
    if (!response.ok) throw new Error(`${file}: ${response.status}`);
    const body = await response.blob();
    bytes += body.size;
    await cache.put(file, new Response(body, { headers: { "content-type": response.headers.get("content-type") ?? "" } }));
    progress(++done / files.length);
  }
  const runner = await device();
  const model = await runner.load(url);
  const { height = 224, width = 224 } = card.input ?? {};
  await runner.infer(model, new Uint8Array(height * width * 3), card); // throws if the model does not fit the card
  set("device", JSON.stringify({ url, bytes, version: offer.version, card } satisfies Prepared));
}

async function cardOf(offer: { model: string; version: string }): Promise<Card> {
  const model = (await api.models()).find(({ name }) => name === offer.model);
  const card = model?.versions?.find(({ version }) => version === offer.version)?.card;
  if (card?.schemaVersion !== SCHEMA) throw new Error(`the server has no card for ${offer.model} ${offer.version} that this page reads`);
  return card;
}

/** Whether the browser has relaxed SIMD: LiteRT.js has a build for each case. */
async function runtimeFiles(): Promise<string[]> {
  const probe = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11);
  return WebAssembly.validate(probe) ? RUNTIME : COMPAT;
}

export async function answer(photo: HTMLCanvasElement): Promise<Answer> {
  const here = prepared();
  if (!here) throw new Error("not prepared");
  return (await device()).answer(photo, here.url, here.card, here.version, "FULL");
}
