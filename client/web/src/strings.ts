// Texts in the chosen language. A key that one language lacks doesn't compile.

import { en, type Key } from "./words/en";
import { id } from "./words/id";

export type { Key };
export const LANGUAGES = { en: "English", id: "Bahasa Indonesia" } as const;
export type Language = keyof typeof LANGUAGES;

const TABLES: Record<Language, Record<Key, string>> = { en, id };
let current: Language = "en";

export function language(): Language {
  return current;
}

/** Choose the saved language, or the first of the browser's languages that the page has. */
export function chooseLanguage(saved: string | null): void {
  const wanted = [saved ?? "", ...navigator.languages.map((one) => one.slice(0, 2))];
  current = (wanted.find((one) => Object.hasOwn(TABLES, one)) ?? "en") as Language;
  document.documentElement.lang = current;
}

/** A text with its {placeholders} filled in. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return TABLES[current][key].replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
}

export function isKey(key: string): key is Key {
  return Object.hasOwn(en, key);
}

export function number(value: number, digits = 1): string {
  return value.toLocaleString(current, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A share in percent; not as 0.0 or 100.0, which would say that something is certain. */
export function percent(share: number): string {
  const p = share < 0.0005 ? `<${number(0.1)}` : share >= 0.9995 ? `>${number(99.9)}` : number(share * 100);
  return t("probability", { p });
}

/** Format a moment or a day (YYYY-MM-DD). A day is local: parsed as UTC, it would be the day before in the west. */
export function date(time: number | string, withTime = false): string {
  const local = navigator.language.startsWith(current) ? navigator.language : current;
  return new Date(typeof time === "string" ? `${time}T00:00` : time).toLocaleString(local, { dateStyle: "medium", ...(withTime ? { timeStyle: "short" } : {}) });
}
