"""FastAPI."""

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.comparison.shared import load_model

app = FastAPI()
_classify = load_model()


@app.post("/classify")
async def classify(request: Request, views: int = 1) -> dict[str, list[float]]:
    """Classify one photo; the work is done in a thread, so that the event loop stays free."""
    return {"probabilities": await run_in_threadpool(_classify, await request.body(), views)}
