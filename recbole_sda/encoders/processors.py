"""transformers' own processors, without the part that reads videos.

A processor puts a family's placeholders into the prompt, as many as a picture or recording takes, and makes the
tensors that go with them. Those of most families want a video processor as well, which needs torchvision; no
item here is a video, so they do without. Pictures go through PIL.
"""

from functools import cache

import transformers
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, ProcessorMixin

VIDEO = "video_processor"
LOADERS = {
    "tokenizer": AutoTokenizer.from_pretrained,
    "image_processor": AutoImageProcessor.from_pretrained,
    "feature_extractor": AutoFeatureExtractor.from_pretrained,
}
OPTIONS = {"image_processor": {"backend": "pil"}}


@cache
def processor_class(name: str) -> type[ProcessorMixin]:
    """transformers' class of that name; it takes ``video_processor=None`` and loads none from a folder."""
    original = getattr(transformers, name)
    return type(name, (_WithoutVideo, original), {"__module__": original.__module__})


class _WithoutVideo:
    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name == VIDEO and argument is None:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)

    @classmethod
    def _get_arguments_from_pretrained(cls, name, processor_dict=None, **source):
        return [
            None if part == VIDEO else LOADERS[part](name, **OPTIONS.get(part, {}), **source)
            for part in cls.get_attributes()
        ]
