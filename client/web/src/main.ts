// Entry point: screens by address, and listeners of the page.

import { reportScreen, resultScreen } from "./analyse";
import { cameraScreen } from "./camera";
import { checkScreen, listenForPhotos, sharedScreen } from "./check";
import { restore } from "./draft";
import { frameScreen } from "./frame";
import * as records from "./history";
import { kindScreen, learnScreen } from "./learn";
import * as offline from "./offline";
import { path, render, start } from "./router";
import { toast } from "./screen";
import * as service from "./service";
import { settingsScreen } from "./settings";
import { historyScreen, photoScreen, savedReportScreen, spotScreen } from "./spots";
import * as store from "./store";
import { t } from "./strings";

/** Whether a repaint would lose nothing that the person is typing. */
function idle(): boolean {
  return !document.activeElement?.matches("input, textarea, select, canvas");
}

/** Whether another tab changed what is shown while the person was typing. */
let stale = false;

/** Show the screen again, but not while the person types; checked again after reading. */
function repaint(): void {
  stale = !idle();
  if (!stale) render(() => !(stale = !idle()), scrollY);
}

function listen(): void {
  document.querySelector(".skip")?.addEventListener("click", (event) => {
    event.preventDefault(); // the part after # names the screen, not an element
    document.getElementById("main")?.focus();
  });
  store.onChange(() => !path().startsWith("/check") && repaint());
  records.onChange(() => path().startsWith("/history") && repaint());
  // Later, because a click may have ended the typing, and a repaint would remove its target.
  addEventListener("focusout", () => setTimeout(() => stale && !path().startsWith("/check") && repaint(), 300));
  for (const change of ["online", "offline"]) {
    addEventListener(change, () => void service.refresh(true).then(() => path() === "/" && repaint()));
  }
  listenForPhotos();
}

/** Register the service worker, and say when a newer page has come. */
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
await offline.check();
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
