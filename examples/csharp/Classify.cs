// Classify photos from C#: one photo, an error by its reason, and a stream. Written by hand, never run: see ../README.md.
using Dermserve.V1;
using Google.Protobuf;
using Google.Rpc;
using Grpc.Core;
using Grpc.Net.Client;

string Env(string name, string otherwise) => Environment.GetEnvironmentVariable(name) ?? otherwise;

ClassifyRequest Request(ByteString image) => new()
{
    Model = new ModelSelector { Name = Env("DERMSERVE_MODEL", "mobilenet_v3_small") },
    Image = image,
    Tta = TtaMode.Full,
};

// ErrorInfo has the stable reason (docs/errors.md); GetRpcStatus and GetDetail are Grpc.StatusProto's.
string Reason(RpcException error) => error.GetRpcStatus()?.GetDetail<ErrorInfo>()?.Reason ?? $"{error.StatusCode}";

// Classify within a deadline, and try again as long as the gateway says when (RetryInfo).
async Task<ClassifyResponse> Classify(Classifier.ClassifierClient client, ByteString image)
{
    var deadline = DateTime.UtcNow.AddSeconds(20);
    while (true)
    {
        try
        {
            return await client.ClassifyAsync(Request(image), deadline: deadline);
        }
        catch (RpcException error) when (error.GetRpcStatus()?.GetDetail<RetryInfo>() is { } retry
            && DateTime.UtcNow + retry.RetryDelay.ToTimeSpan() < deadline)
        {
            await Task.Delay(retry.RetryDelay.ToTimeSpan());
        }
    }
}

// Print an answer in the order in which a person should read it (docs/answers.md); the notice has the disclaimer.
void Show(ClassifyResponse answer)
{
    Console.WriteLine($"{answer.Verdict} {answer.Malignancy?.Level} {answer.Reasons}");
    foreach (var named in answer.Classes.Where(score => score.Code == answer.NamedClass))
        Console.WriteLine($"{named.CommonName} {named.Probability:P0}");
    Console.WriteLine(answer.Notice);
}

// TLS: https://, by the system's authorities.
using var channel = GrpcChannel.ForAddress(Env("DERMSERVE_URL", "http://127.0.0.1:50051"));
var client = new Classifier.ClassifierClient(channel);
var images = args.Select(file => ByteString.CopyFrom(File.ReadAllBytes(file))).ToList();
Show(await Classify(client, images[0]));
try
{
    await Classify(client, ByteString.CopyFromUtf8("this is no photo"));
}
catch (RpcException error)
{
    Console.WriteLine($"refused: {Reason(error)}");
}
using var stream = client.ClassifyStream(deadline: DateTime.UtcNow.AddSeconds(60));
var answers = Task.Run(async () =>
{
    await foreach (var answer in stream.ResponseStream.ReadAllAsync())
        Console.WriteLine($"stream: {answer.Id} {answer.Response?.Verdict.ToString() ?? answer.Error.GetDetail<ErrorInfo>()?.Reason}");
});
foreach (var (image, index) in images.Select((image, index) => (image, index)))
    await stream.RequestStream.WriteAsync(new() { Id = $"{index}", Request = Request(image) });
await stream.RequestStream.CompleteAsync();
await answers;
