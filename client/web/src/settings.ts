// The settings screen: appearance, access key, answers without a connection.

import * as api from "./api";
import type { Card } from "./api.gen";
import { h, icon } from "./dom";
import { className } from "./kinds";
import * as offline from "./offline";
import { path, render } from "./router";
import { alert_, button, choice, say, show } from "./screen";
import * as service from "./service";
import { apply, get, remove, set, type Setting } from "./store";
import { type Key, LANGUAGES, language, number, t } from "./strings";

const PREPARE_MB = 12;
const BYTES_PER_MB = 1e6;

export async function settingsScreen(_: string, still: () => boolean): Promise<void> {
  const late = h("div", { className: "stack" });
  show(t("settings"), [
    h(
      "section",
      { className: "card fields" },
      choice(t("language"), "language", Object.entries(LANGUAGES), language(), change("language")),
      choice(t("theme"), "theme", among("theme", ["auto", "light", "dark"]), get("theme") ?? "auto", change("theme")),
      choice(t("textSize"), "size", among("size", ["normal", "large", "larger"]), get("size") ?? "normal", change("size")),
    ),
    late,
  ]);
  await service.refresh();
  const offer = await offline.offered();
  if (still()) late.replaceChildren(deviceCard(offer), keyCard());
}

function among(group: "theme" | "size", values: string[]): [string, string][] {
  return values.map((value) => [value, t(`${group}_${value}` as Key)]);
}

/** Save a setting and apply it; the focus stays where it was. */
function change(name: Setting): (value: string) => void {
  return (value) => {
    set(name, value);
    apply();
    render();
    document.getElementById(name)?.focus();
  };
}

/** Whether this device can answer offline, and the button that downloads the model; or why it can't. */
function deviceCard(offer: { model: string; version: string } | null): HTMLElement {
  const here = offline.prepared();
  const card = h("section", { className: "card fields", id: "device" }, h("h2", {}, t("device")));
  if (here) card.append(...preparedWords(here));
  if (offer) card.append(...preparing(offer));
  if (!here && !offer) card.append(h("p", {}, t("onlineOnly")));
  return card;
}

function limitsOf({ classes = [] }: Card): HTMLElement {
  const names = classes.map(({ code = "", name = "", commonName }) => className(code, commonName || name));
  return h("p", { className: "hint" }, t("deviceLimits", { n: names.length, names: names.join(", ") }));
}

function preparedWords({ bytes, card }: offline.Prepared): HTMLElement[] {
  const forget = () => void offline.forget().then(() => render());
  return [
    h("p", { id: "prepared" }, icon("check"), `${t("prepared")} ${t("preparedSize", { mb: number(bytes / BYTES_PER_MB) })}`),
    limitsOf(card),
    button(t("deviceRemove"), "trash", forget, "quiet danger"),
  ];
}

function preparing(offer: { model: string; version: string }): HTMLElement[] {
  const words = h("p", {}, t("prepareWords", { mb: PREPARE_MB }));
  const start = button(t("prepare"), "download", () => void go(), "quiet");
  const go = async () => {
    start.disabled = true;
    try {
      await offline.prepare(offer, (share) => (words.textContent = t("preparing", { p: Math.round(share * 100) })));
      if (path() === "/settings") render();
      say(t("prepared"));
    } catch (error) {
      console.warn(error);
      start.disabled = false;
      words.textContent = t("prepareFailed");
    }
  };
  const versions = service.models().find(({ name }) => name === offer.model)?.versions ?? [];
  const card = versions.find(({ version }) => version === offer.version)?.card;
  return [words, ...(card && !offline.prepared() ? [limitsOf(card)] : []), start];
}

function keyCard(): HTMLElement {
  if (service.trouble() === "key") return keyForm(() => render());
  const drop = () => {
    remove("key");
    render();
  };
  return h(
    "section",
    { className: "card fields" },
    h("h2", {}, t("keyTitle")),
    h("p", { className: "hint" }, t(api.hasKey() ? "keyHave" : "keyNone")),
    api.hasKey() && button(t("keyRemove"), "trash", drop, "quiet danger"),
  );
}

/** Ask for a key; if one is saved, the server refused it. */
export function keyForm(then: () => void): HTMLElement {
  const input = h("input", { id: "key", type: "password", required: true, autocomplete: "off" });
  const wrong = api.hasKey();
  const submit = (event: Event) => {
    event.preventDefault();
    set("key", input.value.trim());
    void service.refresh(true).then(then);
  };
  const drop = () => {
    remove("key");
    void service.refresh(true).then(then);
  };
  return h(
    "form",
    { className: "card fields", onsubmit: submit },
    wrong && alert_(t("keyWrong")),
    h("label", { for: "key" }, h("span", {}, t("keyTitle")), input),
    h("p", { className: "hint" }, t("keyWords")),
    h("div", { className: "row" }, h("button", { className: "primary" }, t("keySave")), wrong && button(t("keyRemove"), "trash", drop, "quiet danger")),
  );
}
