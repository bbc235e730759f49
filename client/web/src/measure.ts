// The server's measures of photo quality (serving/dermserve/imaging/measure.py), by the same formulas.

import type { Pixels } from "./pixels";

/** Measures of one photo at the model's input size; the server's `Measures` documents each. */
export interface Measures {
  midtones: number;
  highlights: number;
  glare: number;
  color: number;
  redness: number;
  yellowness: number;
  detail: number;
  contrast: number;
}

const GLARE = 248;
const OTHERS = 0.75;
const BLOCK = 8;
/** Rows, columns, and how much larger second differences are in this direction. */
const DIRECTIONS = [[0, 1, 1], [1, 0, 1], [1, 1, 1.6], [1, -1, 1.6]] as const;

/** One value per pixel. */
interface Plane {
  values: Float32Array;
  side: number;
}

/** Measure uint8 [side, side, 3] pixels, side of at least 4. */
export function measure(pixels: Pixels, side: number): Measures {
  const half = side >> 1;
  const [red, green, blue] = [0, 1, 2].map((channel) => halve((i) => pixels[i * 3 + channel]!, side).values) as [Float32Array, Float32Array, Float32Array];
  const luma = red.map((value, i) => 0.299 * value + 0.587 * green[i]! + 0.114 * blue[i]!);
  const plane = { values: luma, side: half };
  const ordered = luma.slice().sort();
  const highlights = ordered[Math.floor((luma.length * 95) / 100)]!;
  const blown = red.filter((value, i) => Math.max(value, green[i]!, blue[i]!) >= GLARE).length;
  const differences = [red.map((value, i) => value - green[i]!), red.map((value, i) => (value + green[i]!) / 2 - blue[i]!)];
  const [brightness, redness, yellowness] = [luma, ...differences].map((values) => values.reduce((a, b) => a + b, 0) / values.length) as [number, number, number];
  return {
    midtones: ordered[luma.length >> 1]!,
    highlights,
    glare: blown / luma.length,
    color: color(luma, differences),
    redness: redness / Math.max(brightness, 1),
    yellowness: yellowness / Math.max(brightness, 1),
    detail: detail(plane),
    contrast: contrast(plane) / Math.max(highlights, 1),
  };
}

/** Spread of colour that a linear function of luma doesn't explain. */
function color(luma: Float32Array, differences: Float32Array[]): number {
  const light = centred(luma);
  const power = dot(light, light);
  const left = differences.map((difference) => {
    const here = centred(difference);
    const explained = power ? dot(here, light) ** 2 / power : 0;
    return Math.max(0, dot(here, here) - explained) / here.length;
  });
  return Math.sqrt(left.reduce((a, b) => a + b, 0));
}

function centred(values: Float32Array): Float64Array {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return Float64Array.from(values, (value) => value - mean);
}

function dot(one: Float64Array, other: Float64Array): number {
  return one.reduce((sum, value, i) => sum + value * other[i]!, 0);
}

function detail(plane: Plane): number {
  const areas = halve((i) => plane.values[i]!, plane.side);
  const [fine, coarse] = [1, 2].map((lag) => DIRECTIONS.map(([y, x, longer]) => bend(areas, lag, y, x) / longer)) as [number[], number[]];
  const least = Math.max(1, (OTHERS * coarse.reduce((a, b) => a + b, 0)) / coarse.length);
  return Math.min(...fine.map((one, i) => one / Math.max(coarse[i]!, least)));
}

/** Average values of a square two by two. */
function halve(value: (i: number) => number, side: number): Plane {
  const half = side >> 1;
  const at = (y: number, x: number) => value(y * side + x);
  const means = Float32Array.from({ length: half * half }, (_, i) => {
    const [y, x] = [2 * Math.floor(i / half), 2 * (i % half)];
    return (at(y, x) + at(y, x + 1) + at(y + 1, x) + at(y + 1, x + 1)) / 4;
  });
  return { values: means, side: half };
}

/** Mean absolute second difference of pixels at this distance. */
function bend({ values, side }: Plane, lag: number, down: number, across: number): number {
  const step = (down * side + across) * lag;
  let sum = 0;
  for (let y = lag; y < side - lag; y++) {
    for (let x = lag; x < side - lag; x++) {
      const i = y * side + x;
      sum += Math.abs(values[i + step]! + values[i - step]! - 2 * values[i]!);
    }
  }
  return sum / Math.max(side - 2 * lag, 1) ** 2;
}

/** Standard deviation of the mean luma of areas. */
function contrast({ values, side }: Plane): number {
  const block = Math.min(BLOCK, side);
  const across = Math.floor(side / block);
  const means = new Float32Array(across * across);
  for (let y = 0; y < across * block; y++) {
    for (let x = 0; x < across * block; x++) {
      means[Math.floor(y / block) * across + Math.floor(x / block)]! += values[y * side + x]! / (block * block);
    }
  }
  const spread = centred(means);
  return Math.sqrt(dot(spread, spread) / spread.length);
}
