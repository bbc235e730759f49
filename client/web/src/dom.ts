// Helpers that make HTML and SVG elements.

type Child = Node | string | null | undefined | false;
type Props = Record<string, unknown>;

/** Make an element: properties, `on…` listeners, attributes (with a dash, or role), and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value as EventListener);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, String(value));
    else (element as unknown as Props)[name] = value;
  }
  element.append(...children.filter((child) => typeof child === "string" || child instanceof Node));
  return element;
}

const PATHS: Record<string, string> = {
  camera: "M4 8h3l2-3h6l2 3h3v11H4z M12 10a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7z",
  photo: "M4 5h16v14H4z M4 16l5-5 4 4 3-3 4 4 M15.5 9.5h.01",
  history: "M12 7v5l3 2 M4.5 12a7.5 7.5 0 1 0 2.3-5.4 M4 4v4h4",
  back: "M15 5l-7 7 7 7",
  trash: "M5 7h14 M10 7V4h4v3 M7 7l1 13h8l1-13",
  download: "M12 4v11 M7 11l5 5 5-5 M5 20h14",
  rotate: "M19 8a8 8 0 1 0 1 6 M20 4v5h-5",
  check: "M5 13l4 4L19 7",
  low: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z M8 12.3l2.8 2.8L16 9.7",
  intermediate: "M12 2.5l9.5 9.5-9.5 9.5L2.5 12z M10 9.8a2 2 0 1 1 3 1.8c-.7.4-1 .9-1 1.7 M12 16h.01",
  high: "M8.3 3h7.4L21 8.3v7.4L15.7 21H8.3L3 15.7V8.3z M12 7.5v5.5 M12 16.5h.01",
  cross: "M6 6l12 12 M18 6L6 18",
  shield: "M12 3l7 3v5c0 5-3 8.5-7 10-4-1.5-7-5-7-10V6z",
  cloud: "M7 18a4 4 0 0 1 0-8 5.5 5.5 0 0 1 10.5 1.5A3.3 3.3 0 0 1 17 18z",
  book: "M5 4h6a2 2 0 0 1 2 2v14a2 2 0 0 0-2-2H5z M21 4h-6a2 2 0 0 0-2 2 M21 4v14h-6a2 2 0 0 0-2 2",
  sliders: "M4 7h9 M17 7h3 M4 17h3 M11 17h9 M15 5v4 M9 15v4",
  torch: "M9 3h6l-1 6h-4z M10 9v11h4V9 M12 13h.01",
  upload: "M12 19V8 M7 12l5-5 5 5 M5 4h14",
  print: "M7 9V4h10v5 M5 9h14v8h-3v3H8v-3H5z M8 14h8",
  share: "M12 15V4 M8 8l4-4 4 4 M6 12v8h12v-8",
  bell: "M6 17V11a6 6 0 0 1 12 0v6l1.5 1.5h-15z M10 21h4",
  phone: "M8 3h8v18H8z M11 18h2",
};

/** Make an SVG element. */
export function svg(tag: string, attributes: Record<string, string | number>, ...children: Node[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** A line icon, hidden from screen readers. */
export function icon(name: string): SVGElement {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, svg("path", { d: PATHS[name] ?? "" }));
}
