// How an answer is shown: the verdict in plain words first, the numbers after it.

import type { Answer, Score } from "./answer";
import { h, icon } from "./dom";
import { className, isKey, type Key, number, t } from "./strings";

const MALIGNANT = new Set(["akiec", "bcc", "mel", "scc"]);

interface Said {
  kind: "good" | "warn" | "unsure";
  icon: string;
  title: string;
  words: string;
}

function said(answer: Answer): Said {
  if (answer.verdict === "VERDICT_REJECTED") {
    return { kind: "unsure", icon: "cross", title: t("rejected"), words: t("rejectedWords") };
  }
  const top = answer.scores[0];
  if (answer.verdict !== "VERDICT_CONFIDENT" || !top) {
    return { kind: "unsure", icon: "question", title: t("uncertain"), words: t("uncertainWords") };
  }
  const bad = MALIGNANT.has(top.code);
  return {
    kind: bad ? "warn" : "good",
    icon: bad ? "alert" : "check",
    title: t("confident", { name: className(top.code, top.name) }),
    words: t(bad ? "confidentBad" : "confidentGood"),
  };
}

/** Say in a line what an answer says, for lists. */
export function headline(answer: Answer): string {
  return said(answer).title;
}

export function kind(answer: Answer): string {
  return said(answer).kind;
}

/** Make all of a result but its buttons. */
export function makeResult(answer: Answer, picture: Blob): HTMLElement {
  const { kind, icon: symbol, title, words } = said(answer);
  const url = URL.createObjectURL(picture);
  const reasons = answer.reasons.filter((reason): reason is typeof reason & Key => isKey(reason));
  const image = h("img", { src: url, alt: "", className: "shot", onload: () => URL.revokeObjectURL(url) });
  return h(
    "div",
    { className: "result" },
    image,
    h(
      "section",
      { className: `verdict ${kind}`, "aria-labelledby": "verdict" },
      icon(symbol),
      h(
        "div",
        {},
        h("h2", { id: "verdict" }, title),
        h("p", {}, words),
        reasons.length > 0 && h("ul", {}, ...reasons.map((reason) => h("li", {}, t(reason)))),
        !answer.skinChecked && h("p", {}, t("noSkinCheck")),
      ),
    ),
    h(
      "section",
      { className: "card", "aria-labelledby": "classes" },
      h("h2", { id: "classes" }, t("classes")),
      h("ol", { className: kind === "unsure" ? "scores faint" : "scores" }, ...answer.scores.map((one) => bar(one, answer))),
    ),
    facts(answer),
    h("p", { className: "notice" }, icon("shield"), t("notice")),
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

function facts(answer: Answer): HTMLElement {
  const rows: [string, string][] = [
    [t("version"), `${answer.model} ${answer.version}`],
    [t("viewsUsed"), t("viewsOf", { used: answer.viewsUsed, asked: answer.viewsAsked })],
    [t("time"), `${number(answer.ms, 0)} ms`],
  ];
  if (answer.requestId) rows.push([t("request"), answer.requestId]);
  const here = answer.source === "device";
  return h(
    "section",
    { className: "card facts" },
    h("p", { className: "source", "data-source": answer.source }, icon(here ? "phone" : "cloud"), t(here ? "byDevice" : "byServer")),
    h("dl", {}, ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
  );
}
