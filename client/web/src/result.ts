// How an answer is shown: what to do first, then why, and the classes and what gave the answer only when asked for.

import { type Answer, needsAnotherPhoto, type Score } from "./answer";
import { h, icon } from "./dom";
import { className, isKey, type Key, number, t } from "./strings";

/** Four looks that differ in shape and words, not in colour alone. */
type Kind = "low" | "intermediate" | "high" | "none";

interface Said {
  kind: Kind;
  icon: string;
  title: Key;
  words: Key;
}

const LEVELS: Record<Exclude<Kind, "none">, Said> = {
  low: { kind: "low", icon: "low", title: "low", words: "lowWords" },
  intermediate: { kind: "intermediate", icon: "intermediate", title: "intermediate", words: "intermediateWords" },
  high: { kind: "high", icon: "high", title: "high", words: "highWords" },
};

function said(answer: Answer): Said {
  if (answer.level === "intermediate" && needsAnotherPhoto(answer)) return { ...LEVELS.intermediate, words: "intermediatePhoto" };
  if (answer.level in LEVELS) return LEVELS[answer.level as keyof typeof LEVELS];
  if (answer.verdict === "VERDICT_REJECTED") return { kind: "none", icon: "camera", title: "rejected", words: "rejectedWords" };
  return { kind: "none", icon: "cross", title: "noLevel", words: "noLevelWords" };
}

/** Say in a line what an answer says, for lists. */
export function headline(answer: Answer): string {
  return t(said(answer).title);
}

/** The shape that stands for the level. */
export function mark(answer: Answer): SVGSVGElement {
  return icon(said(answer).icon);
}

export function kind(answer: Answer): string {
  return said(answer).kind;
}

/** Make all of a result but its buttons. */
export function makeResult(answer: Answer, picture: Blob): HTMLElement {
  const url = URL.createObjectURL(picture);
  return h(
    "div",
    { className: "result" },
    h("img", { src: url, alt: "", className: "shot", onload: () => URL.revokeObjectURL(url) }),
    verdict(answer),
    h(
      "div",
      { className: "stack more" },
      answer.level !== "none" && answer.scores.length > 0 && resembles(answer),
      facts(answer),
      h("p", { className: "notice" }, icon("shield"), t("notice")),
    ),
  );
}

function verdict(answer: Answer): HTMLElement {
  const { kind, title, words } = said(answer);
  return h(
    "section",
    { className: `verdict ${kind}`, "aria-labelledby": "verdict" },
    h("div", { className: "level" }, mark(answer), h("h2", { id: "verdict" }, t(title))),
    h("p", { className: "todo" }, t(words)),
    answer.source === "device" && h("p", {}, `${t("limited")} ${answer.skinChecked ? "" : t("noSkinCheck")}`.trim()),
    named(answer),
    reasons(answer),
  );
}

function named(answer: Answer): HTMLElement | null {
  const score = answer.scores.find(({ code }) => code === answer.namedClass);
  return score ? h("p", {}, t("named", { name: className(score.code, score.name) })) : null;
}

function reasons(answer: Answer): HTMLElement | null {
  const lines = answer.reasons.filter((reason): reason is typeof reason & Key => isKey(reason)).map((reason) => h("li", {}, t(reason)));
  if (lines.length === 0) return null;
  const title = t(needsAnotherPhoto(answer) ? "whyPhoto" : "why");
  return h("div", {}, h("h3", {}, title), h("ul", {}, ...lines));
}

function resembles(answer: Answer): HTMLElement {
  const faint = answer.verdict !== "VERDICT_CONFIDENT";
  return h(
    "details",
    { className: "card" },
    h("summary", {}, t("resembles")),
    h("p", { className: "hint" }, t(faint ? "resemblesUnsure" : "resemblesWords")),
    h("ol", { className: faint ? "scores faint" : "scores" }, ...answer.scores.map((one) => bar(one, answer))),
  );
}

function bar(score: Score, answer: Answer): HTMLLIElement {
  const share = h("span", { className: "fill" });
  share.style.width = `${score.probability * 100}%`;
  const spread = h("span", { className: "range" });
  const low = Math.max(0, score.probability - score.std);
  spread.style.left = `${low * 100}%`;
  spread.style.width = `${(Math.min(1, score.probability + score.std) - low) * 100}%`;
  return h(
    "li",
    {},
    h("span", { className: "name" }, className(score.code, score.name)),
    h(
      "span",
      { className: "value" },
      t("probability", { p: number(score.probability * 100) }),
      answer.viewsUsed > 1 && h("small", {}, ` ${t("spread", { s: number(score.std * 100) })}`),
    ),
    h("span", { className: "track", "aria-hidden": "true" }, share, answer.viewsUsed > 1 && spread),
  );
}

/** What whoever runs the service needs to find this answer again. */
function facts(answer: Answer): HTMLElement {
  const rows: [Key, string][] = [
    ["version", `${answer.model} ${answer.version}`],
    ["digest", answer.weightsDigest.slice(0, 12)],
    ["software", answer.gatewayVersion],
    ["viewsUsed", t("viewsOf", { used: answer.viewsUsed, asked: answer.viewsAsked })],
    ["request", answer.requestId],
  ];
  const known = rows.filter(([, value]) => value);
  const here = answer.source === "device";
  return h(
    "details",
    { className: "card facts" },
    h("summary", { className: "source", "data-source": answer.source }, icon(here ? "phone" : "cloud"), t(here ? "byDevice" : "byServer")),
    h("dl", {}, ...known.flatMap(([name, value]) => [h("dt", {}, t(name)), h("dd", {}, value)])),
  );
}
