// The drawn guide: one good photo and four bad ones.

import { h, icon, svg } from "./dom";
import { type Key, t } from "./strings";

const SKIN = "#e8b99a";
const SPOT = "#6b4130";
const SHAPE = "M50 34c10-3 18 5 17 16s-8 18-18 17-18-8-16-18 8-13 17-15z";

interface Example {
  words: Key;
  good?: boolean;
  draw: () => SVGElement[];
}

function spot(attributes: Record<string, string | number> = {}): SVGElement {
  return svg("path", { d: SHAPE, fill: SPOT, ...attributes });
}

/** A blurred spot, drawn as rings that fade out: a blur filter is slow. */
function blurred(): SVGElement[] {
  return [26, 22, 18, 14, 10].map((r) => svg("circle", { cx: 50, cy: 50, r, fill: SPOT, opacity: 0.22 }));
}

const EXAMPLES: Example[] = [
  { words: "guideGood", good: true, draw: () => [spot(), svg("circle", { cx: 50, cy: 50, r: 24, fill: "none", stroke: "#fff", "stroke-width": 2, "stroke-dasharray": "5 4" })] },
  { words: "guideFar", draw: () => [spot({ transform: "translate(41 41) scale(.18)" })] },
  { words: "guideBlurred", draw: blurred },
  { words: "guideDark", draw: () => [spot(), svg("rect", { width: 100, height: 100, fill: "#000", opacity: 0.72 })] },
  { words: "guideGlare", draw: () => [spot(), svg("circle", { cx: 57, cy: 43, r: 20, fill: "#fff", opacity: 0.9 }), svg("circle", { cx: 57, cy: 43, r: 27, fill: "#fff", opacity: 0.4 })] },
];

export function makeGuide(): HTMLElement {
  const figures = EXAMPLES.map(({ words, good, draw }) => {
    const drawing = svg("svg", { viewBox: "0 0 100 100", "aria-hidden": "true" }, svg("rect", { width: 100, height: 100, fill: SKIN }), ...draw());
    const sign = h("span", { className: good ? "sign good" : "sign bad", role: "img", "aria-label": t(good ? "right" : "wrong") }, icon(good ? "check" : "cross"));
    return h("li", { className: good ? "right" : "" }, h("span", { className: "drawing" }, drawing, sign), h("span", {}, t(words)));
  });
  return h("ul", { className: "guide" }, ...figures);
}
