// The result: what to do first, then why; classes and technical details only on request.

import { type Answer, isAboutPhoto, type Level, needsAnotherPhoto, type Score } from "./answer";
import { shot } from "./check";
import { h, icon } from "./dom";
import { className, kindOf } from "./kinds";
import { said as answered, makeQuestions, noQuestions, type Questions, signsOf } from "./questions";
import { isKey, type Key, number, percent, t } from "./strings";

/** How an answer looks: each differs from the others in shape and text, not in colour alone. */
interface Said {
  kind: Level;
  symbol: string;
  title: Key;
  words: Key;
}

export function said(answer: Answer, { signs }: Questions = noQuestions()): Said {
  const { level } = answer;
  if (signs.length > 0 && level !== "high") return { kind: "intermediate", symbol: "intermediate", title: "raised", words: "raisedWords" };
  if (level !== "none") return { kind: level, symbol: level, title: level, words: level === "intermediate" && needsAnotherPhoto(answer) ? "intermediatePhoto" : `${level}Words` };
  if (answer.verdict === "VERDICT_REJECTED") return { kind: "none", symbol: "camera", title: "rejected", words: "rejectedWords" };
  return { kind: "none", symbol: "cross", title: "noLevel", words: "noLevelWords" };
}

/** The answer in a line; with alarm signs, what to do. */
export function headline(answer: Answer, questions?: Questions): string {
  return t(said(answer, questions).title);
}

/** Make a result without its buttons; with `changed`, the questions can be answered. */
export function makeResult(answer: Answer, picture: Blob, questions: Questions, changed?: (now: Questions) => void): HTMLElement {
  const top = h("div", {}, verdict(answer, questions));
  const answering = (now: Questions) => {
    changed?.(now);
    top.replaceChildren(verdict(answer, now));
  };
  const words = answered(questions);
  return h(
    "div",
    { className: "result" },
    top,
    shot(picture),
    h(
      "div",
      { className: "stack more" },
      changed ? makeQuestions(questions, answering) : words !== "" && h("p", { className: "card" }, h("strong", {}, `${t("questions")}: `), words),
      answer.level !== "none" && answer.scores.length > 0 && resembles(answer),
      facts(answer),
      h("p", { className: "notice" }, icon("shield"), t("notice")),
    ),
  );
}

function verdict(answer: Answer, questions: Questions): HTMLElement {
  const { kind, symbol, title, words } = said(answer, questions);
  const alarmed = questions.signs.length > 0;
  return h(
    "section",
    { className: `verdict ${kind}`, "aria-labelledby": "verdict" },
    h("div", { className: "level" }, icon(symbol), h("h2", { id: "verdict" }, t(title))),
    h("p", { className: "todo" }, t(words)),
    alarmed && h("p", { className: "alarmed" }, t(`raised_${answer.level}`, { signs: signsOf(questions) })),
    answer.source === "device" && h("p", {}, limits(answer)),
    !(alarmed && answer.level === "low") && named(answer),
    listed("whyPhoto", reasons(answer, true)),
    listed("why", reasons(answer, false)),
  );
}

function named(answer: Answer): HTMLElement | null {
  const score = answer.scores.find(({ code }) => code === answer.namedClass);
  return score ? h("p", {}, t("named", { name: className(score.code, score.name) })) : null;
}

/** What an answer on the device lacks; empty for an answer of the server. */
export function limits(answer: Answer): string {
  return answer.source === "device" ? `${t("limited")} ${answer.skinChecked ? "" : t("noSkinCheck")}`.trim() : "";
}

/** The reasons in words: those about the photo, or the others, which mean nothing if the photo shows no spot. */
export function reasons({ verdict, reasons }: Answer, photo: boolean): string[] {
  const meant = reasons.filter((one) => (photo ? isAboutPhoto(one) : !isAboutPhoto(one) && verdict !== "VERDICT_REJECTED"));
  return meant.filter((one): one is typeof one & Key => isKey(one)).map((one) => t(one));
}

function listed(title: Key, lines: string[]): HTMLElement | null {
  return lines.length > 0 ? h("div", {}, h("h3", {}, t(title)), h("ul", {}, ...lines.map((line) => h("li", {}, line)))) : null;
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
      percent(score.probability),
      answer.viewsUsed > 1 && h("small", {}, ` ${t("spread", { s: number(score.std * 100) })}`),
    ),
    h("span", { className: "track", "aria-hidden": "true" }, share, answer.viewsUsed > 1 && spread),
    kindOf(score.code) && h("a", { href: `#/learn/${score.code}` }, t("about", { name: className(score.code, score.name) })),
  );
}

/** What an operator needs to find this answer in the logs. */
function facts(answer: Answer): HTMLElement {
  const rows: [Key, string][] = [
    ["version", `${answer.model} ${answer.version}`],
    ["digest", answer.weightsDigest.slice(0, 12)],
    ["software", answer.gatewayVersion],
    ["viewsUsed", t("viewsOf", { used: answer.viewsUsed, asked: answer.viewsAsked })],
    ["request", answer.requestId],
    ["time", answer.totalMs > 0 ? t("milliseconds", { n: number(answer.totalMs, 0) }) : ""],
    ["risk", answer.risk === null ? "" : percent(answer.risk)],
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
