from typing import Any

from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class FeatureExtractor(BaseModel):
    """A backbone alone, for a teacher that never saw the classes.

    Such as a self-supervised ViT: its features are a teacher's for
    ``source='feature'`` of the boundary term, and for the context term. Since
    it predicts nothing, its classes are not compared with the student's.

    Args:
        backbone (dict): Config of the backbone.
        data_preprocessor (dict | None): What normalizes its images; from it
            the teacher's input is made of the student's, see
            :class:`TeacherInputs`. Defaults to None: images are taken as they
            come.
        init_cfg (dict | None): See mmengine's ``BaseModule``. Defaults to
            None.

    Raises:
        ValueError: If it is called for anything but features.

    Shape:
        - inputs: (N, 3, H, W)
        - returns: what the backbone puts out

    Example:
        >>> teacher = dict(
        ...     type='mmrazor.FeatureExtractor',
        ...     data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
        ...     backbone=dict(type='mmseg.ResNet', depth=18))
    """

    def __init__(
        self,
        backbone: dict,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)

    def extract_feat(self, inputs: Tensor) -> Any:
        """Run the backbone."""
        return self.backbone(inputs)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Run the backbone, in the one mode that needs no head."""
        if mode != 'tensor':
            raise ValueError(
                "Expected FeatureExtractor to be called with mode='tensor', "
                f'but got {mode!r}: it has no head. Have the distiller record '
                'its backbone, and leave `teacher_forward` out.'
            )
        return self.extract_feat(inputs)
