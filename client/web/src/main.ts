// The page: one screen at a time, and the way between them.

import { type Answer, needsAnotherPhoto } from "./answer";
import * as api from "./api";
import { NoAnswer, troubleOf } from "./api";
import type { Model } from "./api.gen";
import { closeCamera, NoCamera, openCamera, snap } from "./camera";
import { makeCropper } from "./crop";
import { h, icon } from "./dom";
import * as history_ from "./history";
import * as offline from "./offline";
import { cut, decode, encode, type Frame, WrongPhoto } from "./pixels";
import { headline, kind, makeResult, mark } from "./result";
import { chooseLanguage, type Language, LANGUAGES, language, t } from "./strings";

const LANGUAGE = "dermserve.language";
const MODEL = "dermserve.model";
const VIEWS = "dermserve.views";
const KEPT_SIDE = 480;

const root = document.getElementById("app") as HTMLElement;
const live = document.getElementById("live") as HTMLElement;
let known: Model[] = [];
let reached = true;
let leave: () => void = () => {};
let repaint: () => void = () => void home();

/** Show a screen: its heading gets the focus, so that a screen reader says where one is. */
function show(title: string, content: (Node | false | null)[], { back = true }: { back?: boolean } = {}): void {
  leave();
  leave = () => {};
  // The phone's own way back leads home, not out of the page.
  if (back && !history.state?.inner) history.pushState({ inner: true }, "");
  const skip = document.querySelector(".skip");
  if (skip) skip.textContent = t("skip");
  const heading = h("h1", { tabIndex: -1 }, title);
  const button = h("button", { type: "button", className: "icon-button", "aria-label": t("back"), onclick: () => void home() }, icon("back"));
  root.replaceChildren(
    h("header", {}, back ? button : h("span", { className: "mark", "aria-hidden": "true" }, icon("shield")), heading, languages()),
    h("main", { id: "main", tabIndex: -1 }, ...content.filter((node): node is Node => Boolean(node))),
  );
  document.title = `${title} · ${t("appName")}`;
  say("");
  scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

function say(words: string): void {
  live.textContent = words;
}

function languages(): HTMLElement {
  const choose = (event: Event) => {
    const chosen = (event.target as HTMLSelectElement).value as Language;
    localStorage.setItem(LANGUAGE, chosen);
    chooseLanguage(chosen);
    repaint();
  };
  const options = Object.entries(LANGUAGES).map(([code, name]) => h("option", { value: code, selected: code === language(), lang: code }, name));
  return h("select", { className: "language", "aria-label": t("language"), onchange: choose }, ...options);
}

function button(words: string, symbol: string | null, act: () => void, className = ""): HTMLButtonElement {
  return h("button", { type: "button", className, onclick: act }, symbol && icon(symbol), words);
}

// Home

async function home(): Promise<void> {
  repaint = () => void home();
  const input = h("input", { type: "file", accept: "image/jpeg,image/png,image/webp", id: "file", className: "hidden", tabIndex: -1, "aria-hidden": "true" });
  input.addEventListener("change", () => input.files?.[0] && void open(input.files[0]));
  const extras = h("div", { className: "stack" });
  show(
    t("appName"),
    [
      h("p", { className: "tagline" }, t("tagline")),
      h(
        "section",
        { className: "card hero", "aria-label": t("choose") },
        input,
        button(t("take"), "camera", () => void camera("environment"), "primary"),
        button(t("choose"), "photo", () => input.click()),
        h("p", { className: "hint" }, h("span", { className: "wide-only" }, `${t("dropHint")} · `), t("tips")),
      ),
      h(
        "div",
        { className: "columns" },
        about("check", "isTitle", "is"),
        about("cross", "isNotTitle", "isNot"),
        about("shield", "privacyTitle", "privacy"),
      ),
      extras,
      button(t("history"), "history", () => void historyScreen(), "quiet block"),
    ],
    { back: false },
  );
  await paintExtras(extras);
}

function about(symbol: string, title: "isTitle" | "isNotTitle" | "privacyTitle", words: "is" | "isNot" | "privacy"): HTMLElement {
  return h("section", { className: `card about ${words}` }, icon(symbol), h("h2", {}, t(title)), h("p", {}, t(words)));
}

/** Options, and the way to answers without a network: what needs the server comes when it has answered. */
async function paintExtras(place: HTMLElement): Promise<void> {
  try {
    if (navigator.onLine) known = await api.models();
    reached = navigator.onLine;
  } catch (error) {
    if (troubleOf(error) === "key") place.replaceChildren(keyForm(() => void home()));
    reached = troubleOf(error) !== "lost"; // "online" may be a network that leads nowhere
    if (reached) return;
  }
  if (!reached) {
    place.replaceChildren(h("p", { className: "banner", role: "status" }, t(offline.prepared() ? "offlineReady" : "offline")));
    return;
  }
  const offer = await offline.offered();
  place.replaceChildren(...(known.length ? [options()] : [h("p", { className: "banner" }, t("noModel"))]), ...(offer ? [offerCard(offer)] : []), readyLine(offer !== null));
}

/** Whether this device can answer by itself; where it can't and can't be prepared either, that is said. */
function readyLine(offered: boolean): HTMLElement {
  const here = offline.prepared();
  const not = offered ? "" : t("onlineOnly");
  const words = here ? t("prepared", { model: here.card.model ?? "", version: here.version }) : not;
  return h("p", { className: "hint", id: "ready" }, words);
}

function chosenModel(): string {
  const saved = localStorage.getItem(MODEL);
  const best = known.find(({ name }) => name === saved) ?? known.find(api.trained) ?? known[0];
  return best?.name ?? saved ?? offline.prepared()?.card.model ?? "";
}

function chosenViews(): "NONE" | "FULL" {
  return localStorage.getItem(VIEWS) === "NONE" ? "NONE" : "FULL";
}

function options(): HTMLElement {
  const keep = (key: string) => (event: Event) => localStorage.setItem(key, (event.target as HTMLSelectElement).value);
  const model = h(
    "select",
    { id: "model", onchange: keep(MODEL) },
    ...known.map(({ name = "" }) => h("option", { value: name, selected: name === chosenModel() }, name)),
  );
  const views = h(
    "select",
    { id: "views", onchange: keep(VIEWS) },
    h("option", { value: "FULL", selected: chosenViews() === "FULL" }, t("viewsTen")),
    h("option", { value: "NONE", selected: chosenViews() === "NONE" }, t("viewsOne")),
  );
  return h(
    "details",
    { className: "card options" },
    h("summary", {}, t("options")),
    h("label", { for: "model" }, h("span", {}, t("model")), model),
    h("label", { for: "views" }, h("span", {}, t("views")), views),
  );
}

function offerCard(offer: { model: string; version: string }): HTMLElement {
  const words = h("p", {}, t("prepareWords", { mb: 12 }));
  const start = button(t("prepare"), "download", () => void go(), "quiet");
  const card = h("section", { className: "card offer" }, words, h("p", { className: "hint" }, t("privacyLocal")), start);
  const go = async () => {
    start.disabled = true;
    try {
      await offline.prepare(offer, (share) => (words.textContent = t("preparing", { p: Math.round(share * 100) })));
      const ready = readyLine(true).textContent ?? "";
      card.replaceChildren(h("p", { id: "prepared" }, icon("check"), ready));
      say(ready);
    } catch (error) {
      console.warn(error);
      start.disabled = false;
      words.textContent = t("prepareFailed");
    }
  };
  return card;
}

function keyForm(then: () => void): HTMLElement {
  const input = h("input", { id: "key", type: "password", required: true, autocomplete: "off" });
  const submit = (event: Event) => {
    event.preventDefault();
    api.setKey(input.value.trim());
    then();
  };
  return h(
    "form",
    { className: "card", onsubmit: submit },
    h("label", { for: "key" }, h("span", {}, t("keyTitle")), input),
    h("p", { className: "hint" }, t("keyWords")),
    h("button", { className: "primary" }, t("keySave")),
  );
}

// A photo, from a file or the camera

async function open(file: Blob): Promise<void> {
  try {
    crop(await decode(file));
  } catch (error) {
    await home();
    const words = t(error instanceof WrongPhoto && error.small ? "tooSmall" : "wrongFile");
    document.getElementById("main")?.prepend(h("p", { className: "banner bad", role: "alert" }, words));
  }
}

async function camera(facing: "environment" | "user"): Promise<void> {
  repaint = () => void camera(facing);
  const video = h("video", { autoplay: true, muted: true, playsInline: true, "aria-label": t("cameraTitle") });
  const words = h("p", { className: "hint", role: "status" }, t("cameraStarting"));
  const shutter = button(t("shutter"), "camera", () => void snap(video).then(crop), "primary");
  shutter.disabled = true;
  const other = button(t("switchCamera"), "rotate", () => void camera(facing === "user" ? "environment" : "user"), "quiet");
  const buttons = h("div", { className: "row" }, shutter, other);
  show(t("cameraTitle"), [h("div", { className: "viewfinder" }, video, h("span", { className: "reticle", "aria-hidden": "true" })), words, buttons]);
  let gone = false;
  let stream: MediaStream | undefined;
  leave = () => {
    gone = true;
    closeCamera(stream);
  };
  try {
    stream = await openCamera(video, facing);
    if (gone) closeCamera(stream);
    words.textContent = t("tips");
    shutter.disabled = false;
  } catch (error) {
    if (gone) return;
    words.replaceWith(h("p", { className: "banner bad", role: "alert" }, t(error instanceof NoCamera ? error.key : "cameraBusy")));
    buttons.replaceChildren(button(t("back"), "back", () => void home(), "primary"));
  }
}

function crop(bitmap: ImageBitmap): void {
  repaint = () => crop(bitmap);
  const cropper = makeCropper(bitmap);
  show(t("cropTitle"), [
    cropper.element,
    h(
      "div",
      { className: "row" },
      button(t("analyse"), "check", () => void analyse(bitmap, { ...cropper.frame }), "primary"),
      button(t("cancel"), null, () => void home(), "quiet"),
    ),
  ]);
}

// The answer

async function analyse(bitmap: ImageBitmap, frame: Frame, device = false): Promise<void> {
  repaint = () => {};
  const photo = cut(bitmap, frame);
  const cancel = new AbortController();
  const here = device || (!(navigator.onLine && reached) && offline.prepared() !== null);
  show(t("resultTitle"), [
    h("div", { className: "busy", role: "status" }, h("span", { className: "spinner", "aria-hidden": "true" }), h("p", {}, t(here ? "analysingDevice" : "analysing"))),
    button(t("cancel"), null, () => crop(bitmap), "quiet block"),
  ]);
  leave = () => cancel.abort();
  try {
    const answer = here
      ? await offline.answer(photo, chosenViews())
      : await api.classify(await encode(photo), await someModel(), chosenViews(), cancel.signal);
    if (!cancel.signal.aborted) result(answer, await encode(photo, Math.min(KEPT_SIDE, photo.width)));
  } catch (error) {
    if (!cancel.signal.aborted) noAnswer(error, bitmap, frame);
  }
}

async function someModel(): Promise<string> {
  if (known.length === 0) known = await api.models();
  const name = chosenModel();
  if (!name) throw new NoAnswer("failed", "no model answers");
  return name;
}

function noAnswer(error: unknown, bitmap: ImageBitmap, frame: Frame): void {
  repaint = () => noAnswer(error, bitmap, frame);
  const trouble = troubleOf(error);
  console.warn(error); // the server's words are for whoever runs it
  const again = () => void analyse(bitmap, frame);
  const said = {
    lost: () => t(navigator.onLine ? "lost" : "offlineNot"),
    busy: () => t("busy"),
    slow: () => t("slow"),
    key: () => t("keyWords"),
    photo: () => t("wrongPhoto"),
    failed: () => t("failed"),
  }[trouble]();
  const here = offline.prepared() && (trouble === "lost" || trouble === "slow" || trouble === "busy");
  show(t("resultTitle"), [
    h("p", { className: "banner bad", role: "alert" }, said),
    trouble === "key" ? keyForm(again) : null,
    h(
      "div",
      { className: "row" },
      button(t("retry"), "rotate", again, "primary"),
      here && button(t("onDevice"), "phone", () => void analyse(bitmap, frame, true)),
      button(t("cancel"), null, () => crop(bitmap), "quiet"),
    ),
  ]);
}

function result(answer: Answer, picture: Blob): void {
  repaint = () => result(answer, picture);
  const another = needsAnotherPhoto(answer);
  const save = button(t("save"), "check", () => void keep(), another ? "quiet" : "primary");
  const close = button(t("close"), "cross", () => void home(), "quiet");
  const buttons = another
    ? [button(t("another"), "camera", () => void camera("environment"), "primary"), answer.verdict === "VERDICT_REJECTED" ? close : save]
    : [save, close];
  const keep = async () => {
    save.disabled = true;
    await history_.save(picture, answer);
    await historyScreen();
    say(t("saved"));
  };
  show(t("resultTitle"), [makeResult(answer, picture), h("div", { className: "row sticky" }, ...buttons)]);
  say(headline(answer));
}

// History

async function historyScreen(): Promise<void> {
  repaint = () => void historyScreen();
  const entries = await history_.all();
  const tools = h(
    "div",
    { className: "row" },
    button(t("export"), "download", () => void exportAll(), "quiet"),
    button(t("removeAll"), "trash", () => void removeAll(), "quiet danger"),
  );
  show(t("historyTitle"), [
    entries.length === 0 ? h("p", { className: "empty" }, icon("history"), t("historyEmpty")) : tools,
    h("ul", { className: "entries" }, ...entries.map(line)),
    button(t("home"), "back", () => void home(), "quiet block"),
  ]);
}

function line(entry: history_.Entry): HTMLLIElement {
  const url = URL.createObjectURL(entry.picture);
  const when = new Date(entry.time).toLocaleString(language(), { dateStyle: "medium", timeStyle: "short" });
  const title = headline(entry.answer);
  return h(
    "li",
    { className: "card entry" },
    h("img", { src: url, alt: "", onload: () => URL.revokeObjectURL(url) }),
    h("div", { className: "grow" }, h("p", { className: `tag ${kind(entry.answer)}` }, mark(entry.answer), title), h("p", { className: "hint" }, when)),
    h("button", { type: "button", className: "quiet", "aria-label": `${t("open")}: ${title}, ${when}`, onclick: () => entryScreen(entry) }, t("open")),
    h("button", { type: "button", className: "icon-button danger", "aria-label": `${t("remove")}: ${title}, ${when}`, onclick: () => void removeOne(entry.id) }, icon("trash")),
  );
}

function entryScreen(entry: history_.Entry): void {
  repaint = () => entryScreen(entry);
  show(t("resultTitle"), [
    makeResult(entry.answer, entry.picture),
    h(
      "div",
      { className: "row" },
      button(t("history"), "history", () => void historyScreen(), "primary"),
      button(t("remove"), "trash", () => void removeOne(entry.id), "quiet danger"),
    ),
  ]);
}

async function removeOne(id: string): Promise<void> {
  await history_.remove(id);
  await historyScreen();
  say(t("removed"));
}

async function removeAll(): Promise<void> {
  if (!confirm(t("removeAllSure"))) return;
  await history_.removeAll();
  await historyScreen();
  say(t("removed"));
}

async function exportAll(): Promise<void> {
  const url = URL.createObjectURL(await history_.exported());
  h("a", { href: url, download: "skin-check-history.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Everything else

document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault(); // a fragment in the address would be one more step back
  document.getElementById("main")?.focus();
});
addEventListener("popstate", () => void home());
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file) void open(file);
});
for (const change of ["online", "offline"]) {
  addEventListener(change, () => document.querySelector(".hero") && void home());
}
if ("serviceWorker" in navigator) void navigator.serviceWorker.register("/app/sw.js").catch(() => {});
chooseLanguage(localStorage.getItem(LANGUAGE));
void home();
