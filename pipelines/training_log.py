"""What TensorBoard shows of a training run: scalars of every step, pictures of each validation.

Each validation writes one whole event file, so that a log grows in an object store as in a folder.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.storage import Store
from resnet_core.levels import Levels

FOLDER = "tensorboard/"


def write_events(
    store: Store,
    scalars: Sequence[tuple[int, Mapping[str, float]]],
    pictures: Mapping[str, Levels],
) -> str:
    """Writes one event file: `scalars` by step, and `pictures` (uint8 HWC RGB) at the last of them.

    Returns its key. TensorBoard reads the files of a folder by name, so names begin with the time.
    """
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  slow to import

    last = scalars[-1][0]
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for step, values in scalars:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
            for name, pixels in pictures.items():
                writer.add_image(name, pixels, last, dataformats="HWC")
        (written,) = Path(folder).iterdir()
        key = f"{FOLDER}events.out.tfevents.{time.time():017.6f}.{last:08}"
        store.put(key, written.read_bytes())
    return key
