// Builds the page into what Envoy serves: types from the OpenAPI document, one script, one on-device script, the shell.
// What it needs is in node_modules. `--runtime` copies LiteRT.js, too, which is 19 MB, and fetches the API page's viewer;
// `--runtime-only` does nothing else, so that a test can compare the page that is committed.
import { build } from "esbuild";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const edge = join(here, "../../serving/dermserve/edge");
const flags = process.argv.slice(2);
const RAPIDOC = { name: "rapidoc@9.3.8", sha256: "b04086a71c2002169c43e5b0f25d7f694b20eee7a95ddc233b491cf9a54b3ef0" };
const out = flags.find((flag) => !flag.startsWith("--")) ?? join(edge, "site/app");

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `${typeOf(schema.items)}[]`;
  if (schema.type === "object" && schema.additionalProperties) {
    return `Record<string, ${typeOf(schema.additionalProperties)}>`;
  }
  return { integer: "number", number: "number", boolean: "boolean", string: "string" }[schema.type] ?? "unknown";
}

function declaration([name, schema]) {
  if (schema.enum) return `export type ${name} = ${typeOf(schema)};\n`;
  const fields = Object.entries(schema.properties ?? {}).map(
    ([field, inner]) => `  ${JSON.stringify(field)}?: ${typeOf(inner)};\n`,
  );
  return `export interface ${name} {\n${fields.join("")}}\n`;
}

async function buildPage() {
  const document = JSON.parse(readFileSync(join(edge, "site/openapi.json"), "utf8"));
  const types = Object.entries(document.components.schemas).map(declaration).join("");
  writeFileSync(join(here, "src/api.gen.ts"), `// Generated from openapi.json by build.mjs.\n${types}`);

  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  cpSync(join(here, "public"), out, { recursive: true });
  // A runtime of another version does not fit device.js: the service worker drops it with its cache.
  const { version } = JSON.parse(readFileSync(join(here, "node_modules/@litertjs/core/package.json"), "utf8"));
  const fixed = { DEVICE_CACHE: JSON.stringify(`dermserve-device-${version}`) };
  const common = { define: fixed, bundle: true, minify: true, target: "es2022", legalComments: "none", charset: "utf8", absWorkingDir: here };
  await build({ ...common, entryPoints: ["src/main.ts"], outfile: join(out, "app.js"), format: "esm", external: ["./device.js"] });
  await build({ ...common, entryPoints: ["src/device.ts"], outfile: join(out, "device.js"), format: "esm" });
  await build({ ...common, entryPoints: ["src/app.css"], outfile: join(out, "app.css") });

  // The service worker's cache is named after what it holds, so that a new page replaces the old one at once.
  const shell = readdirSync(out).sort();
  const digest = createHash("sha256");
  for (const name of shell) digest.update(name).update(readFileSync(join(out, name)));
  const define = {
    ...fixed,
    SHELL: JSON.stringify(shell.filter((name) => name !== "index.html")),
    BUILD: JSON.stringify(digest.digest("hex").slice(0, 16)),
  };
  await build({ ...common, entryPoints: ["src/sw.ts"], outfile: join(out, "sw.js"), format: "iife", define });
}

if (!flags.includes("--runtime-only")) await buildPage();
if (flags.some((flag) => flag.startsWith("--runtime"))) {
  const source = join(here, "node_modules/@litertjs/core/wasm");
  const target = join(edge, "litert");
  if (!existsSync(source)) throw new Error("no @litertjs/core in node_modules: run npm ci in client/web");
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target);
  for (const name of ["litert_wasm_internal", "litert_wasm_compat_internal"]) {
    for (const ending of ["js", "wasm"]) cpSync(join(source, `${name}.${ending}`), join(target, `${name}.${ending}`));
  }
  fetchViewer(join(edge, "rapidoc"));
}

// The API page's viewer is one file. As a dependency it would bring 134 packages that the file has within it already.
function fetchViewer(target) {
  const at = mkdtempSync(join(tmpdir(), "rapidoc-"));
  const archive = execFileSync("npm", ["pack", RAPIDOC.name, "--silent", "--pack-destination", at], { encoding: "utf8" }).trim();
  const digest = createHash("sha256").update(readFileSync(join(at, archive))).digest("hex");
  if (digest !== RAPIDOC.sha256) throw new Error(`${archive} is not the pinned one: ${digest}`);
  execFileSync("tar", ["-xzf", archive, "package/dist/rapidoc-min.js", "package/LICENSE.txt"], { cwd: at });
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target);
  cpSync(join(at, "package/dist/rapidoc-min.js"), join(target, "rapidoc-min.js"));
  cpSync(join(at, "package/LICENSE.txt"), join(target, "rapidoc-LICENSE.txt"));
  rmSync(at, { recursive: true });
}
