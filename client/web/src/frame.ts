// The frame screen: a square over the photo, moved by finger, mouse or keys; and the questions.

import { h } from "./dom";
import { change, draft } from "./draft";
import { drawFrame, type Frame, wholeFrame } from "./pixels";
import { makeQuestions } from "./questions";
import { go } from "./router";
import { button, show } from "./screen";
import { t } from "./strings";

const SHOWN = 640;
const MOST_ZOOM = 8;
const KEY_STEP = 0.05;
const ZOOM_STEP = 1.15;

export function frameScreen(): void {
  const current = draft();
  if (!current) return go("/", { replace: true });
  const cropper = makeCropper(current.bitmap, current.frame, (frame) => change({ frame }));
  show(
    t("cropTitle"),
    [
      h("div", { className: "framing" }, cropper, makeQuestions(current.questions, (questions) => change({ questions }))),
      h(
        "div",
        { className: "row sticky" },
        button(t("analyse"), "check", () => go("/check/result"), "primary"),
        button(t("anotherPhoto"), "camera", () => go("/check/camera"), "quiet"),
      ),
    ],
    { above: "/" },
  );
}

/** Make the square and its controls over a photo; call back on every change of the frame. */
function makeCropper(bitmap: ImageBitmap, given: Frame, changed: (frame: Frame) => void): HTMLElement {
  const frame = { ...given };
  const whole = wholeFrame(bitmap).side;
  const canvas = h("canvas", {
    width: SHOWN,
    height: SHOWN,
    tabIndex: 0,
    role: "img",
    className: "crop",
    "aria-label": t("cropLabel"),
    "aria-describedby": "crop-hint",
  });
  const zoom = h("input", { type: "range", min: "1", max: String(MOST_ZOOM), step: "0.05", value: String(whole / frame.side), id: "zoom" });
  const draw = () => drawFrame(bitmap, frame, canvas);
  const update = () => {
    draw();
    changed({ ...frame });
  };

  const move = (dx: number, dy: number) => {
    // From screen to photo: undo the turns.
    const angle = (-frame.turns * Math.PI) / 2;
    frame.x += dx * Math.cos(angle) - dy * Math.sin(angle);
    frame.y += dx * Math.sin(angle) + dy * Math.cos(angle);
    keepInside();
    update();
  };
  const keepInside = () => {
    const half = frame.side / 2;
    frame.x = Math.min(bitmap.width - half, Math.max(half, frame.x));
    frame.y = Math.min(bitmap.height - half, Math.max(half, frame.y));
  };
  const zoomTo = (factor: number) => {
    const kept = Math.min(MOST_ZOOM, Math.max(1, factor));
    frame.side = Math.max(Math.min(32, whole), whole / kept);
    zoom.value = String(kept);
    keepInside();
    update();
  };
  const turn = () => {
    frame.turns = (frame.turns + 1) % 4;
    update();
  };

  zoom.addEventListener("input", () => zoomTo(Number(zoom.value)));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomTo((whole / frame.side) * (event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP));
  });
  canvas.addEventListener("keydown", (event) => {
    const step = frame.side * KEY_STEP;
    const moves: Record<string, () => void> = {
      ArrowLeft: () => move(-step, 0),
      ArrowRight: () => move(step, 0),
      ArrowUp: () => move(0, -step),
      ArrowDown: () => move(0, step),
      "+": () => zoomTo((whole / frame.side) * ZOOM_STEP),
      "-": () => zoomTo(whole / frame.side / ZOOM_STEP),
      r: turn,
      R: turn,
    };
    const act = moves[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
  followFingers(canvas, (dx, dy) => move((-dx * frame.side) / canvas.clientWidth, (-dy * frame.side) / canvas.clientWidth), (by) =>
    zoomTo((whole / frame.side) * by),
  );
  draw();

  return h(
    "div",
    { className: "cropper" },
    h("div", { className: "crop-frame" }, canvas, h("span", { className: "ring", "aria-hidden": "true" })),
    h("p", { className: "hint", id: "crop-hint" }, t("cropHint")),
    h(
      "div",
      { className: "row" },
      h("label", { for: "zoom", className: "grow" }, h("span", {}, t("zoom")), zoom),
      button(t("rotate"), "rotate", turn, "quiet"),
    ),
  );
}

/** Call back on drags with one finger or the mouse, and on pinches with two. */
function followFingers(target: HTMLElement, drag: (dx: number, dy: number) => void, pinch: (by: number) => void): void {
  const fingers = new Map<number, { x: number; y: number }>();
  const span = () => {
    const [a, b] = [...fingers.values()];
    return a && b ? Math.hypot(a.x - b.x, a.y - b.y) : 0;
  };
  target.addEventListener("pointerdown", (event) => {
    target.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  target.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const wide = span();
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (fingers.size === 1) drag(event.clientX - before.x, event.clientY - before.y);
    else if (wide > 0) pinch(span() / wide);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    target.addEventListener(end, (event) => fingers.delete((event as PointerEvent).pointerId));
  }
}
