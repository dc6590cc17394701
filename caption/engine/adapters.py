"""LoRA adapters, merged into the weights of the model where they lie.

No weight moves: what was made of the weights before (joint products, captured graphs) goes on with the changed ones,
and a text costs what it costs without an adapter. The adapter before is taken out by putting back what was kept, to
the last bit.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from caption.engine import Adapter, EngineOptions
from caption.engine.errors import DoesNotFit, classify

NAME = "caption_adapter"  # within peft


class Adapters:
    """The adapter in force on a model.

    Attributes:
        parted: counts the weights that two modules shared until an adapter changed them for one: those have moved.
    """

    def __init__(self, model: nn.Module, options: EngineOptions):
        self.model, self.options = model, options
        self.kept: dict[str, torch.Tensor] = {}  # by name: what stood there before the adapter, in host memory
        self.lost: set[str] = set()  # names of weights that were changed and not kept
        self.parted = 0

    def merge_first(self, adapter: Adapter) -> None:
        """Merge the run's adapter, of which most runs have no other: nothing is kept. Raises DoesNotFit."""
        self._merge(adapter, keep=False)

    def change(self, adapter: Adapter | None) -> None:
        """Take out the adapter in force and merge this one. Raises DoesNotFit, and is without one then."""
        self._take_out()
        if adapter is None:
            return
        try:
            self._merge(adapter, keep=True)
        except BaseException:
            self._take_out()
            raise

    @torch.inference_mode()
    def _take_out(self) -> None:
        weights = dict(self.model.named_parameters(remove_duplicate=False))
        if self.lost:
            from caption.engine.model import load_model

            base = load_model(dataclasses.replace(self.options, device="cpu"))
            fresh = dict(base.named_parameters(remove_duplicate=False))
            self.kept |= {name: fresh[name].data for name in self.lost}
            self.lost = set()
        for name, value in self.kept.items():
            weights[name].data.copy_(value)
        self.kept = {}

    @torch.no_grad()
    def _merge(self, adapter: Adapter, keep: bool) -> None:
        """Let peft compute each weight, and write it to where the old one lies."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        places = _Places(self.model)
        try:
            wrapped, brought = self._fitted(adapter)
            for name, value in brought.items():
                self._write(places, *places.find(name), value, keep, apart=False)
            for module in wrapped.modules():
                if isinstance(module, AuxiliaryTrainingWrapper):
                    changed = module.unload_and_optionally_merge_module(True, True, [NAME])
                    for name, value in changed.named_parameters():
                        inner, _, last = name.rpartition(".")
                        self._write(places, module.original_module.get_submodule(inner), last, value.data, keep)
                elif isinstance(module, BaseTunerLayer):
                    if NAME in getattr(module, "scaling", {}):
                        module.scaling[NAME] *= adapter.scale
                    module.merge(safe_merge=True, adapter_names=[NAME])
                    for name, value in list(_weights(module.get_base_layer())):
                        self._write(places, module.get_base_layer(), name, value.data, keep)
        except DoesNotFit:
            raise
        except Exception as error:
            if classify(error) != "item":
                raise
            raise DoesNotFit(f"the LoRA adapter {adapter.path} can't be merged: {_cause(error)}") from error
        finally:
            _unwrap(self.model, BaseTunerLayer, AuxiliaryTrainingWrapper)
            places.move_back()

    def _write(
        self, places: "_Places", module: nn.Module, name: str, value: torch.Tensor, keep: bool, apart: bool = True
    ) -> None:
        """apart: other modules that share the weight stay as they are."""
        parameter, place = getattr(module, name), places.of[id(module), name]
        if value.data_ptr() == place.data_ptr():
            return
        whole = f"{places.names[id(module)]}.{name}"
        if keep and whole not in self.kept:
            self.kept[whole] = place.to("cpu", copy=True)
        elif not keep:
            self.lost.add(whole)
        parameter.data = place
        if apart and places.shared[id(parameter)] > 1:
            places.shared[id(parameter)] -= 1
            parameter = nn.Parameter(place.clone(), requires_grad=False)
            module.register_parameter(name, parameter)
            places.of[id(module), name] = place = parameter.data
            self.parted += 1
        with torch.inference_mode():  # some places were made in it
            place.copy_(value)

    def _fitted(self, adapter: Adapter) -> tuple[nn.Module, dict[str, torch.Tensor]]:
        """The model with the adapter around its layers, each of whose weights has found its place.

        And by name, weights of the model itself that the adapter brings: peft saves embeddings that it has adapted.
        """
        from caption.engine.adapterfile import own_weights, read_adapter

        model = self.model
        config, state = read_adapter(adapter.path, getattr(model, "_checkpoint_conversion_mapping", None))
        misfit = f"the LoRA adapter {adapter.path} does not fit {type(model).__name__}"
        sizes = {name: value.shape for name, value in model.named_parameters(remove_duplicate=False)}
        brought = own_weights(config, state, sizes)
        if other := [name for name, value in brought.items() if value.shape != sizes[name]]:
            raise DoesNotFit(f"{misfit}: {other[0]} is of another size")
        import peft

        try:
            wrapped = peft.PeftModel(model, config, NAME)
            found = peft.set_peft_model_state_dict(wrapped, state, NAME)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            if classify(error) != "item":
                raise
            raise DoesNotFit(f"{misfit}: {_cause(error)}") from error
        if found.unexpected_keys:
            count, first = len(found.unexpected_keys), sorted(found.unexpected_keys)[0]
            raise DoesNotFit(f"{misfit}: the model has no place for {count} of its weights, {first} first")
        if missing := sorted(key for key in found.missing_keys if f".{NAME}" in key):
            count, first = len(missing), missing[0]
            raise DoesNotFit(f"{misfit}: it has no weights for {count} of the layers it names, {first} first")
        return wrapped, brought


class _Places:
    """Where the weights of a model lie before peft changes anything.

    Attributes:
        names: of modules, by id.
        of: by id of the module and name, what the parameter holds.
        shared: by id of the parameter, how many modules have it.
    """

    def __init__(self, model: nn.Module):
        self.modules = dict(model.named_modules())
        self.names = {id(module): name for name, module in self.modules.items()}
        self.of, self.shared = {}, Counter()
        for module in self.modules.values():
            for name, value in _weights(module):
                self.of[id(module), name] = value.data
                self.shared[id(value)] += 1

    def move_back(self) -> None:
        """Lets each parameter hold what lies in its place, where peft was stopped and has left it with another."""
        for module in self.modules.values():
            for name, value in _weights(module):
                value.data = self.of[id(module), name]

    def find(self, name: str) -> tuple[nn.Module, str]:
        """The module that has the parameter of this name, and what that calls it."""
        module, _, last = name.rpartition(".")
        return self.modules[module], last


def _weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The module's own, shared ones too."""
    return ((name, value) for name, value in module._parameters.items() if value is not None)


def _cause(error: Exception) -> str:
    """In one sentence. torch names what it could not load from its second line on."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0]
    return line.split(". ")[0][:200]


def _unwrap(model: nn.Module, layer: type, wrapper: type) -> None:
    """Take away all that peft put around modules, also where it was stopped half-way."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            base = child.original_module if isinstance(child, wrapper) else child
            while isinstance(base, layer):
                base = base.get_base_layer()
            if base is not child:
                setattr(parent, name, base)
    vars(model).pop("peft_config", None)
