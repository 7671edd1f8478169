from typing import Any

from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.registry import TASK_UTILS
from torch import nn

from ....functional import mask_class_logits, mask_query_logits


@TASK_UTILS.register_module()
class MaskClassLogitsRecorder(ModuleOutputsRecorder):
    """Record the class logits of a head that classifies masks, such as that
    of MaskFormer and Mask2Former.

    They are those of its last decoder layer, at the size of its masks: see
    :func:`mmbckd.functional.mask_class_logits`.

    Args:
        source (str): Name of the head, ``'decode_head'`` in mmseg. It puts
            out the class logits and the mask logits of its queries, both for
            each of its decoder layers.

    Raises:
        ValueError: If it puts out something else.

    Shape:
        - records: (N, K, h, w)
    """

    logits = staticmethod(mask_class_logits)

    def forward_hook(
        self, module: nn.Module, inputs: tuple, outputs: Any
    ) -> None:
        """Keep the logits of what the head puts out."""
        if not self.recording:
            return
        if not isinstance(outputs, (list, tuple)) or len(outputs) != 2:
            name = type(self).__name__.removesuffix('Recorder')
            raise ValueError(
                f'Expected "{self.source}" to put out class logits and mask '
                f'logits of queries, for {name}, but got '
                f'{type(outputs).__name__} of {type(module).__name__}. Name '
                'the head of a model such as Mask2Former, or record a module '
                "of another, such as 'decode_head.conv_seg', by its name."
            )
        class_logits, mask_logits = (each[-1] for each in outputs)
        self.data_buffer.append(self.logits(class_logits, mask_logits))


@TASK_UTILS.register_module()
class MaskQueryLogitsRecorder(MaskClassLogitsRecorder):
    """Record the instance logits of a head that classifies masks, such as that
    of MaskFormer and Mask2Former: by them each pixel belongs to one of the
    queries, or to none.

    They are those of its last decoder layer, at the size of its masks: see
    :func:`mmbckd.functional.mask_query_logits`. With ``source='semantic'`` of
    the boundary term, the affinity of two pixels is the probability that they
    belong to the same instance.

    Args:
        source (str): Name of the head, ``'panoptic_head'`` in mmdet. It puts
            out the class logits and the mask logits of its queries, both for
            each of its decoder layers.

    Raises:
        ValueError: If it puts out something else.

    Shape:
        - records: (N, 1 + Q, h, w), the first of no instance

    Example:
        >>> boundary = dict(
        ...     student='backbone',
        ...     teacher=dict(type='MaskQueryLogits', source='panoptic_head'))
    """

    logits = staticmethod(mask_query_logits)
