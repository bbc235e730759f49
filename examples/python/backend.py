"""A phone app's backend: takes the upload, asks the gateway, and answers what the app may show.

    pip install . -r examples/python/requirements.txt    # in a clone of dermserve
    uvicorn --app-dir examples/python backend:app        # DERMSERVE_SERVER=HOST:PORT names the gateway
    curl -F photo=@photo.jpg http://127.0.0.1:8000/check

The photo is passed on and not kept. Environment: as for classify.py.
"""

import os
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request, UploadFile
from fastapi.responses import JSONResponse

from dermserve.client import TLS, AsyncClient, DermserveError, InvalidPhoto, Overloaded, Unavailable

SERVER = os.environ.get("DERMSERVE_SERVER", "127.0.0.1:50051")
MODEL = os.environ.get("DERMSERVE_MODEL", "mobilenet_v3_small")
CA = os.environ.get("DERMSERVE_CA")
TLS_OPTIONS = TLS(root_certificates=pathlib.Path(CA).read_bytes()) if CA else None
MAX_BYTES = 20_000_000
STATUSES = {InvalidPhoto: 422, Overloaded: 503, Unavailable: 503}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one client, with one connection, for all requests."""
    async with AsyncClient(SERVER, tls=TLS_OPTIONS, deadline=8) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


RequestId = Annotated[str | None, Header(pattern="^[A-Za-z0-9._-]{1,64}$")]  # the client takes no other


@app.post("/check")
async def check(request: Request, photo: UploadFile, x_request_id: RequestId = None) -> Any:
    """Classify one photo. The answer is in the order in which to show it: docs/answers.md."""
    if (photo.size or 0) > MAX_BYTES:
        return JSONResponse({"reason": "IMAGE_TOO_LARGE"}, 413)
    prediction = await request.app.state.client.classify(
        await photo.read(), model=MODEL, tta="adaptive", retry_overloaded=True, request_id=x_request_id
    )
    return {
        "verdict": prediction.verdict,
        "level": prediction.malignancy.level if prediction.malignancy else None,
        "reasons": prediction.reasons,
        "named_class": (prediction.named.common_name or prediction.named.name) if prediction.named else None,
        "notice": prediction.notice,  # has the disclaimer: the app shows it with the answer
        "request_id": prediction.request_id,
        "version": prediction.version,
    }


@app.exception_handler(DermserveError)
async def refuse(_: Request, error: DermserveError) -> JSONResponse:
    """Say by `reason` what went wrong: the app has a text for each that a person can do something about."""
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 502)
    retry = {"Retry-After": str(max(1, round(error.retry_after)))} if error.retry_after else {}
    return JSONResponse({"reason": error.reason, "request_id": error.request_id}, status, retry)
