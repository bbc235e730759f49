// Asking the server, and what can go wrong on the way.

import { type Answer, fromServer } from "./answer";
import type { ClassifyResponse, GetModelResponse, ListModelsResponse, Model, Status } from "./api.gen";

export type Trouble = "lost" | "key" | "busy" | "slow" | "photo" | "failed";

/** Why there is no answer; `words` are the server's own. */
export class NoAnswer extends Error {
  constructor(
    readonly trouble: Trouble,
    readonly words = "",
  ) {
    super(words || trouble);
  }
}

export function troubleOf(error: unknown): Trouble {
  return error instanceof NoAnswer ? error.trouble : "failed";
}

const KEY = "dermserve.key";
const PATIENCE_MS = 45_000;
const TROUBLES: Record<number, Trouble> = { 400: "photo", 401: "key", 403: "key", 408: "lost", 413: "photo", 429: "busy", 504: "slow" };

export function setKey(key: string): void {
  localStorage.setItem(KEY, key);
}

async function ask<T>(path: string, init: RequestInit, cancel?: AbortSignal): Promise<T> {
  const key = localStorage.getItem(KEY);
  const headers = { ...(init.headers as Record<string, string>), ...(key ? { "x-api-key": key } : {}) };
  const patience = AbortSignal.timeout(PATIENCE_MS);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, signal: cancel ? AbortSignal.any([cancel, patience]) : patience });
  } catch (error) {
    if (cancel?.aborted) throw error;
    throw new NoAnswer(patience.aborted ? "slow" : "lost");
  }
  if (!response.ok) throw await refusal(response);
  return (await response.json()) as T;
}

async function refusal(response: Response): Promise<NoAnswer> {
  const status = (await response.json().catch(() => ({}))) as Status;
  return new NoAnswer(TROUBLES[response.status] ?? "failed", status.message ?? "");
}

export async function classify(photo: Blob, model: string, tta: "NONE" | "FULL", cancel: AbortSignal): Promise<Answer> {
  const path = `/v1/models/${encodeURIComponent(model)}:classify?tta=${tta}`;
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

/** Whether a model has a version that was trained and can answer. */
export function trained(model: Model): boolean {
  return (model.versions ?? []).some((v) => v.ready && v.card?.provenance?.training === "TRAINING_TRAINED");
}
