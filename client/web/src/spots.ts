// The history screens: spots, their photos and notes.

import { makeBodyMap, place } from "./bodymap";
import { takePhoto } from "./check";
import { h, icon } from "./dom";
import * as records from "./history";
import { makeReport, reportButtons } from "./report";
import { makeResult, said } from "./result";
import { go, leaveFor, render } from "./router";
import { alert_, button, choice, download, fileButton, image, show, toast } from "./screen";
import { date, t } from "./strings";
import { calendar, read, written } from "./transfer";

const today = (): string => new Date(Date.now() - new Date().getTimezoneOffset() * 60_000).toISOString().slice(0, 10);

/** Read what a screen shows, and show it; or say that it can't be read, or was removed (null). */
async function load<T>(still: () => boolean, read: () => Promise<T | null>, then: (found: T) => void): Promise<void> {
  try {
    const found = await read();
    if (still()) found === null ? gone() : then(found);
  } catch (error) {
    console.warn(error);
    if (still()) show(t("history"), [alert_(t("storageBlocked"))]);
  }
}

export async function historyScreen(_: string, still: () => boolean): Promise<void> {
  const persisted = await navigator.storage?.persisted?.().catch(() => false);
  await load(still, records.all, (kept) => showHistory(kept, persisted === true));
}

function showHistory(kept: records.Kept, persisted: boolean): void {
  const some = kept.spots.length > 0;
  const rows = kept.spots.map((spot) => row(spot, kept.entries.filter((entry) => entry.spot === spot.id)));
  show(t("history"), [
    !some && h("p", { className: "empty" }, icon("history"), t("historyEmpty")),
    some && h("ul", { className: "entries" }, ...rows),
    h(
      "div",
      { className: "row" },
      some && button(t("export"), "download", () => void exportAll(), "quiet"),
      fileButton(t("import"), "upload", "application/json,.json", "import", (file) => void importAll(file), "quiet"),
      some && button(t("removeAll"), "trash", () => void removeWithUndo(kept, "/history"), "quiet danger"),
    ),
    some && h("p", { className: "hint" }, t(persisted ? "persisted" : "notPersisted")),
  ]);
}

function row(spot: records.Spot, photos: records.Entry[]): HTMLLIElement {
  const latest = photos[0];
  const count = photos.length === 1 ? t("photoCount") : t("photosCount", { n: photos.length });
  return h(
    "li",
    {},
    h(
      "a",
      { className: "card entry", href: `#/history/spot/${spot.id}` },
      latest ? image(latest.picture, "") : h("span", { className: "blank" }, icon("photo")),
      h(
        "span",
        { className: "grow" },
        h("strong", {}, spot.name),
        latest && tag(latest),
        h("span", { className: "hint" }, [latest && date(latest.time), count, place(spot.place)].filter(Boolean).join(" · ")),
        spot.again !== "" && h("span", { className: isDue(spot) ? "due" : "hint" }, isDue(spot) && icon("bell"), t(isDue(spot) ? "due" : "againOn", { date: date(spot.again) })),
      ),
    ),
  );
}

function tag({ answer, questions }: records.Entry): HTMLElement {
  const { kind, symbol, title } = said(answer, questions);
  return h("span", { className: `tag ${kind}` }, icon(symbol), t(title));
}

function isDue({ again }: records.Spot): boolean {
  return again !== "" && again <= today();
}

export function spotScreen(id: string, still: () => boolean): Promise<void> {
  return load(still, () => records.spotOf(id), showSpot);
}

function showSpot({ spot, photos }: { spot: records.Spot; photos: records.Entry[] }): void {
  const change = (what: Partial<records.Spot>) => {
    Object.assign(spot, what);
    records.change(spot.id, what).catch((error) => {
      console.warn(error);
      toast(t("storageBlocked"));
    });
  };
  show(
    spot.name,
    [
      isDue(spot) && h("p", { className: "banner" }, t("due", { date: date(spot.again) })),
      h("div", { className: "row" }, button(t("photoAgain"), "camera", () => takePhoto(spot.id), "primary")),
      h("ul", { className: "photos" }, ...photos.map(photo)),
      photos.length > 1 && comparison(photos),
      h("section", { className: "card fields" }, ...fields(spot, change)),
      h("section", { className: "card" }, makeBodyMap(spot.place, (where) => change({ place: where }))),
      button(t("removeSpot"), "trash", () => void removeWithUndo({ spots: [spot], entries: photos }, "/history"), "quiet danger"),
    ],
    { above: "/history" },
  );
}

function photo(entry: records.Entry): HTMLLIElement {
  const when = date(entry.time, true);
  return h("li", {}, h("a", { className: "card entry", href: `#/history/photo/${entry.id}` }, image(entry.picture, ""), h("span", { className: "grow" }, tag(entry), h("span", { className: "hint" }, when))));
}

function fields(spot: records.Spot, change: (what: Partial<records.Spot>) => void): HTMLElement[] {
  const name = h("input", { id: "name", value: spot.name, maxLength: 60, autocomplete: "off" });
  // Saved while typing: Back and a reload give no warning.
  name.addEventListener("input", () => name.value.trim() !== "" && change({ name: name.value.trim() }));
  name.addEventListener("change", () => (document.querySelector("h1")!.textContent = name.value = spot.name));
  const notes = h("textarea", { id: "notes", value: spot.notes, rows: 3, maxLength: 4000, placeholder: t("notesHint") });
  notes.addEventListener("input", () => change({ notes: notes.value }));
  const calendarButton = button(t("calendar"), "bell", () => download(calendar(spot.again, t("calendarText", { name: spot.name })), "skin-check.ics"), "quiet");
  calendarButton.hidden = spot.again === "";
  const again = h("input", { id: "again", type: "date", value: spot.again, min: today() });
  again.addEventListener("change", () => {
    change({ again: again.value });
    calendarButton.hidden = spot.again === "";
  });
  const field = (words: string, input: HTMLElement) => h("label", { for: input.id }, h("span", {}, words), input);
  return [field(t("spotTitle"), name), field(t("notes"), notes), field(t("again"), again), calendarButton];
}

/** Two photos of one spot, side by side. */
function comparison(photos: records.Entry[]): HTMLElement {
  const options = photos.map(({ id, time }): [string, string] => [id, date(time, true)]);
  const half = (words: string, id: string, first: records.Entry) => {
    const place = h("div", {});
    const paint = (chosen: string) => {
      const entry = photos.find((one) => one.id === chosen) ?? first;
      place.replaceChildren(image(entry.picture, t("photoOf", { date: date(entry.time) })), h("p", { className: "hint" }, date(entry.time, true)));
    };
    paint(first.id);
    return h("div", {}, choice(words, id, options, first.id, paint), place);
  };
  return h("section", { className: "card compare" }, h("h2", {}, t("compare")), half(t("earlier"), "earlier", photos.at(-1)!), half(t("later"), "later", photos[0]!));
}

async function entryOf(id: string): Promise<{ entry: records.Entry; spot: records.Spot } | null> {
  const kept = await records.all();
  const entry = kept.entries.find((one) => one.id === id);
  const spot = kept.spots.find((one) => one.id === entry?.spot);
  return entry && spot ? { entry, spot } : null;
}

export function photoScreen(id: string, still: () => boolean): Promise<void> {
  return load(still, () => entryOf(id), showPhoto);
}

function showPhoto({ entry, spot }: { entry: records.Entry; spot: records.Spot }): void {
  const above = `/history/spot/${spot.id}`;
  show(
    spot.name,
    [
      h("p", { className: "hint" }, date(entry.time, true)),
      makeResult(entry.answer, entry.picture, entry.questions),
      h(
        "div",
        { className: "row plain" },
        button(t("forDoctor"), "print", () => go(`/history/report/${entry.id}`), "quiet"),
        button(t("remove"), "trash", () => void removeWithUndo({ spots: [], entries: [entry] }, above), "quiet danger"),
      ),
    ],
    { above },
  );
}

export function savedReportScreen(id: string, still: () => boolean): Promise<void> {
  return load(still, () => entryOf(id), ({ entry, spot }) =>
    show(t("reportTitle"), [makeReport(entry, spot), reportButtons(entry, spot)], { above: `/history/photo/${id}` }),
  );
}

function gone(): void {
  show(t("history"), [h("p", { className: "empty" }, icon("history"), t("gone")), h("p", {}, h("a", { href: "#/history" }, t("toHistory")))], { above: "/history" });
}

async function removeWithUndo(what: records.Kept, then: string): Promise<void> {
  try {
    await records.remove(what);
  } catch (error) {
    console.warn(error);
    return toast(t("storageBlocked"));
  }
  leaveFor(then);
  const undo = () => void records.add(what).then(() => render(), () => toast(t("storageBlocked")));
  toast(t("removed"), { words: t("undo"), act: undo });
}

async function exportAll(): Promise<void> {
  try {
    download(await written(await records.all()), `skin-check-${today()}.json`);
  } catch (error) {
    console.warn(error);
    toast(t("exportFailed"));
  }
}

async function importAll(file: Blob): Promise<void> {
  let kept: records.Kept;
  try {
    kept = await read(file);
  } catch (error) {
    console.warn(error);
    return toast(t("importWrong"));
  }
  try {
    const count = await records.add(kept);
    render();
    toast(t("imported", { n: count }));
  } catch (error) {
    console.warn(error);
    toast(t("storageBlocked"));
  }
}
