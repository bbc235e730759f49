// Answers on the device: LiteRT.js runs model.tflite, and the card's thresholds decide.
// Imported only when needed.

import { type CompiledModel, loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import type { Answer } from "./answer";
import type { Card } from "./api.gen";
import { judge } from "./judge";
import { measure } from "./measure";
import { fit, type Pixels, view } from "./pixels";

export { fit, judge, measure, view };

let runtime: Promise<unknown> | undefined;
let loading: { url: string; model: Promise<CompiledModel> } | undefined;

/** Load the runtime and the model, once each; another model replaces the one before. */
export function load(url: string): Promise<CompiledModel> {
  if (loading?.url !== url) {
    runtime ??= loadLiteRt("/app/litert/");
    runtime.catch(() => (runtime = undefined));
    const begun = { url, model: runtime.then(() => compile(url)) };
    loading = begun;
    begun.model.catch(() => loading === begun && (loading = undefined));
  }
  return loading.model;
}

async function compile(url: string): Promise<CompiledModel> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return loadAndCompile(new Uint8Array(await response.arrayBuffer()), { accelerator: "wasm" });
}

/** The model's outputs for one view: probabilities, and the out-of-distribution score if it has one. */
export async function infer(model: CompiledModel, pixels: Pixels, card: Card): Promise<{ probabilities: number[]; oodScore: number | null }> {
  const { height = 224, width = 224 } = card.input ?? {};
  const input = new Tensor(pixels, [1, height, width, 3]);
  const outputs = await model.run([input]);
  const found: number[][] = [];
  for (const output of outputs) found.push(Array.from((await output.data()) as Float32Array));
  input.delete();
  for (const output of outputs) output.delete();
  const probabilities = found.find(({ length }) => length === card.classes?.length);
  if (!probabilities?.every(Number.isFinite)) throw new Error("the model does not fit its card");
  const score = found.find((one) => one !== probabilities && one.length === 1)?.[0];
  return { probabilities, oodScore: score !== undefined && Number.isFinite(score) ? score : null };
}

/** Classify a square photo by the card. */
export async function answer(
  photo: HTMLCanvasElement,
  url: string,
  card: Card,
  version: string,
  tta: "NONE" | "FULL",
): Promise<Answer> {
  const model = await load(url);
  const began = performance.now();
  const side = card.input?.width ?? 224;
  const pixels = fit(photo, side);
  const names = tta === "FULL" ? (card.views ?? ["identity"]) : ["identity"];
  const seen = [];
  for (const name of names) {
    seen.push(await infer(model, view(pixels, side, name), card));
    await new Promise((resolve) => setTimeout(resolve)); // lets the page respond between views
  }
  const found = { probabilities: seen.map((one) => one.probabilities), oodScore: seen[0]?.oodScore ?? null };
  return {
    source: "device",
    model: card.model ?? "",
    version,
    weightsDigest: card.weightsDigest ?? "",
    gatewayVersion: "",
    ...judge(found, measure(pixels, side), card),
    viewsUsed: names.length,
    viewsAsked: names.length,
    requestId: "",
    totalMs: performance.now() - began,
  };
}
