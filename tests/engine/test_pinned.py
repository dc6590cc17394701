import mmap
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from caption.engine.pinned import lock_pages

SUCCESS, REFUSED = 0, 2


class Driver:
    """Keeps what is registered; refuses what is larger than a page."""

    cudaError = SimpleNamespace(success=SUCCESS)

    def __init__(self):
        self.registered = {}

    def cudaHostRegister(self, address, size, flags):
        if size > mmap.PAGESIZE:
            return REFUSED
        self.registered[address] = size
        return SUCCESS

    def cudaHostUnregister(self, address):
        del self.registered[address]
        return SUCCESS


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    return driver


def test_pages_are_locked_until_the_last_array_in_them_is_let_go(driver):
    pages = mmap.mmap(-1, mmap.PAGESIZE)
    memory = np.frombuffer(pages, np.uint8)
    assert lock_pages(memory)
    part = np.frombuffer(memoryview(memory[100:200]), np.float32)
    del memory
    assert list(driver.registered.values()) == [mmap.PAGESIZE]
    del part
    assert driver.registered == {}


def test_pages_that_the_driver_refuses_to_lock_are_not_unlocked(driver):
    memory = np.zeros(2 * mmap.PAGESIZE, np.uint8)
    assert lock_pages(memory)
    del memory
    assert driver.registered == {}


def test_pages_are_not_locked_before_torch_uses_the_gpu(driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert not lock_pages(np.zeros(100, np.uint8))
    assert driver.registered == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_forgets_memory_that_is_let_go():
    torch.zeros(1, device="cuda")
    driver, pages = torch.cuda.cudart(), mmap.mmap(-1, 1 << 20)
    memory = np.frombuffer(pages, np.uint8)
    address = memory.ctypes.data
    assert lock_pages(memory)
    del memory
    assert driver.cudaHostRegister(address, len(pages), 0) == driver.cudaError.success
    assert driver.cudaHostUnregister(address) == driver.cudaError.success
