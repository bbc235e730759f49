// Get an answer from the server or this device; the screens of waiting, failure and result.

import { type Answer, needsAnotherPhoto } from "./answer";
import * as api from "./api";
import { NoAnswer, troubleOf } from "./api";
import { shot } from "./check";
import { h } from "./dom";
import { change, discard, draft, type Draft, picture } from "./draft";
import * as records from "./history";
import * as offline from "./offline";
import { cut, encode } from "./pixels";
import { makeReport, reportButtons } from "./report";
import { headline, makeResult } from "./result";
import { back, finish, go, onLeave } from "./router";
import { alert_, button, choice, say, show, toast } from "./screen";
import * as service from "./service";
import { keyForm } from "./settings";
import { t } from "./strings";

export async function resultScreen(_: string, still: () => boolean): Promise<void> {
  const current = draft();
  if (!current) return go("/", { replace: true });
  const square = picture(current);
  if (current.answer) return showResult(current, current.answer, square, still);
  await analyse(current, square, still, false);
}

async function analyse(current: Draft, square: Blob, still: () => boolean, device: boolean): Promise<void> {
  if (!still()) return;
  const here = device || (!service.reached() && offline.prepared() !== null);
  show(
    t("result"),
    [
      h(
        "div",
        { className: "result" },
        shot(square),
        h("div", { className: "busy", role: "status" }, h("span", { className: "spinner", "aria-hidden": "true" }), h("p", {}, t(here ? "analysingDevice" : "analysing"))),
      ),
      button(t("cancel"), null, () => back("/check/frame"), "quiet block"),
    ],
    { above: "/check/frame" },
  );
  const cancel = new AbortController();
  onLeave(() => cancel.abort());
  try {
    const answer = await ask(current, here, cancel.signal);
    if (!still()) return;
    change({ answer, time: Date.now() });
    await showResult(current, answer, square, still);
  } catch (error) {
    if (still()) showTrouble(error, current, square, still);
  }
}

async function ask({ bitmap, frame }: Draft, here: boolean, cancel: AbortSignal): Promise<Answer> {
  const photo = cut(bitmap, frame);
  if (here) return offline.answer(photo);
  if (service.models().length === 0) await service.refresh(true);
  const name = service.model()?.name;
  if (!name) throw new NoAnswer(service.trouble() === "reached" ? "failed" : (service.trouble() as api.Trouble));
  return api.classify(encode(photo), name, cancel);
}

function showTrouble(error: unknown, current: Draft, square: Blob, still: () => boolean): void {
  const trouble = troubleOf(error);
  console.warn(error); // the server's message is for operators
  const again = (device = false) => void analyse(current, square, still, device);
  const here = offline.prepared() !== null && trouble !== "key" && trouble !== "photo";
  show(
    t("result"),
    [
      h("div", { className: "result" }, shot(square), h("div", { className: "stack" }, alert_(words(error)), trouble === "key" && keyForm(() => again()))),
      h(
        "div",
        { className: "row sticky" },
        button(t("retry"), "rotate", () => again(), "primary"),
        here && button(t("onDevice"), "phone", () => again(true)),
        button(t("frameAgain"), null, () => back("/check/frame"), "quiet"),
      ),
    ],
    { above: "/check/frame" },
  );
}

function words(error: unknown): string {
  const seconds = error instanceof NoAnswer ? error.seconds : 0;
  switch (troubleOf(error)) {
    case "lost":
      return t(navigator.onLine ? "lost" : "offlineNot");
    case "photo":
      return t("wrongPhoto");
    case "key":
      return t(api.hasKey() ? "keyWrong" : "keyWords");
    case "busy":
      return seconds > 0 ? t("busySeconds", { n: seconds }) : t("busy");
    default:
      return t(troubleOf(error) as "slow" | "portal" | "failed");
  }
}

async function showResult(current: Draft, answer: Answer, square: Blob, still: () => boolean): Promise<void> {
  const spots = await records.spots().catch(() => []); // no spots if the browser has no storage
  if (!still()) return;
  const another = needsAnotherPhoto(answer);
  const close = () => {
    discard();
    finish(current.start, "/");
  };
  const save = button(t("save"), "check", () => void keep(current, answer, square, save, still), another ? "quiet" : "primary");
  const closing = button(t("close"), "cross", close, "quiet");
  const buttons = another
    ? [button(t("another"), "camera", () => go("/check/camera"), "primary"), answer.verdict === "VERDICT_REJECTED" ? closing : save]
    : [save, closing];
  const options: [string, string][] = [["", t("newSpot")], ...spots.map(({ id, name }): [string, string] => [id, name])];
  const under = spots.length > 0 && buttons.includes(save) && choice(t("whichSpot"), "spot", options, current.spot, (spot) => change({ spot }));
  const more = [button(t("frameAgain"), "rotate", () => back("/check/frame"), "quiet"), button(t("forDoctor"), "print", () => go("/check/report"), "quiet")];
  show(
    t("result"),
    [
      makeResult(answer, square, current.questions, (questions) => change({ questions })),
      h("div", { className: "row plain" }, ...more),
      under && h("div", { className: "card" }, under),
      h("div", { className: "row sticky" }, ...buttons),
    ],
    { above: "/check/frame" },
  );
  say(headline(answer, current.questions));
}

async function keep(current: Draft, answer: Answer, square: Blob, save: HTMLButtonElement, still: () => boolean): Promise<void> {
  save.disabled = true;
  try {
    const entry = await records.save({ picture: square, answer, time: current.time, questions: current.questions, spot: current.spot });
    if (draft() === current) discard();
    if (still()) finish(current.start, `/history/spot/${entry.spot}`);
    toast(t("saved"));
  } catch (error) {
    console.warn(error);
    if (!still()) return toast(t("storageBlocked"));
    save.disabled = false;
    document.querySelector("#main > [role=alert]")?.remove();
    document.getElementById("main")?.prepend(alert_(t("storageBlocked")));
    scrollTo(0, 0);
  }
}

/** The report of the check in progress, for a doctor. */
export function reportScreen(): void {
  const current = draft();
  if (!current?.answer) return go("/", { replace: true });
  const entry = { picture: picture(current), answer: current.answer, time: current.time, questions: current.questions };
  show(t("reportTitle"), [makeReport(entry), reportButtons(entry)], { above: "/check/result" });
}
