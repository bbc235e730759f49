// The server's measures of photo quality (serving/dermserve/imaging/measure.py), by the same formulas.

import type { Pixels } from "./pixels";

/** Measures of one photo at the model's input size; the server's `Measures` documents each. */
export interface Measures {
  brightness: number;
  glare: number;
  color: number;
  redness: number;
  yellowness: number;
  detail: number;
  contrast: number;
}

const AREA = 4;
const GLARE = 248;
const OTHERS = 0.75;
/** Rows, columns, and how much larger second differences are in this direction. */
const DIRECTIONS = [[0, 1, 1], [1, 0, 1], [1, 1, 1.6], [1, -1, 1.6]] as const;

/** Measure uint8 [side, side, 3] pixels, side of at least 4. */
export function measure(pixels: Pixels, side: number): Measures {
  const [red, green, blue] = [0, 1, 2].map((channel) => average(pixels, side, channel)) as [Float64Array, Float64Array, Float64Array];
  const planes = [
    red.map((value, i) => 0.299 * value + 0.587 * green[i]! + 0.114 * blue[i]!),
    red.map((value, i) => value - green[i]!),
    red.map((value, i) => (value + green[i]!) / 2 - blue[i]!),
  ];
  const means = planes.map(mean) as [number, number, number];
  const [luma, ...colors] = planes.map((plane, p) => plane.map((value) => value - means[p]!)) as [Float64Array, Float64Array, Float64Array];
  const [brightness, redness, yellowness] = means;
  const light = Math.max(brightness, 1);
  return {
    brightness,
    glare: mean([red, green, blue].map((channel) => mean(channel.map((value) => Number(value >= GLARE))))),
    color: Math.sqrt(colors.reduce((sum, plane) => sum + unexplained(plane, luma), 0)),
    redness,
    yellowness: yellowness / light,
    detail: detail(luma, Math.floor(side / AREA)),
    contrast: Math.sqrt(product(luma, luma)) / light,
  };
}

/** The means of a channel over areas. */
function average(pixels: Pixels, side: number, channel: number): Float64Array {
  const across = Math.floor(side / AREA);
  const means = new Float64Array(across * across);
  for (let y = 0; y < across * AREA; y++) {
    for (let x = 0; x < across * AREA; x++) {
      means[Math.floor(y / AREA) * across + Math.floor(x / AREA)]! += pixels[(y * side + x) * 3 + channel]! / AREA ** 2;
    }
  }
  return means;
}

function mean(values: ArrayLike<number>): number {
  return Array.from(values).reduce((a, b) => a + b, 0) / values.length;
}

/** Mean product of two planes. */
function product(one: Float64Array, other: Float64Array): number {
  return mean(one.map((value, i) => value * other[i]!));
}

/** Variance of a centred plane that a linear function of luma does not explain. */
function unexplained(plane: Float64Array, luma: Float64Array): number {
  const power = product(luma, luma);
  return Math.max(0, product(plane, plane) - (power ? product(plane, luma) ** 2 / power : 0));
}

function detail(luma: Float64Array, across: number): number {
  if (across < 5) return 0;
  const [fine, coarse] = [1, 2].map((lag) => DIRECTIONS.map(([y, x, longer]) => bend(luma, across, lag * (y * across + x)) / longer)) as [number[], number[]];
  const least = Math.max(1, OTHERS * mean(coarse));
  return Math.min(...fine.map((one, i) => one / Math.max(coarse[i]!, least)));
}

/** Mean absolute second difference of areas so far apart, of those with two others on all sides. */
function bend(luma: Float64Array, across: number, step: number): number {
  let sum = 0;
  for (let y = 2; y < across - 2; y++) {
    for (let x = 2; x < across - 2; x++) {
      const i = y * across + x;
      sum += Math.abs(luma[i + step]! + luma[i - step]! - 2 * luma[i]!);
    }
  }
  return sum / (across - 4) ** 2;
}
