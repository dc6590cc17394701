"""The prompt as the model wants it: in its chat template, with a place for the picture.

No model names here: the ways that checkpoints use are tried on a small picture, in order, and the first whose token
ids hold the picture's token is the model's own.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from caption.engine import EngineOptions
from caption.engine.checkpoint import first_line, read_config
from caption.engine.errors import DoesNotLoad
from caption.engine.families import ENDED_PROMPTS

# "labels" are for training (PaliGemma makes them whenever it sees a prompt).
NOT_FOR_GENERATION = {"labels"}


class Prompter:
    """Turns picture and prompt into the model's inputs, through a processor of transformers.

    processor: as load_processor returns it. image_token_id: the config's; None where the model has none (BLIP, whose
    text decoder sees the picture by cross attention). prompt: to find the way with. system_prompt: the system's, or
    empty. ended: the tokenizer ends prompts, which are to go on.
    Raises DoesNotLoad, also where there is a system prompt and no chat template to put it into.
    """

    def __init__(
        self, processor, image_token_id: int | None, prompt: str, system_prompt: str = "", ended: bool = False
    ):
        self.processor, self.ended = processor, ended
        self.system_prompt = system_prompt
        self.chat_template = _chat_template(processor)
        if system_prompt and not self.chat_template:
            raise DoesNotLoad("the model has no chat template and so no place for --system-prompt")
        # The same for most pictures, so that the template is filled in once.
        self.place = functools.lru_cache(256)(self._find_way(image_token_id, prompt))

    def __call__(self, image: Image.Image, prompt: str) -> dict[str, np.ndarray]:
        """Return the processor's arrays for one picture."""
        return self._process(image, self.place(prompt))

    def _find_way(self, image_token_id: int | None, prompt: str) -> Callable[[str], str]:
        picture = Image.new("RGB", (64, 64), (127, 127, 127))
        troubles = []
        for place in self._ways():
            try:
                inputs = self._process(picture, place(prompt))
            except Exception as error:  # whatever a template or processor raises: this is not its way
                troubles.append(first_line(error))
                continue
            if image_token_id is None or (inputs["input_ids"] == image_token_id).any():
                return place
        trouble = troubles[0] if troubles else "the picture's token does not show up in it"
        raise DoesNotLoad(f"the processor finds no place for a picture in the prompt {prompt!r}: {trouble}")

    def _ways(self) -> Iterator[Callable[[str], str]]:
        token = getattr(self.processor, "image_token", None)
        token = getattr(token, "content", token)  # BLIP-2 holds an AddedToken
        if self.chat_template:
            yield lambda prompt: self._chat([{"type": "image"}, {"type": "text", "text": prompt}])
            # Templates that come from the language model alone know texts only.
            yield lambda prompt: self._chat(f"{token}\n{prompt}" if token else prompt)
        else:
            yield lambda prompt: prompt
            if token:
                yield lambda prompt: prompt if token in prompt else f"{token}{prompt}"

    def _chat(self, content) -> str:
        messages = [{"role": "user", "content": content}]
        if self.system_prompt:
            system = self.system_prompt if isinstance(content, str) else [{"type": "text", "text": self.system_prompt}]
            messages.insert(0, {"role": "system", "content": system})
        return self.processor.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )

    def _process(self, image: Image.Image, text: str) -> dict[str, np.ndarray]:
        begin = self.processor.tokenizer.bos_token
        # A template may write the first token itself; the tokenizer would set a second one before it.
        once = {"add_special_tokens": False} if self.chat_template and begin and text.startswith(begin) else {}
        made = self.processor(images=[image], text=[text], return_tensors="np", **once)
        made = {name: value for name, value in made.items() if name not in NOT_FOR_GENERATION}
        return _without_end(made, self.processor.tokenizer.sep_token_id) if self.ended else made


def make_prompter(options: EngineOptions, processor) -> Prompter:
    """The one of a run. Raises NotFound and DoesNotLoad."""
    config = read_config(options.model)
    ended = config.get("model_type") in ENDED_PROMPTS
    return Prompter(processor, find_image_token_id(config), options.prompt, options.system_prompt, ended)


def _without_end(inputs: dict[str, np.ndarray], end: int | None) -> dict[str, np.ndarray]:
    ids = inputs["input_ids"]
    if ids[0, -1] != end:
        return inputs
    return {name: value[:, :-1] if value.shape == ids.shape else value for name, value in inputs.items()}


def find_image_token_id(config: dict) -> int | None:
    """The picture's token id in a config.json; None where the model has none."""
    return config.get("image_token_id", config.get("image_token_index"))  # older configs call it an index


def _chat_template(processor) -> str | None:
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template
