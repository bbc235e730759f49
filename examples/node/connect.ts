// Classify photos with Connect: over gRPC here; with createGrpcWebTransport against the edge the same code runs in a
// browser (one photo; streams need HTTP/2 both ways). See ../README.md.
import { create } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import * as api from "./gen/connect/dermserve/v1/classifier_pb.js";
import { ErrorInfoSchema, RetryInfoSchema } from "./gen/connect/google/rpc/error_details_pb.js";

const { DERMSERVE_SERVER: server = "127.0.0.1:50051", DERMSERVE_MODEL: name = "mobilenet_v3_small", DERMSERVE_CA: ca } = process.env;
const transport = createGrpcTransport({
  baseUrl: `${ca ? "https" : "http"}://${server}`,
  nodeOptions: ca ? { ca: readFileSync(ca) } : {},
});
const client = createClient(api.Classifier, transport);
const photos = process.argv.slice(2);
if (!photos.length) throw new Error("usage: npx tsx connect.ts PHOTO...");
const request = (image: Uint8Array) => create(api.ClassifyRequestSchema, { model: { name }, image, tta: api.TtaMode.FULL });
const reasonOf = (error: ConnectError) => error.findDetails(ErrorInfoSchema)[0]?.reason ?? Code[error.code];

// Classify within a deadline, and try again as long as the gateway says when (RetryInfo).
async function classify(image: Uint8Array, deadline = Date.now() + 20_000): Promise<api.ClassifyResponse> {
  try {
    return await client.classify(request(image), { timeoutMs: deadline - Date.now() });
  } catch (raised) {
    const error = ConnectError.from(raised);
    const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
    const retryMs = delay && Number(delay.seconds) * 1e3 + delay.nanos / 1e6;
    if (retryMs === undefined || Date.now() + retryMs > deadline) throw error;
    console.error(`${reasonOf(error)}: trying again in ${retryMs} ms`);
    await sleep(retryMs);
    return classify(image, deadline);
  }
}

// Print an answer in the order in which a person should read it (docs/answers.md); the notice has the disclaimer.
function show({ verdict, malignancy, reasons, classes, namedClass, notice }: api.ClassifyResponse): void {
  const level = malignancy ? api.RiskLevel[malignancy.level] : "";
  console.log(api.Verdict[verdict], level, ...reasons.map((reason) => api.Reason[reason]));
  const named = classes.find(({ code }) => code === namedClass);
  if (named) console.log(named.commonName || named.name, `${Math.round(100 * named.probability)} %`);
  console.log(notice);
}

try {
  show(await classify(readFileSync(photos[0])));
  await classify(Buffer.from("this is no photo")).catch((error) => console.log("refused:", reasonOf(error)));
  async function* requests() {
    const images = [...photos.map((file) => readFileSync(file)), Buffer.from("this is no photo")];
    for (const [index, image] of images.entries()) yield { id: `${index}`, request: request(image) };
  }
  for await (const { id, result } of client.classifyStream(requests(), { timeoutMs: 60_000 })) {
    const details = result.case === "error" ? result.value.details : [];
    const refused = details.map((any) => anyUnpack(any, ErrorInfoSchema)).find((info) => info)?.reason;
    console.log("stream:", id, result.case === "response" ? api.Verdict[result.value.verdict] : refused);
  }
} catch (raised) {
  const error = ConnectError.from(raised);
  console.error(error.message, reasonOf(error));
  process.exitCode = 1;
}
