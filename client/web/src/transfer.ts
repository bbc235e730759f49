// Export and import of the history as one file, and calendar reminders.

import { type Answer, LEVELS } from "./answer";
import { REGIONS } from "./bodymap";
import type { Entry, Kept, Spot } from "./history";
import { blobOf } from "./pixels";
import { SIGNS, SINCE } from "./questions";

const FORMAT = "dermserve history 1";

/** Write everything as one JSON file, photos included. */
export async function written({ spots, entries }: Kept): Promise<Blob> {
  const photos = await Promise.all(entries.map(async (entry) => ({ ...entry, time: new Date(entry.time).toISOString(), picture: await dataUrl(entry.picture) })));
  const notice = "A screening aid, not a diagnosis.";
  return new Blob([JSON.stringify({ format: FORMAT, notice, spots, photos }, null, 1)], { type: "application/json" });
}

/** Read such a file; throws if anything in it differs from what the page writes. */
export async function read(file: Blob): Promise<Kept> {
  const { format, spots, photos } = JSON.parse(await file.text()) as { format?: string; spots: Spot[]; photos: Written[] };
  const names = new Set(spots.map(({ id }) => id));
  if (format !== FORMAT || !spots.every(isSpot) || !photos.every((one) => isPhoto(one) && names.has(one.spot))) throw new Error("not a history");
  return { spots, entries: photos.map((one) => ({ ...one, time: Date.parse(one.time), picture: blobOf(one.picture) })) };
}

type Written = Omit<Entry, "time" | "picture"> & { time: string; picture: string };

/** Whether a value has each field of the examples, with the same type. */
function like(value: unknown, ...examples: object[]): boolean {
  if (typeof value !== "object" || value === null) return false;
  const found = value as Record<string, unknown>;
  return examples.every((example) => Object.entries(example).every(([name, one]) => typeof found[name] === typeof one));
}

function isSpot(value: Spot): boolean {
  if (!like(value, { id: "", name: "", notes: "", again: "", place: {} }) || value.name === "" || !/^\w+$/.test(value.id) || !/^(\d{4}-\d\d-\d\d)?$/.test(value.again)) return false;
  const { place } = value;
  return place === null || (like(place, { side: "", region: "", x: 0, y: 0 }) && Object.hasOwn(REGIONS, place.side) && Object.hasOwn(REGIONS[place.side], place.region));
}

function isPhoto({ id, time, picture, answer, questions }: Written): boolean {
  const texts = like({ id, time, picture }, { id: "", time: "", picture: "" }) && /^\w+$/.test(id) && !Number.isNaN(Date.parse(time));
  const asked = like(questions, { none: true, since: "", signs: [] }) && SINCE.includes(questions.since) && questions.signs.every((one) => SIGNS.includes(one));
  return texts && asked && isAnswer(answer);
}

function isAnswer(value: Answer): boolean {
  const texts = { source: "", model: "", version: "", weightsDigest: "", gatewayVersion: "", verdict: "", namedClass: "", requestId: "", level: "" };
  const rest = { reasons: [], scores: [], viewsUsed: 0, viewsAsked: 0, totalMs: 0, skinChecked: true };
  const sound = like(value, texts, rest) && LEVELS.includes(value.level) && (value.risk === null || typeof value.risk === "number");
  return sound && value.reasons.every((one) => typeof one === "string") && value.scores.every((one) => like(one, { code: "", name: "", medical: "", probability: 0, std: 0 }));
}

function dataUrl(picture: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(picture);
  });
}

/** An all-day event for the device's calendar (RFC 5545). */
export function calendar(day: string, words: string): Blob {
  const compact = day.replaceAll("-", "");
  const escaped = words.replace(/[\\,;]/g, "\\$&").replace(/\s+/g, " ");
  const lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//dermserve//page//EN", "BEGIN:VEVENT", `UID:${compact}-${Date.now()}@dermserve`];
  lines.push(`DTSTAMP:${new Date().toISOString().replace(/[-:]|\.\d+/g, "")}`, `DTSTART;VALUE=DATE:${compact}`, `SUMMARY:${escaped}`, "END:VEVENT", "END:VCALENDAR", "");
  return new Blob([lines.join("\r\n")], { type: "text/calendar" });
}
