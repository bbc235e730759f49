// The full-screen camera: live picture, hints, shutter.

import { chooser } from "./check";
import { h, icon } from "./dom";
import { begin } from "./draft";
import { quality } from "./judge";
import { measure } from "./measure";
import { back, go, onLeave, render } from "./router";
import { alert_, button, iconButton, show } from "./screen";
import * as service from "./service";
import { isKey, type Key, t } from "./strings";

const LOOK_EVERY_MS = 400;
const SIDE = 224;
const REASONS: Record<string, Key> = {
  NotAllowedError: "cameraDenied",
  SecurityError: "cameraDenied",
  NotFoundError: "cameraNone",
  OverconstrainedError: "cameraNone",
};

/** Why there is no camera, as a key of the texts. */
class NoCamera extends Error {
  constructor(readonly key: Key) {
    super(key);
  }
}

export async function cameraScreen(facing = "environment"): Promise<void> {
  const video = h("video", { autoplay: true, muted: true, playsInline: true, "aria-label": t("take") });
  const words = h("p", { className: "coach", role: "status" }, t("cameraStarting"));
  const shutter = h("button", { type: "button", className: "shutter", "aria-label": t("shutter"), disabled: true, onclick: () => void shoot(video).catch((error) => noCamera(error, screen)) }, h("span", {}));
  const swap = iconButton("rotate", t("switchCamera"), () => {
    leave();
    void cameraScreen(facing === "user" ? "environment" : "user");
  });
  const tools = h("div", { className: "tools" }, swap, shutter);
  const screen = h("div", { className: "viewfinder" }, video, h("span", { className: "ring", "aria-hidden": "true" }), words, tools);
  show(t("take"), [screen], { above: "/" });
  document.body.classList.add("camera");
  let gone = false;
  let timer = 0;
  const close = () => (video.srcObject as MediaStream | null)?.getTracks().forEach((track) => track.stop());
  const leave = () => {
    gone = true;
    clearInterval(timer);
    close();
    document.body.classList.remove("camera");
  };
  onLeave(leave);
  try {
    const stream = await open(video, facing);
    if (gone) return close();
    stream.getVideoTracks()[0]?.addEventListener("ended", () => {
      if (!gone) noCamera(null, screen); // unplugged, or taken by another app
    });
    words.textContent = t("aim");
    shutter.disabled = false;
    tools.append(torch(stream) ?? h("span", { className: "icon-button" }));
    await service.refresh();
    timer = gone ? 0 : window.setInterval(() => coach(video, words), LOOK_EVERY_MS);
  } catch (error) {
    close(); // it may be open without playing, if the person left meanwhile
    if (!gone) noCamera(error, screen);
  }
}

/** Open the phone's back camera, or the front one. */
async function open(video: HTMLVideoElement, facing: string): Promise<MediaStream> {
  if (!isSecureContext) throw new NoCamera("cameraInsecure");
  if (!navigator.mediaDevices?.getUserMedia) throw new NoCamera("cameraNone");
  try {
    const size = { width: { ideal: 1920 }, height: { ideal: 1080 } };
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: { ideal: facing }, ...size }, audio: false });
  } catch (error) {
    throw new NoCamera(REASONS[(error as DOMException).name] ?? "cameraBusy");
  }
  await video.play();
  return video.srcObject;
}

/** A button for the camera's light; null if it has none. */
function torch(stream: MediaStream): HTMLElement | null {
  const track = stream.getVideoTracks()[0];
  const able = track?.getCapabilities?.() as { torch?: boolean } | undefined;
  if (!track || !able?.torch) return null;
  const toggle = async () => {
    const on = made.getAttribute("aria-pressed") !== "true";
    const turned = track.applyConstraints({ advanced: [{ torch: on } as MediaTrackConstraintSet] });
    await turned.then(() => made.setAttribute("aria-pressed", String(on)), console.warn);
  };
  const made = h("button", { type: "button", className: "icon-button", "aria-label": t("torch"), "aria-pressed": "false", onclick: () => void toggle() }, icon("torch"));
  return made;
}

/** Measure the live picture as the server would a photo, and show hints. */
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
  await begin(await createImageBitmap(video));
  go("/check/frame");
}

/** Say why there is no camera, and what to do instead. */
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
