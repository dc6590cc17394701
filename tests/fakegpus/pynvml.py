"""In place of NVIDIA's library, before it on the path of a run under test: the GPUs that the file FAKE_GPUS tells of.

The file is read at each call, so that a test can take a GPU away. It holds {"init": an error's number or null, "hang":
whether no call comes back, "gpus": [{"uuid", "free", "total", "lost"}, …]}. Each process that works on a GPU takes
"takes" bytes of it, if that stands there.
"""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

NVML_ERROR_NOT_FOUND, NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND = 6, 9, 12
NVML_ERROR_GPU_IS_LOST, NVML_TEMPERATURE_GPU = 15, 0
_TEXTS = {6: "Not Found", 9: "Driver Not Loaded", 15: "GPU is lost", 18: "Driver/library version mismatch"}


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(_TEXTS.get(value, f"error {value}"))
        self.value = value


def _state():
    while (state := json.loads(Path(os.environ["FAKE_GPUS"]).read_text())).get("hang"):
        time.sleep(1)
    return state


def nvmlInit():
    if init := _state().get("init"):
        raise NVMLError(init)


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return len(_state()["gpus"])


def nvmlDeviceGetHandleByIndex(index):
    if _state()["gpus"][index].get("lost"):
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    return index


def nvmlDeviceGetHandleByUUID(uuid):
    found = [index for index, gpu in enumerate(_state()["gpus"]) if gpu["uuid"] == uuid]
    if not found:
        raise NVMLError(NVML_ERROR_NOT_FOUND)
    return nvmlDeviceGetHandleByIndex(found[0])


def nvmlDeviceGetUUID(index):
    return _state()["gpus"][index]["uuid"]


def nvmlDeviceGetName(index):
    return b"Fake 3000"


def nvmlDeviceGetMemoryInfo(index):
    gpu = _state()["gpus"][index]
    if gpu.get("lost"):
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    free = gpu["free"] - gpu.get("takes", 0) * _processes_on(gpu["uuid"])
    return SimpleNamespace(free=free, used=gpu["total"] - free, total=gpu["total"])


def nvmlDeviceGetUtilizationRates(index):
    return SimpleNamespace(gpu=50)


def nvmlDeviceGetTemperature(index, sensor):
    return 40


def _processes_on(uuid):
    """Workers of this session, as a GPU counts those that have memory of it."""
    count = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == os.getsid(0):
                told = (entry / "environ").read_bytes().split(b"\0")
                count += f"CUDA_VISIBLE_DEVICES={uuid}".encode() in told
        except OSError:
            continue
    return count
