// The screens about the model (what it can see, how good it is, who made it), privacy, and the kinds of spots.

import type { OperatingPoint, Share } from "./api.gen";
import { h } from "./dom";
import { makeGuide } from "./guide";
import { className, kindOf } from "./kinds";
import { go } from "./router";
import { show } from "./screen";
import * as service from "./service";
import { t } from "./strings";

export async function learnScreen(_: string, still: () => boolean): Promise<void> {
  // The card's part is filled in when it arrives, so that a slow network does not hold up the rest.
  const known = h("div", {}, ...kinds());
  const good = h("div", { className: "prose" });
  const licensed = h("div", {});
  show(t("learn"), [
    section("photoTitle", makeGuide()),
    section("canTitle", h("p", {}, t("canWords")), known, h("p", {}, t("cantSkin")), h("p", {}, t("cantScope")), h("p", {}, t("cantElse"))),
    section("goodTitle", good),
    section("whoTitle", h("p", {}, t("whoWords")), licensed),
    section("privacyTitle", h("ol", {}, ...t("privacyLines").split("|").map((line) => h("li", {}, line)))),
  ]);
  await service.refresh();
  if (!still()) return;
  known.replaceChildren(...kinds());
  good.replaceChildren(...figures(service.card()?.calibration?.ruleOut));
  licensed.replaceChildren(...licence());
}

function section(title: "photoTitle" | "canTitle" | "goodTitle" | "whoTitle" | "privacyTitle", ...content: Node[]): HTMLElement {
  return h("section", { className: "card prose" }, h("h2", {}, t(title)), ...content);
}

function kinds(): HTMLElement[] {
  const classes = service.card()?.classes ?? [];
  if (classes.length === 0) return [];
  const lines = classes.map(({ code = "", name = "", commonName }) => {
    const words = className(code, commonName || name);
    return h("li", {}, kindOf(code) ? h("a", { href: `#/learn/${code}` }, words) : words);
  });
  return [h("h3", {}, t("kinds")), h("ul", {}, ...lines)];
}

/** Rounded down: 99.7 of 100 are not all. What floating point makes of a whole number stays whole. */
function floor(share: number): number {
  return Math.floor(share * 100 + 1e-6);
}

/** The card's figures on test photos, as photos in a hundred. */
function figures(ruleOut: OperatingPoint | undefined): HTMLElement[] {
  const { sensitivity, specificity } = ruleOut ?? {};
  if (!sensitivity || !specificity) return [h("p", {}, t("goodUnknown"))];
  const hundred = ({ value = 0, low = 0, high = 0 }: Share) => ({ n: floor(value), low: floor(low), high: Math.ceil(high * 100) });
  return [
    h("p", {}, t("goodSensitivity", hundred(sensitivity))),
    h("p", {}, t("goodSpecificity", hundred(specificity))),
    h("p", { className: "hint" }, t("goodOf")),
  ];
}

function licence(): HTMLElement[] {
  const words = service.card()?.provenance?.license;
  return words ? [h("p", {}, t("licence", { licence: words.split(":")[0]! }))] : [];
}

/** One kind of spot, in plain words. */
export function kindScreen(code: string): void {
  const kind = kindOf(code);
  if (!kind) return go("/learn", { replace: true });
  const [is, looks, doctors] = kind.words;
  const [source, url] = kind.source;
  const title = className(code);
  const part = (words: "whatIs" | "looksLike" | "doctorsDo", text: string) => [h("h2", {}, t(words)), h("p", {}, text)];
  show(
    title.charAt(0).toUpperCase() + title.slice(1),
    [
      h("section", { className: "card prose" }, ...part("whatIs", is), ...part("looksLike", looks), ...part("doctorsDo", doctors)),
      h("p", { className: "hint" }, h("a", { href: url, rel: "noreferrer", target: "_blank" }, t("source", { name: source }))),
      h("p", { className: "notice" }, t("onlyDoctors")),
    ],
    { above: "/learn" },
  );
}
