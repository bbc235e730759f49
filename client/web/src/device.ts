// Answering on the device: LiteRT.js runs model.tflite as the server runs its own, and the card's thresholds decide.
// Loaded only when there is something to do for it.

import { type CompiledModel, loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import type { Answer, Score } from "./answer";
import type { Card, Reason, Verdict } from "./api.gen";
import { fit, type Pixels, view } from "./pixels";

export { fit, view };

let loading: Promise<CompiledModel> | undefined;

/** Load the runtime and the model, once. */
export function load(url: string): Promise<CompiledModel> {
  loading ??= loadLiteRt("/app/litert/").then(async () => {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
    return loadAndCompile(new Uint8Array(await response.arrayBuffer()), { accelerator: "wasm" });
  });
  loading.catch(() => (loading = undefined));
  return loading;
}

/** Probabilities of one view. */
export async function infer(model: CompiledModel, pixels: Pixels, side: number): Promise<number[]> {
  const input = new Tensor(pixels, [1, side, side, 3]);
  const outputs = await model.run([input]);
  const found = Array.from((await outputs[0]!.data()) as Float32Array);
  input.delete();
  for (const output of outputs) output.delete();
  return found;
}

/** Answer for a square photo, by the card. */
export async function answer(
  photo: HTMLCanvasElement,
  url: string,
  card: Card,
  version: string,
  tta: "NONE" | "FULL",
): Promise<Answer> {
  const started = performance.now();
  const model = await load(url);
  const side = card.input?.width ?? 224;
  const pixels = fit(photo, side);
  const names = tta === "FULL" ? (card.views ?? ["identity"]) : ["identity"];
  const seen: number[][] = [];
  for (const name of names) {
    seen.push(await infer(model, view(pixels, side, name), side));
    await new Promise((resolve) => setTimeout(resolve)); // the page stays alive between views
  }
  const scores = ranked(seen, card);
  const { verdict, reasons } = judge(scores, card);
  return {
    source: "device",
    model: card.model ?? "",
    version,
    verdict,
    reasons,
    scores,
    viewsUsed: names.length,
    viewsAsked: names.length,
    ms: performance.now() - started,
    requestId: "",
    skinChecked: false,
  };
}

function ranked(seen: number[][], card: Card): Score[] {
  const scores = (card.classes ?? []).map(({ code = "", name = "" }, index) => {
    const values = seen.map((one) => one[index] ?? 0);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length;
    return { code, name, probability: mean, std: Math.sqrt(variance) };
  });
  return scores.sort((a, b) => b.probability - a.probability);
}

/** The server's rule; whether it is skin can't be told here, as the small model gives no score for it. */
function judge(scores: Score[], card: Card): { verdict: Verdict; reasons: Reason[] } {
  if (card.provenance?.training !== "TRAINING_TRAINED") {
    return { verdict: "VERDICT_UNCERTAIN", reasons: ["REASON_UNTRAINED_MODEL"] };
  }
  const fitted = card.calibration ?? {};
  const top = scores[0];
  const reasons: Reason[] = [];
  if (fitted.minConfidence === undefined) reasons.push("REASON_UNCALIBRATED_MODEL");
  else if (!top || top.probability < fitted.minConfidence) reasons.push("REASON_LOW_CONFIDENCE");
  if (top && fitted.maxViewStd !== undefined && top.std > fitted.maxViewStd) reasons.push("REASON_VIEW_DISAGREEMENT");
  return { verdict: reasons.length ? "VERDICT_UNCERTAIN" : "VERDICT_CONFIDENT", reasons };
}
