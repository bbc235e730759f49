// The place of a spot on the body: a list, and two drawings to point at.

import { h, svg } from "./dom";
import { choice } from "./screen";
import { language, t } from "./strings";

type Side = "front" | "back";

/** A point on one of the drawings (100 wide, 200 high), and its region. */
export interface Place {
  side: Side;
  region: string;
  x: number;
  y: number;
}

/** Centre of each region, from the front or behind; right and left are the person's. */
export const REGIONS: Record<Side, Record<string, [x: number, y: number]>> = {
  front: {
    head: [50, 16], neck: [50, 32], chest: [50, 50], belly: [50, 74], hips: [50, 95],
    rightArm: [29, 64], leftArm: [71, 64], rightHand: [20, 103], leftHand: [80, 103],
    rightLeg: [42, 138], leftLeg: [58, 138], rightFoot: [41, 190], leftFoot: [59, 190],
  },
  back: {
    head: [50, 16], neck: [50, 32], upperBack: [50, 50], lowerBack: [50, 74], buttocks: [50, 95],
    leftArm: [29, 64], rightArm: [71, 64], leftHand: [20, 103], rightHand: [80, 103],
    leftLeg: [42, 138], rightLeg: [58, 138], leftFoot: [41, 190], rightFoot: [59, 190],
  },
};

const WORDS: Record<string, { en: string; id: string }> = {
  head: { en: "head", id: "kepala" },
  neck: { en: "neck", id: "leher" },
  chest: { en: "chest", id: "dada" },
  belly: { en: "belly", id: "perut" },
  hips: { en: "hips", id: "pinggul" },
  upperBack: { en: "upper back", id: "punggung atas" },
  lowerBack: { en: "lower back", id: "punggung bawah" },
  buttocks: { en: "buttocks", id: "bokong" },
  rightArm: { en: "right arm", id: "lengan kanan" },
  leftArm: { en: "left arm", id: "lengan kiri" },
  rightHand: { en: "right hand", id: "tangan kanan" },
  leftHand: { en: "left hand", id: "tangan kiri" },
  rightLeg: { en: "right leg", id: "tungkai kanan" },
  leftLeg: { en: "left leg", id: "tungkai kiri" },
  rightFoot: { en: "right foot", id: "kaki kanan" },
  leftFoot: { en: "left foot", id: "kaki kiri" },
};

const BODY =
  "M50 4a12 12 0 0 0-6 22v6c-8 2-18 3-20 12l-7 50c-1 8 5 8 6 1l9-38 2 26-3 40 3 66c0 6 13 6 13 0l3-70 3 70c0 6 13 6 13 0l3-66-3-40 2-26 9 38c1 7 7 7 6-1l-7-50c-2-9-12-10-20-12v-6a12 12 0 0 0-6-22z";

/** A place in words; empty for none. */
export function place(where: Place | null): string {
  const words = where && Object.hasOwn(WORDS, where.region) && WORDS[where.region];
  return words ? `${words[language()]} (${t(where.side === "front" ? "front" : "backSide")})` : "";
}

function named(side: Side, region: string): Place {
  const [x, y] = REGIONS[side][region]!;
  return { side, region, x, y };
}

function nearest(side: Side, x: number, y: number): string {
  const distance = ([, [a, b]]: [string, [number, number]]) => Math.hypot(a - x, b - y);
  return Object.entries(REGIONS[side]).sort((one, other) => distance(one) - distance(other))[0]![0];
}

/** Make the list and the drawings; call back on another place. */
export function makeBodyMap(given: Place | null, changed: (now: Place | null) => void): HTMLElement {
  const all = (["front", "back"] as const).flatMap((side) => Object.keys(REGIONS[side]).map((region) => named(side, region)));
  const options = all.map((one): [string, string] => [`${one.side} ${one.region}`, place(one)]);
  const element = h("div", { className: "body-map" });
  const paint = (now: Place | null) => {
    const chosen = now ? `${now.side} ${now.region}` : "";
    const list = choice(t("bodyMap"), "place", [["", t("placeNone")], ...options], chosen, (value) => {
      const [side, region] = value.split(" ") as [Side, string];
      tell(value ? named(side, region) : null);
      element.querySelector("select")?.focus();
    });
    element.replaceChildren(list, h("div", { className: "bodies" }, drawing("front", now, tell), drawing("back", now, tell)));
  };
  const tell = (now: Place | null) => {
    paint(now);
    changed(now);
  };
  paint(given);
  return element;
}

function drawing(side: Side, now: Place | null, tell: (now: Place) => void): HTMLElement {
  const figure = svg("svg", { viewBox: "0 0 100 200", role: "img", "aria-label": t(side === "front" ? "front" : "backSide") }, svg("path", { d: BODY }));
  if (now?.side === side) figure.append(svg("circle", { cx: now.x, cy: now.y, r: 4 }));
  figure.addEventListener("click", (event) => {
    const box = figure.getBoundingClientRect();
    const scale = Math.max(100 / box.width, 200 / box.height);
    const x = 50 + (event.clientX - box.left - box.width / 2) * scale;
    const y = 100 + (event.clientY - box.top - box.height / 2) * scale;
    tell({ side, region: nearest(side, x, y), x: Math.round(x), y: Math.round(y) });
  });
  const caption = h("figcaption", { "aria-hidden": "true" }, t(side === "front" ? "front" : "backSide"));
  const made = h("figure", {}, caption);
  made.prepend(figure);
  return made;
}
