// What is kept of settings: in localStorage, or for as long as the page is open where the browser forbids that.

import { chooseLanguage } from "./strings";

const PREFIX = "dermserve.";
const memory = new Map<string, string>();

export type Setting = "language" | "theme" | "size" | "model" | "views" | "key" | "device";

export function get(name: Setting): string | null {
  try {
    return localStorage.getItem(PREFIX + name) ?? memory.get(name) ?? null;
  } catch {
    return memory.get(name) ?? null;
  }
}

export function set(name: Setting, value: string): void {
  memory.set(name, value);
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // Forbidden or full: it holds until the page is closed.
  }
}

export function remove(name: Setting): void {
  memory.delete(name);
  try {
    localStorage.removeItem(PREFIX + name);
  } catch {
    // As above.
  }
}

/** Make the page look as the settings say. */
export function apply(): void {
  const { dataset } = document.documentElement;
  chooseLanguage(get("language"));
  dataset.theme = get("theme") ?? "auto";
  dataset.size = get("size") ?? "normal";
}

/** Tell of settings that another tab changed. */
export function onChange(then: () => void): void {
  addEventListener("storage", ({ key }) => {
    if (key !== null && !key.startsWith(PREFIX)) return;
    memory.clear();
    apply();
    then();
  });
}

/** A name that no other has; crypto.randomUUID is missing without https. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
