"""A camera frame that is already on the GPU goes through the network without a copy through the host.

Needs a GPU and its engine:  pip install 'mile-edge[rtx,pycuda]' && mile-edge build bundles/reference
Run it with:                 python docs/examples/pycuda_frame.py bundles/reference street.jpg
CuPy and torch arrays work the same way: whatever carries __cuda_array_interface__ is taken as it is.
"""

import sys

import numpy as np
import pycuda.autoprimaryctx  # noqa: F401  (the primary context, which the CUDA runtime and TensorRT share)
from PIL import Image
from pycuda import gpuarray

from mile_edge.runtime import Segmenter
from mile_edge.runtime.tensorrt.api import find_api

bundle, picture = sys.argv[1:3]
with Segmenter.open(bundle, backend=find_api().name) as segmenter:
    network = segmenter.manifest.network
    image = Image.open(picture).convert("RGB").resize((network.width, network.height))
    frame = gpuarray.to_gpu(np.asarray(image)[None])  # (1, H, W, 3) uint8; a real camera would have put it here

    result = segmenter(frame, sensor="camera", on_device=True)
    # The mask is still on the GPU: PyCUDA looks at the very same memory.
    mask = gpuarray.GPUArray(result.mask.shape, np.uint8, gpudata=result.mask.address)
    share = np.bincount(mask.get().ravel(), minlength=len(segmenter.classes)) / mask.size
    print(f"expert {result.expert[0]}")
    for label, part in zip(segmenter.classes, share, strict=True):
        print(f"{label.name:>12} {part:.0%}")
    result.mask.close()
    result.confidence.close()
