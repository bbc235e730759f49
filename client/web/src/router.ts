// Screens by address (#/history, …). Every screen can be opened, reloaded and left with the browser's Back.

/** Shows a screen; `still` says whether the address is still its own, which may change while it waits. */
export type Screen = (parameter: string, still: () => boolean) => void | Promise<void>;

/** State of a history entry: how many screens are before it, the last of them, and its scroll position. */
type State = { depth?: number; from?: string; top?: number } | null;

let routes: [RegExp, Screen][] = [];
let turn = 0;
let after: string | null = null;
let leaving: (() => void)[] = [];
let top = 0;
/** The turn in which the person last tapped. */
let tapped = 0;
/** Whether the browser is going back: a second tap must not lead further. */
let returning = false;

export function path(): string {
  return location.hash.slice(1) || "/";
}

function depth(): number {
  return (history.state as State)?.depth ?? 0;
}

/** Show the screen of the address again, unless the address changes while it reads. */
export function render(may: () => boolean = () => true, place = 0): void {
  if (routes.length === 0) return; // the page still opens: `start` renders
  top = place;
  leaving.forEach((act) => act());
  leaving = [];
  const mine = ++turn;
  for (const [pattern, screen] of routes) {
    const found = pattern.exec(path());
    if (!found) continue;
    void screen(decodeURIComponent(found[1] ?? ""), () => mine === turn && may());
    return;
  }
  go("/", { replace: true });
}

/** Run something when the current screen is left. */
export function onLeave(act: () => void): void {
  leaving.push(act);
}

/** Scroll position of the shown screen: where it was left, if Back led to it. */
export function place(): number {
  return top;
}

/** Open a screen; the one that is shown is not opened twice, as by a double tap. */
export function go(to: string, { replace = to === path() } = {}): void {
  returning = false;
  if (!replace) history.replaceState({ ...(history.state as State), top: scrollY }, "");
  const state = { depth: depth() + (replace ? 0 : 1), from: replace ? (history.state as State)?.from : path() };
  if (replace) history.replaceState(state, "", `#${to}`);
  else history.pushState(state, "", `#${to}`);
  render();
}

function goBack(steps = 1): void {
  if (!returning) history.go(-steps);
  returning = true;
}

/** Go back; or to the parent screen if the page was opened here. */
export function back(above: string): void {
  if (depth() > 0) goBack();
  else go(above, { replace: true });
}

/** Replace a screen whose content was removed by its parent. */
export function leaveFor(above: string): void {
  if (path() === above) render();
  else if ((history.state as State)?.from === above) goBack();
  else go(above, { replace: true });
}

/** Return the start of a sequence of screens, for `finish`. */
export function here(): number {
  return depth();
}

/** Leave a sequence of screens, so that Back doesn't lead into it again. */
export function finish(start: number, to: string): void {
  const steps = depth() - start;
  if (steps <= 0) return go(to, { replace: true });
  after = to;
  goBack(steps);
}

export function start(all: [RegExp, Screen][]): void {
  routes = all;
  addEventListener("popstate", () => {
    const to = after;
    after = null;
    returning = false;
    if (to !== null && to !== path()) go(to);
    else render(undefined, (history.state as State)?.top);
  });
  history.scrollRestoration = "manual"; // the browser would scroll before the screen is read
  const ignoreLate = (event: MouseEvent): void => {
    if (event.detail < 2) tapped = turn;
    else if (tapped !== turn) {
      event.preventDefault(); // the second tap of a double tap, after the first has changed the screen
      event.stopImmediatePropagation();
    }
  };
  document.addEventListener("click", ignoreLate, true);
  document.addEventListener("click", (event) => {
    const link = (event.target as Element).closest?.("a[href^='#/']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(link.getAttribute("href")!.slice(1));
  });
  if (history.state === null) history.replaceState({ depth: 0 }, "");
  render();
}
