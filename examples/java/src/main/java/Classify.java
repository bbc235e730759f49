// Classify photos from Java: one photo, an error by its reason, and a stream. See ../README.md.
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.dermserve.v1.*;
import io.grpc.*;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.BlockingClientCall;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

public class Classify {
    static final ByteString NO_PHOTO = ByteString.copyFromUtf8("this is no photo");

    static String env(String name, String otherwise) {
        return Optional.ofNullable(System.getenv(name)).orElse(otherwise);
    }

    static ClassifyRequest request(ByteString image) {
        var model = ModelSelector.newBuilder().setName(env("DERMSERVE_MODEL", "mobilenet_v3_small"));
        return ClassifyRequest.newBuilder().setModel(model).setImage(image).setTta(TtaMode.TTA_MODE_FULL).build();
    }

    /** Find one kind of an error's details: ErrorInfo has the stable reason (docs/errors.md), RetryInfo a delay. */
    static <T extends Message> Optional<T> detail(com.google.rpc.Status status, Class<T> kind) {
        for (Any any : status.getDetailsList()) {
            try {
                if (any.is(kind)) return Optional.of(any.unpack(kind));
            } catch (InvalidProtocolBufferException damaged) {
                return Optional.empty();
            }
        }
        return Optional.empty();
    }

    static String reason(com.google.rpc.Status status) {
        return detail(status, ErrorInfo.class).map(ErrorInfo::getReason).orElse("UNKNOWN");
    }

    /** Classify within a deadline, and try again as long as the gateway says when. */
    static ClassifyResponse classify(Channel channel, ByteString image) throws InterruptedException {
        var deadline = Deadline.after(20, TimeUnit.SECONDS);
        while (true) {
            try {
                return ClassifierGrpc.newBlockingStub(channel).withDeadline(deadline).classify(request(image));
            } catch (StatusRuntimeException error) {
                var status = StatusProto.fromThrowable(error);
                var delay = detail(status, RetryInfo.class).map(RetryInfo::getRetryDelay);
                long millis = delay.map(d -> d.getSeconds() * 1000 + d.getNanos() / 1_000_000).orElse(Long.MAX_VALUE);
                if (millis > deadline.timeRemaining(TimeUnit.MILLISECONDS)) throw error;
                System.err.println(reason(status) + ": trying again in " + millis + " ms");
                Thread.sleep(millis);
            }
        }
    }

    /** Print an answer in the order in which a person should read it (docs/answers.md); the notice has the disclaimer. */
    static void show(ClassifyResponse answer) {
        var level = answer.hasMalignancy() ? answer.getMalignancy().getLevel() : "";
        System.out.println(answer.getVerdict() + " " + level + " " + answer.getReasonsList());
        answer.getClassesList().stream().filter(c -> c.getCode().equals(answer.getNamedClass()))
            .forEach(c -> System.out.printf("%s %.0f %%%n", c.getCommonName(), 100 * c.getProbability()));
        System.out.println(answer.getNotice());
    }

    static void stream(Channel channel, List<ByteString> images) throws Exception {
        var stub = ClassifierGrpc.newBlockingV2Stub(channel).withDeadlineAfter(60, TimeUnit.SECONDS);
        BlockingClientCall<ClassifyStreamRequest, ClassifyStreamResponse> call = stub.classifyStream();
        int sent = 0;
        for (int answered = 0; answered < images.size(); answered++) {
            for (; sent < images.size() && sent < answered + 4; sent++) { // the gateway works on four of a stream at once
                call.write(ClassifyStreamRequest.newBuilder().setId("" + sent).setRequest(request(images.get(sent))).build());
                if (sent == images.size() - 1) call.halfClose();
            }
            var answer = call.read();
            var outcome = answer.hasError() ? reason(answer.getError()) : answer.getResponse().getVerdict();
            System.out.println("stream: " + answer.getId() + " " + outcome);
        }
    }

    public static void main(String[] files) throws Exception {
        if (files.length == 0) throw new IllegalArgumentException("usage: -Dexec.args=PHOTO");
        var ca = System.getenv("DERMSERVE_CA");
        var secure = ca == null ? InsecureChannelCredentials.create()
            : TlsChannelCredentials.newBuilder().trustManager(new File(ca)).build();
        var channel = Grpc.newChannelBuilder(env("DERMSERVE_SERVER", "127.0.0.1:50051"), secure).build();
        try {
            var images = new java.util.ArrayList<ByteString>();
            for (var file : files) images.add(ByteString.copyFrom(Files.readAllBytes(Path.of(file))));
            show(classify(channel, images.get(0)));
            try {
                classify(channel, NO_PHOTO);
            } catch (StatusRuntimeException error) {
                System.out.println("refused: " + reason(StatusProto.fromThrowable(error)));
            }
            images.add(NO_PHOTO);
            stream(channel, images);
        } finally {
            channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
        }
    }
}
