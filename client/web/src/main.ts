// The page: its screens and their addresses, and what it listens to.

import { reportScreen, resultScreen } from "./analyse";
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
import { cameraScreen } from "./viewfinder";

/** Whether the person is not typing something that a repaint would take away. */
function idle(): boolean {
  return !document.activeElement?.matches("input, textarea, select, canvas");
}

function listen(): void {
  document.querySelector(".skip")?.addEventListener("click", (event) => {
    event.preventDefault(); // the address says which screen is shown
    document.getElementById("main")?.focus();
  });
  store.onChange(() => idle() && !path().startsWith("/check") && render());
  records.onChange(() => path().startsWith("/history") && idle() && render());
  for (const change of ["online", "offline"]) {
    addEventListener(change, () => void service.refresh(true).then(() => path() === "/" && idle() && render()));
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
