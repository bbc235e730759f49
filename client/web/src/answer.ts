// What the page keeps of an answer, whoever gave it.

import type { ClassifyResponse, Reason, Verdict } from "./api.gen";

export interface Score {
  code: string;
  name: string;
  probability: number;
  std: number;
}

export interface Answer {
  source: "server" | "device";
  model: string;
  version: string;
  verdict: Verdict;
  reasons: Reason[];
  scores: Score[];
  viewsUsed: number;
  viewsAsked: number;
  ms: number;
  requestId: string;
  /** Whether it was looked at whether the photo shows skin. */
  skinChecked: boolean;
}

/** Read the server's answer; what is missing counts as the worst it could be. */
export function fromServer(response: ClassifyResponse): Answer {
  return {
    source: "server",
    model: response.model ?? "",
    version: response.version ?? "",
    verdict: response.verdict ?? "VERDICT_UNCERTAIN",
    reasons: response.reasons ?? [],
    scores: (response.classes ?? []).map(({ code = "", name = "", probability = 0, std = 0 }) => ({
      code,
      name,
      probability,
      std,
    })),
    viewsUsed: response.viewsUsed ?? 0,
    viewsAsked: response.viewsAsked ?? 0,
    ms: response.timings?.totalMs ?? 0,
    requestId: response.requestId ?? "",
    skinChecked: true,
  };
}
