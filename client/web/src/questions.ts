// The questions about the spot. Answers never leave the device; an alarm sign makes the advice stricter.

import { h } from "./dom";
import { choice } from "./screen";
import { t } from "./strings";

export const SIGNS = ["new", "changing", "itching", "bleeding", "first"] as const;
export type Sign = (typeof SIGNS)[number];
export const SINCE = ["", "weeks", "months", "years", "unknown"] as const;

export interface Questions {
  signs: Sign[];
  /** Answered "none of them"; differs from not answered. */
  none: boolean;
  since: (typeof SINCE)[number];
}

export function noQuestions(): Questions {
  return { signs: [], none: false, since: "" };
}

/** The answers in one line; empty if none was given. */
export function said({ signs, none, since }: Questions): string {
  const words = signs.length > 0 ? signs.map((sign) => t(`sign_${sign}`)) : none ? [t("sign_none")] : [];
  return [...words, ...(since ? [`${t("since")} ${t(`since_${since}`)}`] : [])].join("; ");
}

/** The signs, for the middle of a sentence. */
export function signsOf({ signs }: Questions): string {
  return signs.map((sign) => `“${t(`sign_${sign}`)}”`).join(", ");
}

/** The questions, each answered by a tap. */
export function makeQuestions(given: Questions, changed: (now: Questions) => void): HTMLElement {
  const now = { ...given, signs: [...given.signs] };
  const boxes = new Map<Sign | "none", HTMLInputElement>();
  const toggle = (sign: Sign | "none", on: boolean) => {
    if (sign === "none") {
      now.none = on;
      if (on) now.signs = [];
    } else {
      now.signs = SIGNS.filter((one) => (one === sign ? on : now.signs.includes(one)));
      if (on) now.none = false;
    }
    for (const [name, box] of boxes) box.checked = name === "none" ? now.none : now.signs.includes(name);
    changed({ ...now });
  };
  const chips = [...SIGNS, "none" as const].map((sign) => {
    const checked = sign === "none" ? now.none : now.signs.includes(sign);
    const box = h("input", { type: "checkbox", checked, onchange: (event: Event) => toggle(sign, (event.target as HTMLInputElement).checked) });
    boxes.set(sign, box);
    return h("label", { className: "chip" }, box, h("span", {}, t(`sign_${sign}`)));
  });
  const since = choice(t("since"), "since", SINCE.map((one) => [one, t(`since_${one}`)]), now.since, (value) => {
    now.since = value as Questions["since"];
    changed({ ...now });
  });
  return h(
    "fieldset",
    { className: "card questions" },
    h("legend", {}, t("questions")),
    h("p", { className: "hint" }, t("questionsHint")),
    h("div", { className: "chips" }, ...chips),
    since,
  );
}
