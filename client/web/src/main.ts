// The page: its screens and their addresses, and what it listens to.

import { reportScreen, resultScreen } from "./analyse";
import { cameraScreen } from "./camera";
import { checkScreen, listenForPhotos, sharedScreen } from "./check";
import { restore } from "./draft";
import { frameScreen } from "./frame";
import * as records from "./history";
import { kindScreen, learnScreen } from "./learn";
import { path, render, start } from "./router";
import { toast } from "./screen";
import * as service from "./service";
import { settingsScreen } from "./settings";
import { historyScreen, photoScreen, savedReportScreen, spotScreen } from "./spots";
import * as store from "./store";
import { t } from "./strings";

/** Whether the person is not typing something that a repaint would take away. */
function idle(): boolean {
  return !document.activeElement?.matches("input, textarea, select, canvas");
}

/** Whether what is shown has changed elsewhere, in another tab, while the person was typing. */
let stale = false;

/** Show the screen anew, but not while the person types, who may have begun while it was read. */
function repaint(): void {
  stale = !idle();
  if (!stale) render(() => !(stale = !idle()), scrollY);
}

function listen(): void {
  document.querySelector(".skip")?.addEventListener("click", (event) => {
    event.preventDefault(); // the address says which screen is shown
    document.getElementById("main")?.focus();
  });
  store.onChange(() => !path().startsWith("/check") && repaint());
  records.onChange(() => path().startsWith("/history") && repaint());
  // After the click that may have ended the typing, whose target a repaint would take away.
  addEventListener("focusout", () => setTimeout(() => stale && !path().startsWith("/check") && repaint(), 300));
  for (const change of ["online", "offline"]) {
    addEventListener(change, () => void service.refresh(true).then(() => path() === "/" && repaint()));
  }
  listenForPhotos();
}

/** Let the page open without a network, and tell when a newer one has come. */
function work(): void {
  if (!("serviceWorker" in navigator)) return;
  const before = navigator.serviceWorker.controller;
  navigator.serviceWorker.register("/app/sw.js").catch(() => {});
  navigator.serviceWorker.addEventListener("controllerchange", () => {
    if (before) toast(t("pageUpdated"), { words: t("reload"), act: () => location.reload() });
  });
}

store.apply();
listen();
work();
await restore();
start([
  [/^\/$/, checkScreen],
  [/^\/check\/camera$/, () => cameraScreen()],
  [/^\/check\/shared$/, sharedScreen],
  [/^\/check\/frame$/, frameScreen],
  [/^\/check\/result$/, resultScreen],
  [/^\/check\/report$/, reportScreen],
  [/^\/history$/, historyScreen],
  [/^\/history\/spot\/(\w+)$/, spotScreen],
  [/^\/history\/photo\/(\w+)$/, photoScreen],
  [/^\/history\/report\/(\w+)$/, savedReportScreen],
  [/^\/learn$/, learnScreen],
  [/^\/learn\/(\w+)$/, kindScreen],
  [/^\/settings$/, settingsScreen],
]);
