// The history as one file: out of this browser, and into another.

import type { Entry, Kept, Spot } from "./history";
import { noQuestions } from "./questions";

const FORMAT = "dermserve history 1";

/** Write everything as one JSON file, pictures included. */
export async function written({ spots, entries }: Kept): Promise<Blob> {
  const photos = await Promise.all(entries.map(async (entry) => ({ ...entry, time: new Date(entry.time).toISOString(), picture: await dataUrl(entry.picture) })));
  const notice = "A screening aid, not a diagnosis.";
  return new Blob([JSON.stringify({ format: FORMAT, notice, spots, photos }, null, 1)], { type: "application/json" });
}

/** Read such a file; throws where it isn't one. */
export async function read(file: Blob): Promise<Kept> {
  const { format, spots, photos } = JSON.parse(await file.text()) as { format?: string; spots?: Spot[]; photos?: (Omit<Entry, "time" | "picture"> & { time: string; picture: string })[] };
  if (format !== FORMAT || !Array.isArray(spots) || !Array.isArray(photos)) throw new Error("not a history");
  const kept: Kept = { spots: spots.map(spotFrom), entries: photos.map((one) => ({ ...one, time: Date.parse(one.time), picture: blob(one.picture), questions: { ...noQuestions(), ...one.questions } })) };
  const names = new Set(kept.spots.map(({ id }) => id));
  const sound = kept.entries.every(({ id, spot, time, answer }) => isText(id) && names.has(spot) && !Number.isNaN(time) && Array.isArray(answer?.scores) && Array.isArray(answer.reasons));
  if (!sound) throw new Error("a photo lacks something");
  return kept;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function spotFrom({ id, name, place = null, notes = "", again = "" }: Spot): Spot {
  if (!isText(id) || !isText(name)) throw new Error("a spot lacks something");
  return { id, name, place, notes, again };
}

function blob(url: string): Blob {
  const [, type, data] = /^data:(image\/(?:png|jpeg));base64,(.+)$/.exec(url) ?? [];
  if (!type || !data) throw new Error("not a picture");
  return new Blob([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], { type });
}

function dataUrl(picture: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(picture);
  });
}

/** A day in the calendar, for the calendar of the device (RFC 5545). */
export function calendar(day: string, words: string): Blob {
  const compact = day.replaceAll("-", "");
  const escaped = words.replace(/[\\,;]/g, "\\$&").replace(/\s+/g, " ");
  const lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//dermserve//page//EN", "BEGIN:VEVENT", `UID:${compact}-${Date.now()}@dermserve`];
  lines.push(`DTSTAMP:${new Date().toISOString().replace(/[-:]|\.\d+/g, "")}`, `DTSTART;VALUE=DATE:${compact}`, `SUMMARY:${escaped}`, "END:VEVENT", "END:VCALENDAR", "");
  return new Blob([lines.join("\r\n")], { type: "text/calendar" });
}
