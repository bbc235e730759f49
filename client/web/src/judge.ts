// Verdict and risk of an answer on the device, by the server's rules (serving/dermserve/gateway/answer.py) and the card.

import type { Level, Score } from "./answer";
import type { Calibration, Card, QualityLimits, Reason, Verdict } from "./api.gen";
import type { Measures } from "./measure";

/** The model's outputs for the views of a photo, the identity view first. */
export interface Seen {
  /** One row a view. */
  probabilities: number[][];
  /** Out-of-distribution score of the identity view; null when the model gives none. */
  oodScore: number | null;
}

export interface Judgement {
  verdict: Verdict;
  reasons: Reason[];
  level: Level;
  risk: number | null;
  namedClass: string;
  /** Most probable first. */
  scores: Score[];
  skinChecked: boolean;
}

interface Reduced {
  scores: Score[];
  topMalignant: boolean;
  risk: number;
  riskStd: number;
}

/** Judge as the server does. Without the check for skin, an answer is neither confident nor of low risk. */
export function judge(seen: Seen, measures: Measures, card: Card): Judgement {
  const fitted = card.calibration ?? {};
  const skinChecked = seen.oodScore !== null && fitted.maxOodScore !== undefined;
  const reduced = reduce(seen, card);
  const nothing = { level: "none" as const, risk: null, namedClass: "", scores: reduced.scores, skinChecked };
  if (card.provenance?.training !== "TRAINING_TRAINED") {
    return { ...nothing, verdict: "VERDICT_UNCERTAIN", reasons: ["REASON_UNTRAINED_MODEL"] };
  }
  const reasons = [...allReasons(seen, measures, reduced, fitted)];
  if (reasons.includes("REASON_NOT_SKIN")) return { ...nothing, verdict: "VERDICT_REJECTED", reasons, scores: [] };
  if (reasons.includes("REASON_UNCALIBRATED_MODEL")) return { ...nothing, verdict: "VERDICT_UNCERTAIN", reasons };
  const sure = skinChecked && reasons.length === 0;
  const top = reduced.scores[0];
  return {
    verdict: sure ? "VERDICT_CONFIDENT" : "VERDICT_UNCERTAIN",
    reasons,
    level: level(reduced.risk, reasons, fitted, sure),
    risk: reduced.risk,
    namedClass: sure && top && top.probability >= (fitted.minConfidence ?? 0) ? top.code : "",
    scores: reduced.scores,
    skinChecked,
  };
}

function reduce({ probabilities }: Seen, card: Card): Reduced {
  const classes = card.classes ?? [];
  const rows = probabilities.map((row) => {
    const sum = row.reduce((a, b) => a + b, 0);
    return row.map((value) => value / sum);
  });
  const scores = classes.map(({ code = "", name = "", commonName }, index) => {
    const [probability, std] = spread(rows.map((row) => row[index]!));
    return { code, name: commonName || name, medical: name || code, probability, std };
  });
  const malignant = new Set(classes.filter((one) => one.malignant).map(({ code = "" }) => code));
  const [risk, riskStd] = spread(rows.map((row) => row.reduce((sum, value, index) => sum + (classes[index]?.malignant ? value : 0), 0)));
  scores.sort((a, b) => b.probability - a.probability);
  return { scores, topMalignant: malignant.has(scores[0]?.code ?? ""), risk, riskStd };
}

/** Mean and population standard deviation. */
function spread(values: number[]): [number, number] {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return [mean, Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length)];
}

function* allReasons(seen: Seen, measures: Measures, reduced: Reduced, fitted: Calibration): Generator<Reason> {
  const isSkin = !above(seen.oodScore, fitted.maxOodScore);
  if (!isSkin) yield "REASON_NOT_SKIN";
  else if (above(seen.oodScore, fitted.maxScopeScore)) yield "REASON_OUT_OF_SCOPE";
  yield* quality(measures, fitted.quality ?? {});
  if (!isSkin) return; // nothing can be said of a risk
  if (!fitted.ruleOut || !fitted.ruleIn) yield "REASON_UNCALIBRATED_MODEL";
  else if (isOpen(reduced, fitted)) yield "REASON_LOW_CONFIDENCE";
  if (above(reduced.riskStd, fitted.maxViewStd)) yield "REASON_VIEW_DISAGREEMENT";
}

/** The reasons against a photo's quality. */
export function* quality(measures: Measures, limits: QualityLimits): Generator<Reason> {
  if (below(measures.brightness, limits.minBrightness)) yield "REASON_TOO_DARK";
  if (above(measures.brightness, limits.maxBrightness) || above(measures.glare, limits.maxGlare)) yield "REASON_TOO_BRIGHT";
  if (below(measures.contrast, limits.minContrast)) {
    yield "REASON_UNIFORM"; // colour and detail of an even area mean nothing
    return;
  }
  const hasCast =
    below(measures.redness, limits.minRedness) ||
    above(measures.redness, limits.maxRedness) ||
    below(measures.yellowness, limits.minYellowness) ||
    above(measures.yellowness, limits.maxYellowness);
  if (hasCast || below(measures.color, limits.minColor)) yield "REASON_NO_COLOR";
  if (below(measures.detail, limits.minDetail)) yield "REASON_BLURRED";
}

function above(value: number | null, limit: number | undefined): boolean {
  return value !== null && limit !== undefined && value > limit;
}

function below(value: number, limit: number | undefined): boolean {
  return limit !== undefined && value < limit;
}

/** Whether cancer is neither ruled out nor in: the risk is between the thresholds, or disagrees with the top class. */
function isOpen({ risk, topMalignant }: Reduced, fitted: Calibration): boolean {
  if (risk < (fitted.ruleOut?.threshold ?? 0)) return topMalignant;
  return risk < (fitted.ruleIn?.threshold ?? 0) || !topMalignant;
}

function level(risk: number, reasons: Reason[], fitted: Calibration, sure: boolean): Level {
  const unknown = reasons.includes("REASON_OUT_OF_SCOPE") || reasons.includes("REASON_UNIFORM");
  if (risk >= (fitted.ruleIn?.threshold ?? 0) && !unknown) return "high";
  return sure ? "low" : "intermediate";
}
