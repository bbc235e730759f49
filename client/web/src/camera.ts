// The camera: a live picture, and a photo of it.

import type { Key } from "./strings";

/** Why there is no camera, as words of the page. */
export class NoCamera extends Error {
  constructor(readonly key: Key) {
    super(key);
  }
}

const REASONS: Record<string, Key> = {
  NotAllowedError: "cameraDenied",
  SecurityError: "cameraDenied",
  NotFoundError: "cameraNone",
  OverconstrainedError: "cameraNone",
};

/** Open the camera on the back of the phone, or the other one. */
export async function openCamera(video: HTMLVideoElement, facing: "environment" | "user"): Promise<MediaStream> {
  if (!isSecureContext) throw new NoCamera("cameraInsecure");
  if (!navigator.mediaDevices?.getUserMedia) throw new NoCamera("cameraNone");
  let stream: MediaStream;
  try {
    const size = { width: { ideal: 1920 }, height: { ideal: 1080 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: { ideal: facing }, ...size }, audio: false });
  } catch (error) {
    throw new NoCamera(REASONS[(error as DOMException).name] ?? "cameraBusy");
  }
  video.srcObject = stream;
  await video.play();
  return stream;
}

export function closeCamera(stream: MediaStream | undefined): void {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/** What the camera sees now. */
export function snap(video: HTMLVideoElement): Promise<ImageBitmap> {
  return createImageBitmap(video);
}

/** The camera's light: null when it has none. */
export function torchOf(stream: MediaStream): ((on: boolean) => Promise<void>) | null {
  const track = stream.getVideoTracks()[0];
  const able = track?.getCapabilities?.() as { torch?: boolean } | undefined;
  if (!track || !able?.torch) return null;
  return (on) => track.applyConstraints({ advanced: [{ torch: on } as MediaTrackConstraintSet] });
}
