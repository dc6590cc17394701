"""The processor of a checkpoint, put together from its parts: the same on every machine.

AutoProcessor takes torchvision's image processor where torchvision is installed and Pillow's where not: other pixels,
so other captions. And it wants torchvision for the video half of a processor, even to load one for pictures only
(transformers 5.23, processing_utils.py:1984 and video_processing_auto.py:265). So the parts are loaded here one by
one: always Pillow's image processor, where the family has one, and a stand-in for the video processor.
"""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

from caption.engine.checkpoint import first_line, read_config, read_json, refuse_remote_code
from caption.engine.errors import DoesNotLoad, ModelError
from caption.engine.families import NO_PROMPT

# The files that may name the processor class, in AutoProcessor's order.
NAMING_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json")


def load_processor(folder: str, trust_remote_code: bool = False):
    """Return the transformers processor of a checkpoint folder, its tokenizer ready to pad.

    Raises NotFound, NeedsRemoteCode and DoesNotLoad. Nothing here needs torch.
    """
    config = read_config(folder)
    files = [read_json(folder, name) for name in NAMING_FILES]
    has_code = any("AutoProcessor" in content.get("auto_map", {}) for content in files)
    name = next((content["processor_class"] for content in files if content.get("processor_class")), None)
    try:
        cls = _find_class(name, config.get("model_type"))
        if has_code and (trust_remote_code or cls is None):
            if not trust_remote_code:
                raise refuse_remote_code(folder, "processor")
            processor = _load_remote(folder)
        elif cls is None:
            raise DoesNotLoad(f"{folder} names no processor that this version of transformers knows")
        else:
            processor = _assemble(cls, folder, trust_remote_code)
    except ModelError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise refuse_remote_code(folder, "processor") from error
        if "torchvision" in str(error).lower():
            reason = "transformers has it for torchvision alone, which is not installed: pip install torchvision"
            raise DoesNotLoad(f"the processor of {folder} does not load: {reason}") from error
        raise DoesNotLoad(f"the processor of {folder} does not load: {first_line(error)}") from error
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise DoesNotLoad(f"{folder} has no tokenizer beside its image processor")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # The encoder of an encoder-decoder counts positions from the left edge, so it is padded on the right.
    tokenizer.padding_side = "right" if config.get("is_encoder_decoder") else "left"
    return processor


def _find_class(name: str | None, model_type: str | None):
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = name or PROCESSOR_MAPPING_NAMES.get(model_type) or NO_PROMPT.get(model_type)
    if name == "PixtralProcessor":
        return _find_pixtral()
    return getattr(transformers, name, None) if name else None


def _find_pixtral():
    """Mistral 3's and Pixtral's too, which takes one function from the file of torchvision's image processor; that of
    Pillow's has the same (transformers 5.23, processing_pixtral.py:22)."""
    folder = "transformers.models.pixtral"
    try:
        importlib.import_module(f"{folder}.image_processing_pixtral")
    except ImportError:
        sys.modules[f"{folder}.image_processing_pixtral"] = importlib.import_module(
            f"{folder}.image_processing_pil_pixtral"
        )
    return importlib.import_module(f"{folder}.processing_pixtral").PixtralProcessor


def _load_remote(folder: str):
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, trust_remote_code=True, local_files_only=True)


def _assemble(cls, folder: str, trust_remote_code: bool):
    from transformers import AutoFeatureExtractor, AutoTokenizer

    # Its name in `transformers` demands torchvision up to 5.17, even for Pillow's.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    where = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    parts = []
    for part in cls.get_attributes():
        if "tokenizer" in part:  # a second one lies in a folder of its own (InstructBLIP's qformer_tokenizer)
            subfolder = part if part != "tokenizer" and Path(folder, part).is_dir() else ""
            parts.append(AutoTokenizer.from_pretrained(folder, subfolder=subfolder, **where))
        elif part == "image_processor":
            parts.append(AutoImageProcessor.from_pretrained(folder, backend="pil", **where))
        elif part == "video_processor":
            parts.append(_StandInVideoProcessor())
        else:
            parts.append(AutoFeatureExtractor.from_pretrained(folder, **where))
    module = sys.modules[cls.__module__]
    if getattr(module, "num2words", str) is None:
        module.num2words = str  # SmolVLM spells the number of a video's frames; without the package it refuses to load
    settings, _ = cls.get_processor_dict(folder, local_files_only=True)
    return _for_pictures(cls).from_args_and_dict(parts, settings)


class _StandInVideoProcessor(SimpleNamespace):
    """What processors and chat templates read of a video processor; no video ever reaches it."""

    def __init__(self):
        super().__init__(
            num_frames=1, fps=1, merge_size=2, temporal_patch_size=2, model_input_names=[],
            slice_mode=True, downsample_mode="16x",  # MiniCPM-V 4.6
        )  # fmt: skip


def _for_pictures(cls):
    """`cls`, accepting the stand-in where it checks that its video processor is one."""

    def check_argument_for_proper_class(self, name, argument):
        if isinstance(argument, _StandInVideoProcessor):
            return type(argument)
        return cls.check_argument_for_proper_class(self, name, argument)

    # The usual repr is JSON of all parts, which the stand-in is not made for.
    body = {"check_argument_for_proper_class": check_argument_for_proper_class, "__repr__": object.__repr__}
    return type(cls.__name__, (cls,), body)
