// A result on one page for a doctor, to print or share: with medical terms and figures.

import type { Answer } from "./answer";
import { place } from "./bodymap";
import { h, icon } from "./dom";
import type { Spot } from "./history";
import { said as answered, type Questions } from "./questions";
import { headline, limits, reasons } from "./result";
import { button, image } from "./screen";
import { date, type Key, percent, t } from "./strings";

export interface Reported {
  picture: Blob;
  answer: Answer;
  time: number;
  questions: Questions;
}

export function makeReport(entry: Reported, spot?: Spot): HTMLElement {
  return h(
    "article",
    { className: "report" },
    h("p", { className: "hint" }, t("reportIntro")),
    image(entry.picture, t("analysed")),
    h("dl", {}, ...lines(entry, spot).flatMap(([name, value]) => [h("dt", {}, t(name)), h("dd", {}, value)])),
    h("p", { className: "notice" }, icon("shield"), t("notice")),
  );
}

function lines({ answer, time, questions }: Reported, spot?: Spot): [Key, string][] {
  const classes = answer.scores.map(({ medical, code, probability }) => `${medical} (${code}) ${percent(probability)}`).join("; ");
  const unsure = answer.verdict === "VERDICT_CONFIDENT" ? "" : ` (${t("unsure")})`;
  const all: [Key, string][] = [
    ["date", date(time, true)],
    ["place", spot ? [spot.name, place(spot.place)].filter(Boolean).join(", ") : ""],
    ["result", headline(answer) + unsure],
    ["advice", headline(answer, questions) === headline(answer) ? "" : headline(answer, questions)],
    ["limits", limits(answer)],
    ["whyPhoto", reasons(answer, true).join(" ")],
    ["why", reasons(answer, false).join(" ")],
    ["risk", answer.risk === null ? "" : percent(answer.risk)],
    ["classes", classes],
    ["patientSays", answered(questions)],
    ["notes", spot?.notes ?? ""],
    ["version", `${answer.model} ${answer.version} ${answer.weightsDigest.slice(0, 12)}`],
    ["request", answer.requestId],
  ];
  return all.filter(([, value]) => value);
}

export function reportButtons(entry: Reported, spot?: Spot): HTMLElement {
  const text = lines(entry, spot)
    .map(([name, value]) => `${t(name)}: ${value}`)
    .join("\n");
  const file = new File([entry.picture], "skin-check.jpg", { type: entry.picture.type });
  const shared = { title: t("reportTitle"), text: `${t("reportIntro")}\n${text}\n${t("notice")}`, files: [file] };
  const able = navigator.canShare?.(shared) ?? false;
  return h(
    "div",
    { className: "row sticky" },
    button(t("print"), "print", () => print(), "primary"),
    able && button(t("share"), "share", () => void navigator.share(shared).catch(() => {}), "quiet"),
  );
}
