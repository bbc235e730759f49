// Classify photos from Kotlin with coroutines: one photo, an error by its reason, and a stream. See ../README.md.
import com.google.protobuf.ByteString
import com.google.protobuf.Message
import com.google.rpc.ErrorInfo
import com.google.rpc.RetryInfo
import com.google.rpc.Status
import dev.dermserve.v1.*
import io.grpc.*
import io.grpc.protobuf.StatusProto
import java.io.File
import java.util.concurrent.TimeUnit.SECONDS
import kotlin.time.Duration.Companion.nanoseconds
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.asFlow
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout

val NO_PHOTO: ByteString = ByteString.copyFromUtf8("this is no photo")

fun env(name: String, otherwise: String) = System.getenv(name) ?: otherwise

fun request(image: ByteString): ClassifyRequest = ClassifyRequest.newBuilder()
    .setModel(ModelSelector.newBuilder().setName(env("DERMSERVE_MODEL", "mobilenet_v3_small")))
    .setImage(image).setTta(TtaMode.TTA_MODE_FULL).build()

/** Find one kind of an error's details: ErrorInfo has the stable reason (docs/errors.md), RetryInfo a delay. */
inline fun <reified T : Message> Status.detail(): T? =
    detailsList.firstOrNull { it.`is`(T::class.java) }?.unpack(T::class.java)

val Status.reason get() = detail<ErrorInfo>()?.reason ?: "UNKNOWN"

/** Classify, and try again as long as the gateway says when; `withTimeout` and the call's deadline bound it. */
suspend fun classify(stub: ClassifierGrpcKt.ClassifierCoroutineStub, image: ByteString): ClassifyResponse =
    withTimeout(20.seconds) {
        var answer: ClassifyResponse? = null
        while (answer == null) {
            try {
                answer = stub.withDeadlineAfter(20, SECONDS).classify(request(image))
            } catch (error: StatusException) {
                val status = StatusProto.fromThrowable(error)!!
                val pause = status.detail<RetryInfo>()?.retryDelay ?: throw error
                val wait = pause.seconds.seconds + pause.nanos.nanoseconds
                System.err.println("${status.reason}: trying again in $wait")
                delay(wait)
            }
        }
        answer
    }

/** Print an answer in the order in which a person should read it (docs/answers.md); the notice has the disclaimer. */
fun show(answer: ClassifyResponse) {
    println("${answer.verdict} ${if (answer.hasMalignancy()) answer.malignancy.level else ""} ${answer.reasonsList}")
    answer.classesList.firstOrNull { it.code == answer.namedClass }
        ?.let { println("${it.commonName} ${Math.round(100 * it.probability)} %") }
    println(answer.notice)
}

fun main(files: Array<String>) = runBlocking {
    require(files.isNotEmpty()) { "usage: -Dexec.args=PHOTO" }
    val ca = System.getenv("DERMSERVE_CA")
    val secure = if (ca == null) InsecureChannelCredentials.create()
        else TlsChannelCredentials.newBuilder().trustManager(File(ca)).build()
    val channel = Grpc.newChannelBuilder(env("DERMSERVE_SERVER", "127.0.0.1:50051"), secure).build()
    try {
        val stub = ClassifierGrpcKt.ClassifierCoroutineStub(channel)
        val images = files.map { ByteString.copyFrom(File(it).readBytes()) }
        show(classify(stub, images.first()))
        try {
            classify(stub, NO_PHOTO)
        } catch (error: StatusException) {
            println("refused: ${StatusProto.fromThrowable(error)?.reason}")
        }
        val photos = (images + listOf(NO_PHOTO)).mapIndexed { index, image ->
            ClassifyStreamRequest.newBuilder().setId("$index").setRequest(request(image)).build()
        }
        stub.withDeadlineAfter(60, SECONDS).classifyStream(photos.asFlow()).collect {
            println("stream: ${it.id} ${if (it.hasError()) it.error.reason else it.response.verdict}")
        }
    } finally {
        channel.shutdownNow().awaitTermination(5, SECONDS)
    }
    Unit
}
