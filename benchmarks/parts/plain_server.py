"""The rival of serving: what one writes first, FastAPI and torch, in a pool of threads.

python -m parts.plain_server PORT
"""

import io
import sys

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from resnet_core import load_weights

app = FastAPI()
network = load_weights("sr-x2").network


def enhance(data: bytes) -> bytes:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
    with torch.inference_mode():
        y = (network(x)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    out = io.BytesIO()
    Image.fromarray(y.numpy()).save(out, "JPEG", quality=93)
    return out.getvalue()


@app.post("/v1/enhance")
async def answer(request: Request) -> Response:
    result = await run_in_threadpool(enhance, await request.body())
    return Response(result, media_type="image/jpeg")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
