"""Everything that can go wrong, as one tree.

CaptionError                 a run can't begin or can't go on: one sentence for the user, an exit code
├── UsageError         (2)   a wrong option, an unreadable input, a model that isn't there
│   ├── InputError
│   ├── OutputError
│   ├── ModelNotFound
│   ├── AdapterNotFound      there is no such LoRA adapter, or its files can't be one
│   └── ModelNotUsable       it needs remote code or pickled weights, or captions no pictures
├── FolderError        (4)   the output folder can't be continued
│   ├── OtherJob
│   ├── Busy
│   └── Damaged
└── RunError           (5)   no worker can go on
    ├── ModelDoesNotLoad
    ├── NoWorkerLeft
    ├── DiskError
    └── SystemLimit

ItemError                    one image can't be captioned: the run goes on, ``failed.jsonl`` gets the class name
├── EmptyFile                zero bytes
├── NotAnImage               the content is no picture of a known format
├── Truncated                the picture ends too early or its data are broken
├── TooLarge                 more pixels than may be decoded
├── NotAFile                 a pipe, a socket, a device, a folder
├── Vanished                 gone between the listing and the opening
├── Unreadable               permission denied, or an error of the disk
├── DecoderCrashed           the process that decoded it died
├── DecoderHung              decoding took too long
├── OutOfMemory              it doesn't fit the device's memory even alone
├── EngineFailed             the model raised an error on it alone
├── WorkerDied               each worker that took it alone died
├── BadRow                   its line or row of the manifest is broken, or a field of it is of the wrong type
├── MissingField             the prompt asks for a field that it does not have
├── NotLocal                 a URL: pictures are read from disk only
├── AdapterUnusable          its LoRA adapter is not there, can't be one, or does not fit the model
├── Flagged                  its caption has a flag that --on-flag fails
└── NoScore                  the judge of its caption gave no number, or none that can be one
"""

from __future__ import annotations


class CaptionError(Exception):
    """A run can't begin or can't go on.

    Args:
        problem: what is wrong and where, without a full stop.
        remedy: the next step for the user, without a full stop.
    """

    exit_code = 5

    def __init__(self, problem: str, remedy: str = ""):
        super().__init__(f"{problem}: {remedy}" if remedy else problem)

    def sentence(self) -> str:
        """What the user reads: on one line, with one full stop."""
        return "caption: " + " ".join(str(self).splitlines()).rstrip(".?! ") + "."


class UsageError(CaptionError):
    exit_code = 2


class InputError(UsageError):
    pass


class OutputError(UsageError):
    pass


class ModelNotFound(UsageError):
    pass


class AdapterNotFound(UsageError):
    pass


class ModelNotUsable(UsageError):
    pass


class FolderError(CaptionError):
    exit_code = 4


class OtherJob(FolderError):
    pass


class Busy(FolderError):
    pass


class Damaged(FolderError):
    pass


class RunError(CaptionError):
    exit_code = 5


class ModelDoesNotLoad(RunError):
    pass


class NoWorkerLeft(RunError):
    pass


class DiskError(RunError):
    pass


class SystemLimit(RunError):
    pass


class ItemError(Exception):
    """One image can't be captioned; the class name is the row's ``error``."""

    transient = False  # may succeed when tried again


class EmptyFile(ItemError):
    pass


class NotAnImage(ItemError):
    pass


class Truncated(ItemError):
    pass


class TooLarge(ItemError):
    pass


class NotAFile(ItemError):
    pass


class Vanished(ItemError):
    pass


class Unreadable(ItemError):
    transient = True


class DecoderCrashed(ItemError):
    transient = True


class DecoderHung(ItemError):
    transient = True


class OutOfMemory(ItemError):
    transient = True


class EngineFailed(ItemError):
    transient = True


class WorkerDied(ItemError):
    transient = True


class BadRow(ItemError):
    pass


class MissingField(ItemError):
    pass


class NotLocal(ItemError):
    pass


class AdapterUnusable(ItemError):
    pass


class Flagged(ItemError):
    pass


class NoScore(ItemError):
    transient = True
