// Classify a photo from Swift with grpc-swift 2. Written by hand, never run: see ../README.md.
//
// An app on a phone asks a backend of yours (../python/backend.py), or the edge with a key: not a gateway directly. UIImage's
// jpegData(compressionQuality:) makes a JPEG of the HEIC that an iPhone takes.
import Foundation
import GRPCCore
import GRPCNIOTransportHTTP2
import GRPCProtobuf

@main
struct Classify {
    static func main() async throws {
        let transport = try HTTP2ClientTransport.Posix(
            target: .ipv4(address: "127.0.0.1", port: 50051), transportSecurity: .plaintext)  // or .tls
        try await withGRPCClient(transport: transport) { connection in
            let client = DermClassifier.Client(wrapping: connection)
            var request = DermClassifyRequest()
            request.model.name = "mobilenet_v3_small"
            request.image = try Data(contentsOf: URL(fileURLWithPath: CommandLine.arguments[1]))
            request.tta = .adaptive
            var options = CallOptions.defaults
            options.timeout = .seconds(20)
            do {
                let answer = try await client.classify(request, options: options)
                // In the order in which a person should read it (docs/answers.md); always show the notice: it has the
                // disclaimer.
                print(answer.verdict, answer.hasMalignancy ? "\(answer.malignancy.level)" : "", answer.reasons)
                print(answer.notice)
            } catch let error as RPCError {
                // google.rpc.Status: its ErrorInfo has the stable reason (docs/errors.md), its RetryInfo how long to wait.
                for detail in try error.unpackGoogleRPCStatus()?.details ?? [] {
                    if let info = detail.errorInfo { print("refused:", info.reason) }
                    if let retry = detail.retryInfo { print("try again in", retry.delay) }
                }
            }
        }
    }
}
