// Classify photos from Node.js with grpc-js: one photo, an error by its reason, and a stream. See ../README.md.
import { credentials, loadPackageDefinition, type ServiceError } from "@grpc/grpc-js";
import { loadSync, type MessageTypeDefinition } from "@grpc/proto-loader";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { ProtoGrpcType } from "./gen/grpc/classifier.js";
import type { ClassifyResponse__Output as Answer } from "./gen/grpc/dermserve/v1/ClassifyResponse.js";

const { DERMSERVE_SERVER: server = "127.0.0.1:50051", DERMSERVE_MODEL: name = "mobilenet_v3_small", DERMSERVE_CA: ca } = process.env;
const options = { keepCase: true, longs: String, enums: String, oneofs: true, includeDirs: ["gen/protos"] };
const protos = loadSync("dermserve/v1/classifier.proto", options); // knows google.rpc's details, too
const { Classifier } = (loadPackageDefinition(protos) as unknown as ProtoGrpcType).dermserve.v1;
const secure = ca ? credentials.createSsl(readFileSync(ca)) : credentials.createInsecure();
const client = new Classifier(server, secure, { "grpc.enable_http_proxy": 0 });
const photos = process.argv.slice(2);
if (!photos.length) throw new Error("usage: npx tsx classify.ts PHOTO...");
const request = (image: Buffer) => ({ model: { name }, image, tta: "TTA_MODE_FULL" as const });

// Read an error's details: the reason is stable (docs/errors.md), and there is a delay where trying again helps.
const decode = (type: string, bytes: Buffer): any => (protos[type] as MessageTypeDefinition<any, any>).deserialize(bytes);
function read(details: any[] = []): { reason: string; retryMs?: number } {
  const find = (type: string) => {
    const packed = details.find((any) => any.type_url.endsWith(`/${type}`));
    return packed && decode(type, packed.value);
  };
  const delay = find("google.rpc.RetryInfo")?.retry_delay;
  return {
    reason: find("google.rpc.ErrorInfo")?.reason ?? "UNKNOWN",
    retryMs: delay && Number(delay.seconds ?? 0) * 1e3 + (delay.nanos ?? 0) / 1e6,
  };
}
function readError(error: ServiceError) {
  const [status] = error.metadata?.get("grpc-status-details-bin") ?? [];
  return read(status && decode("google.rpc.Status", status as Buffer).details);
}

// Classify within a deadline, and try again as long as the gateway says when.
async function classify(image: Buffer, deadline = Date.now() + 20_000): Promise<Answer> {
  try {
    return await new Promise((resolve, reject) =>
      client.Classify(request(image), { deadline }, (error, answer) => (error ? reject(error) : resolve(answer!))),
    );
  } catch (error) {
    const { reason, retryMs } = readError(error as ServiceError);
    if (retryMs === undefined || Date.now() + retryMs > deadline) throw error;
    console.error(`${reason}: trying again in ${retryMs} ms`);
    await sleep(retryMs);
    return classify(image, deadline);
  }
}

// Print an answer in the order in which a person should read it (docs/answers.md); the notice has the disclaimer.
function show({ verdict, malignancy, reasons, classes, named_class, notice }: Answer): void {
  console.log(verdict, malignancy?.level ?? "", ...(reasons ?? []));
  const named = classes?.find(({ code }) => code === named_class);
  if (named) console.log(named.common_name || named.name, `${Math.round(100 * (named.probability ?? 0))} %`);
  console.log(notice);
}

try {
  show(await classify(readFileSync(photos[0])));
  await classify(Buffer.from("this is no photo")).catch((error) => console.log("refused:", readError(error).reason));
  const stream = client.ClassifyStream({ deadline: Date.now() + 60_000 });
  [...photos.map((file) => readFileSync(file)), Buffer.from("this is no photo")].forEach((image, index) =>
    stream.write({ id: `${index}`, request: request(image) }),
  );
  stream.end();
  for await (const { id, response, error } of stream) {
    console.log("stream:", id, response?.verdict ?? read(error?.details).reason);
  }
} catch (error) {
  console.error((error as Error).message, readError(error as ServiceError).reason);
  process.exitCode = 1;
}
client.close();
