// The check in progress: photo, frame, questions and answer. This tab keeps it, so that neither Back nor a reload loses it;
// it goes with the tab.

import type { Answer } from "./answer";
import { blobOf, cut, encode, type Frame, wholeFrame } from "./pixels";
import { noQuestions, type Questions } from "./questions";
import { here } from "./router";

export interface Draft {
  bitmap: ImageBitmap;
  frame: Frame;
  questions: Questions;
  answer: Answer | null;
  /** When the answer was given. */
  time: number;
  /** Spot of the history that it is a photo of; empty for a new one. */
  spot: string;
  /** How deep in the browser's history the check began. */
  start: number;
}

const META = "dermserve.draft";
const PHOTO = "dermserve.draft.photo";
/** Longest sides to try, in pixels: sessionStorage holds about 5 MB. */
const SIDES = [2048, 1280];
const KEPT_SIDE = 480;

let current: Draft | null = null;
let scale = 1;
let ahead: { spot: string; start: number } | null = null;

export function draft(): Draft | null {
  return current;
}

/** Say which spot the next photo is of, and that the check begins on this screen. */
export function expect(spot: string): void {
  ahead = { spot, start: here() };
}

export async function begin(bitmap: ImageBitmap): Promise<void> {
  const { spot, start } = ahead ?? current ?? { spot: "", start: here() };
  const questions = ahead ? noQuestions() : (current?.questions ?? noQuestions());
  current = { bitmap, frame: wholeFrame(bitmap), questions, answer: null, time: 0, spot, start };
  ahead = null;
  forget();
  await keepPhoto(bitmap);
}

/** Change the check in progress; another frame makes an answer void. */
export function change(what: Partial<Omit<Draft, "bitmap" | "start">>): void {
  if (!current) return;
  Object.assign(current, what, what.frame ? { answer: null } : {});
  keep();
}

export function discard(): void {
  current = ahead = null;
  forget();
}

/** Nothing of an earlier photo may be left where the next one finds no room. */
function forget(): void {
  try {
    sessionStorage.removeItem(META);
    sessionStorage.removeItem(PHOTO);
  } catch {
    // Nothing was kept, then.
  }
}

/** The square that is or was looked at, as the history keeps it. */
export function picture({ bitmap, frame }: Draft): Blob {
  const photo = cut(bitmap, frame);
  return encode(photo, Math.min(KEPT_SIDE, photo.width));
}

function keep(): void {
  if (!current) return;
  const { bitmap: _, frame, ...rest } = current;
  const scaled = { x: frame.x * scale, y: frame.y * scale, side: frame.side * scale, turns: frame.turns };
  try {
    sessionStorage.setItem(META, JSON.stringify({ ...rest, frame: scaled }));
  } catch {
    // Then a reload begins anew.
  }
}

async function keepPhoto(bitmap: ImageBitmap): Promise<void> {
  for (const side of SIDES) {
    scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(bitmap.width * scale);
    canvas.height = Math.round(bitmap.height * scale);
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    try {
      sessionStorage.setItem(PHOTO, canvas.toDataURL("image/jpeg", 0.92)); // encoded anew: without place and time
      return keep();
    } catch {
      continue;
    }
  }
}

/** Take up what this tab had before a reload. */
export async function restore(): Promise<void> {
  try {
    const meta = sessionStorage.getItem(META);
    const photo = sessionStorage.getItem(PHOTO);
    if (!meta || !photo) return;
    const bitmap = await createImageBitmap(blobOf(photo));
    scale = 1;
    current = { ...(JSON.parse(meta) as Omit<Draft, "bitmap">), bitmap };
  } catch {
    discard();
  }
}
