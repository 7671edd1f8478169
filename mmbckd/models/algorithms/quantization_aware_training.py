from mmengine.model import BaseModel
from mmrazor.models.algorithms import BaseAlgorithm
from mmrazor.registry import MODELS

from ..quantization import FakeQuantization
from ..utils import build_model


@MODELS.register_module()
class QuantizationAwareTraining(BaseAlgorithm):
    """Fine-tune a model with fake quantization in its forward.

    With a teacher, take ``FrozenTeacherDistill`` with the same ``quantize``.
    The ranges of the activations are fixed by a ``CalibrationHook`` before
    the first iteration.

    Args:
        architecture (dict | str | BaseModel): The model, as that of
            ``FrozenTeacherDistill``. Its float weights come by ``load_from``
            or its ``init_cfg``.
        quantize (dict, optional): Arguments of :class:`FakeQuantization`
            besides the model. Defaults to None: its defaults.
        data_preprocessor (dict, optional): For a model whose config has
            none. Defaults to None.
        init_cfg (dict, optional): See ``BaseModule``. Defaults to None.

    Raises:
        ValueError: See :class:`FakeQuantization`.
    """

    def __init__(
        self,
        architecture: dict | str | BaseModel,
        quantize: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            build_model(architecture, data_preprocessor), init_cfg=init_cfg
        )
        self.quantization = FakeQuantization(
            self.architecture, **(quantize or {})
        )
