// The camera, over the whole screen: a live picture, what to do better, and the shutter.

import { closeCamera, NoCamera, openCamera, snap, torchOf } from "./camera";
import { chooser } from "./check";
import { h, icon } from "./dom";
import { begin } from "./draft";
import { quality } from "./judge";
import { measure } from "./measure";
import { back, go, onLeave, render } from "./router";
import { alert_, button, iconButton, show } from "./screen";
import * as service from "./service";
import { isKey, t } from "./strings";

const LOOK_EVERY_MS = 400;
const SIDE = 224;

export async function cameraScreen(facing = "environment"): Promise<void> {
  const video = h("video", { autoplay: true, muted: true, playsInline: true, "aria-label": t("take") });
  const words = h("p", { className: "coach", role: "status" }, t("cameraStarting"));
  const shutter = h("button", { type: "button", className: "shutter", "aria-label": t("shutter"), disabled: true, onclick: () => void shoot(video) }, h("span", {}));
  const swap = iconButton("rotate", t("switchCamera"), () => {
    leave();
    void cameraScreen(facing === "user" ? "environment" : "user");
  });
  const tools = h("div", { className: "tools" }, swap, shutter);
  const screen = h("div", { className: "viewfinder" }, video, h("span", { className: "ring", "aria-hidden": "true" }), words, tools);
  show(t("take"), [screen], { above: "/" });
  document.body.classList.add("camera");
  let gone = false;
  let stream: MediaStream | undefined;
  let timer = 0;
  const leave = () => {
    gone = true;
    clearInterval(timer);
    closeCamera(stream);
    document.body.classList.remove("camera");
  };
  onLeave(leave);
  try {
    stream = await openCamera(video, facing as "environment" | "user");
    if (gone) return closeCamera(stream);
    stream.getVideoTracks()[0]?.addEventListener("ended", () => {
      if (!gone) noCamera(null, screen); // unplugged, or taken by another app
    });
    words.textContent = t("aim");
    shutter.disabled = false;
    tools.append(torchButton(stream) ?? h("span", { className: "icon-button" }));
    await service.refresh();
    timer = gone ? 0 : window.setInterval(() => coach(video, words), LOOK_EVERY_MS);
  } catch (error) {
    if (!gone) noCamera(error, screen);
  }
}

function torchButton(stream: MediaStream): HTMLElement | null {
  const turn = torchOf(stream);
  if (!turn) return null;
  const toggle = async () => {
    const on = made.getAttribute("aria-pressed") !== "true";
    await turn(on).then(() => made.setAttribute("aria-pressed", String(on)), console.warn);
  };
  const made = h("button", { type: "button", className: "icon-button", "aria-label": t("torch"), "aria-pressed": "false", onclick: () => void toggle() }, icon("torch"));
  return made;
}

/** Measure what the camera sees as the server would, and say what to do better. */
function coach(video: HTMLVideoElement, words: HTMLElement): void {
  const limits = service.limits();
  if (!limits || video.videoWidth === 0) return;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) return;
  const side = Math.min(video.videoWidth, video.videoHeight);
  context.drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, SIDE, SIDE);
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  const pixels = new Uint8Array(SIDE * SIDE * 3).map((_, i) => data[Math.floor(i / 3) * 4 + (i % 3)]!);
  const [first] = quality(measure(pixels, SIDE), limits);
  const key = `hint_${first}`;
  const said = first && isKey(key) ? t(key) : t("hintGood");
  words.classList.toggle("fine", !first);
  if (words.textContent !== said) words.textContent = said;
}

async function shoot(video: HTMLVideoElement): Promise<void> {
  await begin(await snap(video));
  go("/check/frame");
}

/** Say why there is no camera, and the ways out. */
function noCamera(error: unknown, screen: HTMLElement): void {
  document.body.classList.remove("camera");
  const key = error instanceof NoCamera ? error.key : "cameraBusy";
  const ways = [
    key === "cameraInsecure" ? chooser(t("cameraApp"), "camera", { capture: true, className: "primary" }) : button(t("retry"), "rotate", () => render(), "primary"),
    chooser(t("choose"), "photo"),
    button(t("cancel"), null, () => back("/"), "quiet"),
  ];
  screen.replaceWith(alert_(t(key)), h("div", { className: "row" }, ...ways));
}
