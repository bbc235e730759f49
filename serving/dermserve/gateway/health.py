"""grpc.health.v1: SERVING while every configured model can answer. The orchestrator's probes read it."""

from grpc_health.v1 import health, health_pb2

from dermserve.v1 import classifier_pb2

SERVICE = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name
_NAMES = ("", SERVICE)
LIVENESS = "liveness"
"""SERVING for as long as the gateway runs: whether to start it again, rather than whether to send it requests."""


class Health:
    """The health of the whole and of the Classifier, which are the same."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def report(self, ready: bool) -> None:
        """Say whether requests can be answered; without effect once the gateway is stopping."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in _NAMES:
            await self.servicer.set(name, status)
        await self.servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        await self.servicer.enter_graceful_shutdown()
