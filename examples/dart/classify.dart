// Classify a photo from Dart or Flutter. Written by hand, never run: see ../README.md.
//
// An app on a phone asks a backend of yours (../python/backend.py), or the edge with a key: not a gateway directly.
import 'dart:io';

import 'package:grpc/grpc.dart';
import 'package:grpc/protos.dart' show ErrorInfo, RetryInfo; // the classes that GrpcError.details has

import 'gen/dermserve/v1/classifier.pbgrpc.dart';

Future<void> main(List<String> files) async {
  final channel = ClientChannel('127.0.0.1',
      port: 50051, options: const ChannelOptions(credentials: ChannelCredentials.insecure())); // or .secure()
  final client = ClassifierClient(channel);
  final request = ClassifyRequest(
      model: ModelSelector(name: 'mobilenet_v3_small'),
      image: await File(files.first).readAsBytes(),
      tta: TtaMode.TTA_MODE_ADAPTIVE);
  final end = DateTime.now().add(const Duration(seconds: 20));
  while (true) {
    try {
      final answer = await client.classify(request, options: CallOptions(timeout: end.difference(DateTime.now())));
      // In the order in which a person should read it (docs/answers.md); the notice has the disclaimer: always show it.
      print('${answer.verdict} ${answer.hasMalignancy() ? answer.malignancy.level : ''} ${answer.reasons}');
      print(answer.notice);
      break;
    } on GrpcError catch (error) {
      final details = error.details ?? [];
      final retry = details.whereType<RetryInfo>().firstOrNull; // there where trying again helps
      final reason = details.whereType<ErrorInfo>().firstOrNull?.reason; // stable: docs/errors.md
      final wait = retry == null ? null : Duration(seconds: retry.retryDelay.seconds.toInt(), microseconds: retry.retryDelay.nanos ~/ 1000);
      if (wait == null || DateTime.now().add(wait).isAfter(end)) {
        stderr.writeln('refused: $reason');
        exitCode = 1;
        break;
      }
      await Future<void>.delayed(wait);
    }
  }
  await channel.shutdown();
}
