// Requests to the server, and their failures.

import { type Answer, fromServer } from "./answer";
import type { ClassifyResponse, GetModelResponse, ListModelsResponse, Model, Status } from "./api.gen";
import { get } from "./store";

export type Trouble = "lost" | "portal" | "key" | "busy" | "slow" | "photo" | "failed";

/** Why there is no answer; `words` is the server's message, `seconds` how long it asks to wait. */
export class NoAnswer extends Error {
  constructor(
    readonly trouble: Trouble,
    readonly words = "",
    readonly seconds = 0,
  ) {
    super(words || trouble);
  }
}

export function troubleOf(error: unknown): Trouble {
  return error instanceof NoAnswer ? error.trouble : "failed";
}

const PATIENCE_MS = 45_000;
/** Longest wait, in seconds, before a retry that the person does not see; limits on bursts are shorter. */
const MOST_WAIT_S = 3;
const TROUBLES: Record<number, Trouble> = { 400: "photo", 401: "key", 403: "key", 408: "lost", 413: "photo", 429: "busy", 504: "slow" };

export function hasKey(): boolean {
  return get("key") !== null;
}

async function ask<T>(path: string, init: RequestInit, cancel?: AbortSignal): Promise<T> {
  try {
    return await once<T>(path, init, cancel);
  } catch (error) {
    const seconds = error instanceof NoAnswer ? error.seconds : 0;
    if (seconds <= 0 || seconds > MOST_WAIT_S) throw error;
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    return once<T>(path, init, cancel);
  }
}

async function once<T>(path: string, init: RequestInit, cancel?: AbortSignal): Promise<T> {
  const key = get("key");
  if (key && /[^!-~]/.test(key)) throw new NoAnswer("key"); // fetch refuses such a header; typographic quotes from a chat, for example
  const headers = { ...(init.headers as Record<string, string>), ...(key ? { "x-api-key": key } : {}) };
  const signal = AbortSignal.any([AbortSignal.timeout(PATIENCE_MS), ...(cancel ? [cancel] : [])]);
  try {
    const response = await fetch(path, { ...init, headers, signal });
    const isJson = response.headers.get("content-type")?.includes("json") ?? false;
    if (response.ok && !isJson) throw new NoAnswer("portal");
    if (!response.ok) throw await refusal(response, isJson);
    return (await response.json()) as T;
  } catch (error) {
    if (cancel?.aborted || error instanceof NoAnswer) throw error;
    throw new NoAnswer(signal.aborted ? "slow" : "lost");
  }
}

async function refusal(response: Response, isJson: boolean): Promise<NoAnswer> {
  const status = (isJson ? await response.json().catch(() => ({})) : {}) as Status;
  const trouble = TROUBLES[response.status] ?? "failed";
  return new NoAnswer(trouble, status.message ?? "", trouble === "busy" ? Number(response.headers.get("retry-after")) || 0 : 0);
}

export async function classify(photo: Blob, model: string, cancel: AbortSignal): Promise<Answer> {
  const path = `/v1/models/${encodeURIComponent(model)}:classify?tta=FULL`;
  const init = { method: "POST", headers: { "content-type": photo.type }, body: photo };
  return fromServer(await ask<ClassifyResponse>(path, init, cancel));
}

/** All models, with their cards. */
export async function models(): Promise<Model[]> {
  const list = await ask<ListModelsResponse>("/v1/models", {});
  const named = (list.models ?? []).map(({ name = "" }) => ask<GetModelResponse>(`/v1/models/${encodeURIComponent(name)}`, {}));
  const all = await Promise.allSettled(named);
  return all.flatMap((one) => (one.status === "fulfilled" && one.value.model ? [one.value.model] : []));
}

/** Whether a model has a trained version that can answer. */
export function trained(model: Model): boolean {
  return (model.versions ?? []).some((v) => v.ready && v.card?.provenance?.training === "TRAINING_TRAINED");
}
