// Parts of every screen: heading, Back, bottom navigation, messages for screen readers.

import { h, icon } from "./dom";
import { back, path, place, render } from "./router";
import { apply, set } from "./store";
import { type Key, LANGUAGES, language, t } from "./strings";

const root = document.getElementById("app") as HTMLElement;
const live = document.getElementById("live") as HTMLElement;
const toasts = document.getElementById("toast") as HTMLElement;

const TABS: [address: string, symbol: string, words: Key][] = [
  ["/", "camera", "check"],
  ["/history", "history", "history"],
  ["/learn", "book", "learn"],
  ["/settings", "sliders", "settings"],
];

/** How many changes of screen a toast survives. */
const TOAST_SCREENS = 1;
let toastAge = 0;

type Content = (Node | false | null | undefined)[];

/** Show a screen. Its heading gets the focus, so that a screen reader reads it. */
export function show(title: string, content: Content, { above }: { above?: string } = {}): void {
  if (toastAge++ >= TOAST_SCREENS) toasts.replaceChildren();
  const skip = document.querySelector(".skip");
  if (skip) skip.textContent = t("skip");
  const heading = h("h1", { tabIndex: -1 }, title);
  const first = above === undefined ? h("span", { className: "mark", "aria-hidden": "true" }, icon("shield")) : iconButton("back", t("back"), () => back(above));
  root.replaceChildren(
    h("header", {}, first, heading, otherLanguage()),
    h("main", { id: "main", tabIndex: -1 }, ...content.filter((node): node is Node => Boolean(node))),
    navigation(),
  );
  document.title = title === t("appName") ? title : `${title} · ${t("appName")}`;
  say("");
  scrollTo(0, place());
  heading.focus({ preventScroll: true });
}

function navigation(): HTMLElement {
  const top = `/${path().split("/")[1] === "check" ? "" : path().split("/")[1]}`;
  const links = TABS.map(([address, symbol, words]) =>
    h("a", { href: `#${address}`, "aria-current": address === top ? "page" : null }, icon(symbol), h("span", {}, t(words))),
  );
  return h("nav", { "aria-label": t("screens") }, ...links);
}

function otherLanguage(): HTMLElement {
  const other = language() === "en" ? "id" : "en";
  const change = () => {
    set("language", other);
    apply();
    render();
  };
  return h("button", { type: "button", className: "language", lang: other, "aria-label": `${other.toUpperCase()}: ${LANGUAGES[other]}`, onclick: change }, other.toUpperCase());
}

/** Announce to screen readers only. */
export function say(words: string): void {
  live.textContent = words;
}

/** Show a message above this screen and the next, until it is dismissed or replaced. */
export function toast(words: string, action?: { words: string; act: () => void }): void {
  const close = () => toasts.replaceChildren();
  const act = () => {
    close();
    action?.act();
  };
  toastAge = 0;
  toasts.replaceChildren(
    h("p", {}, words),
    ...(action ? [h("button", { type: "button", className: "quiet", onclick: act }, action.words)] : []),
    iconButton("cross", t("dismiss"), close),
  );
}

export function alert_(words: string): HTMLElement {
  return h("p", { className: "banner bad", role: "alert" }, words);
}

export function button(words: string, symbol: string | null, act: () => void, className = ""): HTMLButtonElement {
  return h("button", { type: "button", className, onclick: act }, symbol && icon(symbol), words);
}

export function iconButton(symbol: string, words: string, act: () => void): HTMLButtonElement {
  return h("button", { type: "button", className: "icon-button", "aria-label": words, onclick: act }, icon(symbol));
}

/** A labelled select. */
export function choice(words: string, id: string, options: [value: string, words: string][], chosen: string, act: (value: string) => void): HTMLElement {
  const list = options.map(([value, name]) => h("option", { value, selected: value === chosen }, name));
  const select = h("select", { id, onchange: (event: Event) => act((event.target as HTMLSelectElement).value) }, ...list);
  return h("label", { for: id }, h("span", {}, words), select);
}

/** A button to choose a file; the same file can be chosen twice. */
export function fileButton(words: string, symbol: string, accept: string, id: string, act: (file: File) => void, className = ""): HTMLElement {
  const input = h("input", { type: "file", accept, id, className: "hidden", tabIndex: -1, "aria-hidden": "true" });
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    input.value = "";
    if (file) act(file);
  });
  return h("span", { className: "chooser" }, input, button(words, symbol, () => input.click(), className));
}

/** An image that releases its object URL once loaded. */
export function image(picture: Blob, alt: string, className = ""): HTMLImageElement {
  const url = URL.createObjectURL(picture);
  const done = () => URL.revokeObjectURL(url);
  return h("img", { src: url, alt, className, onload: done, onerror: done });
}

/** Let the browser download a file. */
export function download(file: Blob, name: string): void {
  const url = URL.createObjectURL(file);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
