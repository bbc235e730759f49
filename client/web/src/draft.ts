// The check in progress: photo, frame, questions and answer. In sessionStorage, so that it survives Back and a reload,
// until the tab is closed.

import type { Answer } from "./answer";
import { blobOf, cut, type Frame, wholeFrame } from "./pixels";
import { noQuestions, type Questions } from "./questions";
import { here } from "./router";

export interface Draft {
  bitmap: ImageBitmap;
  frame: Frame;
  questions: Questions;
  answer: Answer | null;
  /** Time of the answer. */
  time: number;
  /** Id of the spot in the history; empty for a new one. */
  spot: string;
  /** Number of screens before the check in the browser's history. */
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

/** Set the spot of the next photo, and this screen as the start of the check. */
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

/** Change the check in progress; a new frame drops the answer. */
export function change(what: Partial<Omit<Draft, "bitmap" | "start">>): void {
  if (!current) return;
  Object.assign(current, what, what.frame ? { answer: null } : {});
  keep();
}

export function discard(): void {
  current = ahead = null;
  forget();
}

/** Remove an earlier check, so that none is left if the next does not fit. */
function forget(): void {
  try {
    sessionStorage.removeItem(META);
    sessionStorage.removeItem(PHOTO);
  } catch {
    // Without storage nothing was kept.
  }
}

/** The framed square, as the history stores it: small, so that many fit into the browser's storage and one file. */
export function picture({ bitmap, frame }: Draft): Blob {
  return blobOf(cut(bitmap, frame, KEPT_SIDE).toDataURL("image/jpeg", 0.92));
}

function keep(): void {
  if (!current) return;
  const { bitmap: _, frame, ...rest } = current;
  const scaled = { x: frame.x * scale, y: frame.y * scale, side: frame.side * scale, turns: frame.turns };
  try {
    sessionStorage.setItem(META, JSON.stringify({ ...rest, frame: scaled }));
  } catch {
    // Not stored: a reload starts again.
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
      sessionStorage.setItem(PHOTO, canvas.toDataURL("image/jpeg", 0.92)); // encoded again: without metadata
      return keep();
    } catch {
      continue;
    }
  }
}

/** Restore the check after a reload. */
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
