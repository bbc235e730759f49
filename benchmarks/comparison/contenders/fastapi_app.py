"""FastAPI and the SavedModel."""

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.comparison.contenders.shared import Model

app = FastAPI()
_model = Model()


@app.post("/classify")
async def classify(request: Request, views: int = 1) -> dict[str, list[float]]:
    """Classify one photo; the work is done in a thread, so that the event loop stays free."""
    return {"probabilities": await run_in_threadpool(_model.classify, await request.body(), views)}
