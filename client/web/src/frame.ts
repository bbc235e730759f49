// Framing the spot, and what the person says about it.

import { makeCropper } from "./crop";
import { h } from "./dom";
import { change, draft } from "./draft";
import { makeQuestions } from "./questions";
import { go } from "./router";
import { button, show } from "./screen";
import { t } from "./strings";

export function frameScreen(): void {
  const current = draft();
  if (!current) return go("/", { replace: true });
  const cropper = makeCropper(current.bitmap, current.frame, (frame) => change({ frame }));
  show(
    t("cropTitle"),
    [
      h("div", { className: "framing" }, cropper, makeQuestions(current.questions, (questions) => change({ questions }))),
      h(
        "div",
        { className: "row sticky" },
        button(t("analyse"), "check", () => go("/check/result"), "primary"),
        button(t("anotherPhoto"), "camera", () => go("/check/camera"), "quiet"),
      ),
    ],
    { above: "/" },
  );
}
