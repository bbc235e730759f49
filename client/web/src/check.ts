// The first screen: take or choose a photo, or continue with the current one.

import { discard, draft, expect, begin } from "./draft";
import { h, icon } from "./dom";
import { makeGuide } from "./guide";
import * as offline from "./offline";
import { decode, isHeic, WrongPhoto } from "./pixels";
import { go, path, render } from "./router";
import { alert_, button, fileButton, image, show } from "./screen";
import * as service from "./service";
import { keyForm } from "./settings";
import { type Key, t } from "./strings";

export async function checkScreen(_: string, still: () => boolean): Promise<void> {
  const state = h("div", { className: "stack" });
  show(t("appName"), [
    state,
    continued(),
    h("p", { className: "tagline" }, t("tagline")),
    h(
      "section",
      { className: "card hero", "aria-label": t("check") },
      button(t("take"), "camera", () => takePhoto(), "primary"),
      chooser(t("choose"), "photo"),
      h("p", { className: "hint" }, t("privacyShort"), h("span", { className: "wide-only" }, ` ${t("choose")}, ${t("dropHint")}.`)),
    ),
    h("section", { className: "card" }, h("h2", {}, t("guideTitle")), makeGuide()),
    h("div", { className: "columns" }, about("check", "isTitle", "is"), about("cross", "isNotTitle", "isNot")),
    h("p", {}, h("a", { href: "#/learn" }, t("learnMore"))),
  ]);
  await service.refresh();
  if (!still()) return;
  state.replaceChildren(...stateOfService());
  document.getElementById("app")!.dataset.service = service.trouble();
}

function about(symbol: string, title: Key, words: Key): HTMLElement {
  return h("section", { className: `card about ${words}` }, icon(symbol), h("h2", {}, t(title)), h("p", {}, t(words)));
}

function stateOfService(): Node[] {
  const banner = (words: Key) => [h("p", { className: "banner", role: "status" }, t(words))];
  const trouble = service.trouble();
  if (trouble === "key") return [keyForm(() => render())];
  if (trouble === "portal") return banner("portal");
  if (trouble === "lost") return banner(offline.prepared() ? "offlineReady" : "offline");
  return service.models().length === 0 ? banner("noModel") : [];
}

/** The photo of the check in progress. */
function continued(): HTMLElement | null {
  const current = draft();
  if (!current) return null;
  const drop = () => {
    discard();
    render();
  };
  return h(
    "section",
    { className: "card offer", "aria-label": t("goesOn") },
    h("p", {}, t("goesOn")),
    h(
      "div",
      { className: "row" },
      button(t("goOn"), "check", () => go(current.answer ? "/check/result" : "/check/frame"), "primary"),
      button(t("discard"), "trash", drop, "quiet danger"),
    ),
  );
}

/** Start a check with the camera; `spot` names the spot of the history, if it is one. */
export function takePhoto(spot = ""): void {
  expect(spot);
  go("/check/camera");
}

/** A button to choose a photo; with `capture`, the phone's camera app takes it. */
export function chooser(words: string, symbol: string, { capture = false, className = "" } = {}): HTMLElement {
  const made = fileButton(words, symbol, "image/jpeg,image/png,image/webp", capture ? "captured" : "file", (file) => void open(file), className);
  if (capture) made.querySelector("input")?.setAttribute("capture", "environment");
  return made;
}

/** Start a check with a photo that was chosen, dropped, pasted or shared. */
export async function open(file: Blob): Promise<void> {
  try {
    const bitmap = await decode(file);
    if (!path().startsWith("/check/")) expect("");
    await begin(bitmap);
    go("/check/frame");
  } catch (error) {
    if (path() !== "/") go("/");
    document.querySelector("#main > [role=alert]")?.remove();
    document.getElementById("main")?.prepend(alert_(t(await reason(file, error))));
  }
}

async function reason(file: Blob, error: unknown): Promise<Key> {
  if (error instanceof WrongPhoto && error.small) return "tooSmall";
  return (await isHeic(file)) ? "heic" : "wrongFile";
}

const SHARED = "/app/shared-photo";

/** The photo that another app shared; the service worker put it into a cache. */
export async function sharedScreen(): Promise<void> {
  const found = await globalThis.caches?.match(SHARED).catch(() => undefined); // no caches without https
  go("/", { replace: true });
  if (!found) return;
  await caches.delete("dermserve-shared");
  await open(await found.blob());
}

/** Take photos that are dropped on the page or pasted; show a hint while one is dragged. */
export function listenForPhotos(): void {
  const { classList } = document.body;
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.dataset.drop = t("dropHere");
    classList.toggle("dropping", event.dataTransfer?.types.includes("Files") ?? false);
  });
  for (const end of ["dragleave", "dragend"]) document.addEventListener(end, () => classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    classList.remove("dropping");
    const file = event.dataTransfer?.files[0];
    if (file) void open(file);
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) void open(file);
  });
}

/** The whole photo of the check. */
export function shot(picture: Blob): HTMLElement {
  return h("figure", { className: "shot" }, image(picture, t("analysed")));
}
