// State of the service: reachable or not, its models, and which model to use.

import * as api from "./api";
import { troubleOf, type Trouble } from "./api";
import type { Card, Model, QualityLimits } from "./api.gen";
import * as offline from "./offline";

let known: Model[] = [];
let state: "reached" | Trouble = "reached";

/** Request the models once; again after a failure. */
export async function refresh(again = false): Promise<void> {
  if (!navigator.onLine) {
    state = "lost"; // the browser's "online" may be wrong, its "offline" is not
    return;
  }
  if (known.length > 0 && state === "reached" && !again) return;
  try {
    known = await api.models();
    state = "reached";
  } catch (error) {
    state = troubleOf(error);
  }
}

export function trouble(): "reached" | Trouble {
  return state;
}

export function reached(): boolean {
  return navigator.onLine && state !== "lost" && state !== "portal";
}

export function models(): Model[] {
  return known;
}

/** The model to use: the first with a trained version, if any. */
export function model(): Model | undefined {
  return known.find(api.trained) ?? known[0];
}

/** The card of the model in use: the server's, or this device's. */
export function card(): Card | null {
  const ready = (model()?.versions ?? []).filter((version) => version.ready && version.card);
  const best = ready.find(({ labels }) => labels?.includes("stable")) ?? ready.at(-1);
  return best?.card ?? offline.prepared()?.card ?? null;
}

export function limits(): QualityLimits | undefined {
  return card()?.calibration?.quality;
}
