// From photo file to pixels: decoding, the square that is sent, and the server's preprocessing.

/** A file that is no photo, or a photo too small. */
export class WrongPhoto extends Error {
  constructor(readonly small = false) {
    super("not a photo");
  }
}

/** uint8 [side, side, 3], RGB. */
export type Pixels = Uint8Array<ArrayBuffer>;

const MIN_SIDE = 32;
const HEIC_BRANDS = ["heic", "heix", "hevc", "heim", "heis", "mif1", "msf1", "heif"];
const SENT_SIDE = 1024;
const QUALITY = 0.95;
const LOSSLESS_SIDE = 448;

/** Decode a photo file: upright, in sRGB. */
export async function decode(file: Blob): Promise<ImageBitmap> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new WrongPhoto();
  }
  if (Math.min(bitmap.width, bitmap.height) < MIN_SIDE) throw new WrongPhoto(true);
  return bitmap;
}

/** Whether a file is HEIC, Apple's format, which most browsers can't decode. */
export async function isHeic(file: Blob): Promise<boolean> {
  const head = await file.slice(4, 12).text();
  return head.startsWith("ftyp") && HEIC_BRANDS.includes(head.slice(4));
}

/** Which square of a photo: its centre in the photo's pixels, its side, and quarter turns clockwise. */
export interface Frame {
  x: number;
  y: number;
  side: number;
  turns: number;
}

/** The whole photo's largest centred square. */
export function wholeFrame(bitmap: ImageBitmap): Frame {
  return { x: bitmap.width / 2, y: bitmap.height / 2, side: Math.min(bitmap.width, bitmap.height), turns: 0 };
}

/** Draw a photo's framed square onto a square canvas. */
export function drawFrame(bitmap: ImageBitmap, frame: Frame, canvas: HTMLCanvasElement): void {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("no canvas");
  const scale = canvas.width / frame.side;
  context.imageSmoothingQuality = "high";
  context.setTransform(1, 0, 0, 1, canvas.width / 2, canvas.height / 2);
  context.rotate((frame.turns * Math.PI) / 2);
  context.scale(scale, scale);
  context.drawImage(bitmap, -frame.x, -frame.y);
  context.setTransform(1, 0, 0, 1, 0, 0);
}

/** The framed square as a canvas of its own resolution, but at most so many pixels wide. */
export function cut(bitmap: ImageBitmap, frame: Frame, most = SENT_SIDE): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.max(MIN_SIDE, Math.min(most, Math.round(frame.side)));
  drawFrame(bitmap, frame, canvas);
  return canvas;
}

/** Encode what is sent, which drops the metadata (place, time, device). */
export function encode(canvas: HTMLCanvasElement): Blob {
  // PNG for small squares: JPEG artefacts, enlarged, change the probabilities.
  const type = canvas.width <= LOSSLESS_SIDE ? "image/png" : "image/jpeg";
  // Not toBlob: Chromium runs it when idle, up to 7 s later while something is animated.
  return blobOf(canvas.toDataURL(type, QUALITY));
}

/** Decode a data: URL; the page's content security policy forbids to fetch one. */
export function blobOf(url: string): Blob {
  const [, type, data] = /^data:(image\/(?:png|jpeg));base64,(.+)$/.exec(url) ?? [];
  if (!type || !data) throw new Error("not a picture");
  return new Blob([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], { type });
}

/** RGB of a canvas, resized to side × side as the server does: centred, antialiased bilinear, rounded after each pass. */
export function fit(canvas: HTMLCanvasElement, side: number): Pixels {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("no canvas");
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  const square = Math.min(width, height);
  const across = weights(square, side, (width - square) / 2);
  const down = weights(square, side, (height - square) / 2);
  const narrow = new Uint8ClampedArray(height * side * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < side; x++) {
      const { first, shares } = across[x]!;
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < shares.length; k++) sum += shares[k]! * data[(y * width + first + k) * 4 + c]!;
        narrow[(y * side + x) * 3 + c] = sum;
      }
    }
  }
  const pixels = new Uint8ClampedArray(side * side * 3);
  for (let y = 0; y < side; y++) {
    const { first, shares } = down[y]!;
    for (let i = 0; i < side * 3; i++) {
      let sum = 0;
      for (let k = 0; k < shares.length; k++) sum += shares[k]! * narrow[(first + k) * side * 3 + i]!;
      pixels[y * side * 3 + i] = sum;
    }
  }
  return new Uint8Array(pixels.buffer);
}

/** Weight of each source pixel in each target pixel: a triangle as wide as the step. */
function weights(from: number, to: number, offset: number): { first: number; shares: number[] }[] {
  const scale = from / to;
  const reach = Math.max(1, scale);
  return Array.from({ length: to }, (_, target) => {
    const centre = offset + (target + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const last = Math.min(Math.ceil(offset * 2 + from), Math.trunc(centre + reach + 0.5));
    const shares = Array.from({ length: last - first }, (_, k) =>
      Math.max(0, 1 - Math.abs((first + k - centre + 0.5) / reach)),
    );
    const sum = shares.reduce((a, b) => a + b, 0);
    return { first, shares: shares.map((share) => share / sum) };
  });
}

const STEP = 10;

/** The server's standard views, by their names on the card; turns are counter-clockwise, the flip comes first. */
export function view(pixels: Pixels, side: number, name: string): Pixels {
  if (name === "darker" || name === "brighter") {
    const scaled = name === "darker" ? STEP - 1 : STEP + 1;
    return pixels.map((value) => Math.min(255, Math.floor((value * scaled + STEP / 2) / STEP)));
  }
  const turns = Number(/rot(\d+)/.exec(name)?.[1] ?? 0) / 90;
  let here = name.startsWith("flip") ? remap(pixels, side, (y, x) => [y, side - 1 - x]) : pixels;
  for (let turn = 0; turn < turns; turn++) here = remap(here, side, (y, x) => [x, side - 1 - y]);
  return here;
}

function remap(pixels: Pixels, side: number, source: (y: number, x: number) => [number, number]): Pixels {
  const found = new Uint8Array(pixels.length);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const [fromY, fromX] = source(y, x);
      for (let c = 0; c < 3; c++) found[(y * side + x) * 3 + c] = pixels[(fromY * side + fromX) * 3 + c]!;
    }
  }
  return found;
}
