// Settings, in localStorage; if the browser forbids that, until the page is closed.

import { chooseLanguage } from "./strings";

const PREFIX = "dermserve.";
const memory = new Map<string, string>();

export type Setting = "language" | "theme" | "size" | "key" | "device";

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
    // Forbidden or full: kept until the page is closed.
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

/** Apply the settings to the page. */
export function apply(): void {
  const { dataset } = document.documentElement;
  chooseLanguage(get("language"));
  dataset.theme = get("theme") ?? "auto";
  dataset.size = get("size") ?? "normal";
}

/** Call back when another tab changes a setting. */
export function onChange(then: () => void): void {
  addEventListener("storage", ({ key }) => {
    if (key !== null && !key.startsWith(PREFIX)) return;
    memory.clear();
    apply();
    then();
  });
}

/** A unique id; crypto.randomUUID needs https. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
