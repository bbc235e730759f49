// swift-tools-version: 6.0
// Generates code from protos (`dermserve proto --out protos`) with the protoc on the PATH, and builds it.
import PackageDescription

let package = Package(
    name: "classify",
    platforms: [.macOS(.v15)],
    dependencies: [
        .package(url: "https://github.com/grpc/grpc-swift-2.git", from: "2.4.0"),
        .package(url: "https://github.com/grpc/grpc-swift-nio-transport.git", from: "2.7.0"),
        .package(url: "https://github.com/grpc/grpc-swift-protobuf.git", from: "2.4.0"),
    ],
    targets: [
        .executableTarget(
            name: "classify",
            dependencies: [
                .product(name: "GRPCCore", package: "grpc-swift-2"),
                .product(name: "GRPCNIOTransportHTTP2", package: "grpc-swift-nio-transport"),
                .product(name: "GRPCProtobuf", package: "grpc-swift-protobuf"),
            ],
            path: ".",
            plugins: [.plugin(name: "GRPCProtobufGenerator", package: "grpc-swift-protobuf")])
    ])
