// An answer as the page stores it, from the server or this device.

import type { ClassifyResponse, ClassScore, Reason, Verdict } from "./api.gen";

/** Advice by malignancy risk; "none" if nothing may be said of the spot. */
export const LEVELS = ["none", "low", "intermediate", "high"] as const;
export type Level = (typeof LEVELS)[number];

export interface Score {
  code: string;
  /** Common name. */
  name: string;
  /** Medical name. */
  medical: string;
  probability: number;
  std: number;
}

export interface Answer {
  source: "server" | "device";
  model: string;
  version: string;
  weightsDigest: string;
  gatewayVersion: string;
  verdict: Verdict;
  reasons: Reason[];
  level: Level;
  /** The model's probability of cancer, 0 to 1; null if no level may be said. */
  risk: number | null;
  /** Code of the class that may be named as the answer; empty for none. */
  namedClass: string;
  scores: Score[];
  viewsUsed: number;
  viewsAsked: number;
  requestId: string;
  /** Whether the check for photos without skin was made. */
  skinChecked: boolean;
  totalMs: number;
}

/** Reasons that another photo of the same spot may remove. */
const PHOTO_REASONS = new Set<Reason>([
  "REASON_NOT_SKIN",
  "REASON_TOO_DARK",
  "REASON_TOO_BRIGHT",
  "REASON_NO_COLOR",
  "REASON_BLURRED",
  "REASON_UNIFORM",
]);

export function isAboutPhoto(reason: Reason): boolean {
  return PHOTO_REASONS.has(reason);
}

/** Whether to take another photo first. */
export function needsAnotherPhoto({ verdict, reasons }: Pick<Answer, "verdict" | "reasons">): boolean {
  return verdict === "VERDICT_REJECTED" || reasons.some(isAboutPhoto);
}

/** Read the server's answer; a missing field counts as the worst value. */
export function fromServer(response: ClassifyResponse): Answer {
  const verdict = response.verdict ?? "VERDICT_UNCERTAIN";
  const rejected = verdict === "VERDICT_REJECTED";
  const level = levelOf(response);
  return {
    source: "server",
    model: response.model ?? "",
    version: response.version ?? "",
    weightsDigest: response.weightsDigest ?? "",
    gatewayVersion: response.gatewayVersion ?? "",
    verdict,
    reasons: response.reasons ?? [],
    level,
    risk: level === "none" ? null : (response.malignancy?.probability ?? 0),
    namedClass: verdict === "VERDICT_CONFIDENT" && level !== "none" ? (response.namedClass ?? "") : "",
    scores: rejected ? [] : (response.classes ?? []).map(score),
    viewsUsed: response.viewsUsed ?? 0,
    viewsAsked: response.viewsAsked ?? 0,
    requestId: response.requestId ?? "",
    skinChecked: true,
    totalMs: response.timings?.totalMs ?? 0,
  };
}

/** LOW counts only in a confident answer without reasons against it. */
function levelOf({ verdict, reasons = [], malignancy }: ClassifyResponse): Level {
  if (verdict === "VERDICT_REJECTED") return "none";
  const sure = verdict === "VERDICT_CONFIDENT" && reasons.length === 0;
  switch (malignancy?.level) {
    case "RISK_LEVEL_HIGH":
      return "high";
    case "RISK_LEVEL_INTERMEDIATE":
      return "intermediate";
    case "RISK_LEVEL_LOW":
      return sure ? "low" : "intermediate";
    default:
      return "none";
  }
}

function score({ code = "", name = "", commonName, probability = 0, std = 0 }: ClassScore): Score {
  return { code, name: commonName || name, medical: name || code, probability, std };
}
