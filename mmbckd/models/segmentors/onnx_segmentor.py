import json
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.models import BaseSegmentor, EncoderDecoder
from mmseg.registry import MODELS
from numpy import ndarray
from torch import Tensor

from ...engine.checkpoints import ONNX_KEY, ONNX_MODELS


@MODELS.register_module()
class ONNXSegmentor(EncoderDecoder):
    """An exported segmentor, run by ONNX Runtime or OpenVINO on the CPU.

    It stands in a config in place of the network, so that ``mim test`` gives
    the metrics of the very file that ships. Its checkpoint is the ONNX file:

    .. code-block:: bash

        mim test mmsegmentation CONFIG.py --checkpoint STUDENT.onnx

    ``mim run mmbckd export_student`` writes such a config beside the file.

    Args:
        backend (str): What runs the file, 'onnxruntime' or 'openvino'.
            Defaults to 'onnxruntime'.
        data_preprocessor (dict, optional): It must give what the file takes:
            without ``mean`` and ``std`` if the file normalizes its images
            itself. Defaults to None.
        test_cfg (dict, optional): See ``EncoderDecoder``. The windows of
            ``mode='slide'`` must have the file's size. Defaults to None:
            ``dict(mode='whole')``.
        init_cfg (dict, optional): See ``BaseModule``. Defaults to None.

    Raises:
        ImportError: When an ONNX file is loaded, if the backend is not
            installed.
        ValueError: When one is loaded, if the backend is unknown, or the
            file does not take what the ``data_preprocessor`` gives; when an
            image is predicted, if it is not of the file's size.
    """

    def __init__(
        self,
        backend: str = 'onnxruntime',
        data_preprocessor: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        # There is no network to build.
        BaseSegmentor.__init__(self, data_preprocessor, init_cfg)
        self.train_cfg = None
        self.test_cfg = ConfigDict(test_cfg or dict(mode='whole'))
        self.backend = backend
        self.run: Callable[[ndarray], list[ndarray]] | None = None
        ONNX_MODELS.add(self)

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        """Open the ONNX file that a checkpoint is."""
        from ...deploy.backends import open_onnx
        from ...deploy.optional import require

        if prefix + ONNX_KEY not in state_dict:
            raise ValueError(
                'Expected an ONNX file as the checkpoint of an '
                'ONNXSegmentor, but got the weights of a PyTorch '
                'model. Export it first: mim run mmbckd export_student '
                'CONFIG CHECKPOINT'
            )
        content = state_dict[prefix + ONNX_KEY].cpu().numpy().tobytes()
        self.run = open_onnx(content, self.backend)
        (onnx,) = require('onnx')
        proto = onnx.load_from_string(content)
        found = {entry.key: entry.value for entry in proto.metadata_props}
        try:
            self.file_input, output = (
                json.loads(found[key]) for key in ('input', 'output')
            )
            self.gives_labels = output['kind'] == 'labels'
            self.num_classes = output['num_classes']
            self.align_corners = output['align_corners']
            self.decode_head = SimpleNamespace(threshold=output['threshold'])
        except (KeyError, ValueError):
            raise ValueError(
                'Expected an ONNX file of a segmentor that was written by '
                '`mim run mmbckd export_student`, with its `input` and '
                '`output` described in its metadata, but this one has '
                f'{sorted(found)}. Export it again.'
            ) from None
        image, result = (
            value[0].type.tensor_type.shape.dim
            for value in (proto.graph.input, proto.graph.output)
        )
        self.takes_batches = bool(image[0].dim_param)
        self.size = [side.dim_value for side in image[2:]]
        is_uint8 = self.file_input['kind'] == 'uint8'
        self.dtype = torch.uint8 if is_uint8 else torch.float32
        self.out_channels = (
            self.num_classes if self.gives_labels else result[1].dim_value
        )
        self._check_preprocessor()

    def _check_preprocessor(self) -> None:
        """Check that the file takes what ``data_preprocessor`` gives."""
        from ...deploy.interface import Normalization

        wanted = Normalization(self.file_input['channel_order'], None, None)
        if self.file_input['kind'] == 'normalized':
            wanted = wanted._replace(
                mean=self.file_input.get('mean'),
                std=self.file_input.get('std'),
            )
        given = Normalization.of(self.data_preprocessor)
        if given != wanted:
            raise ValueError(
                'Expected a `data_preprocessor` that gives what the ONNX '
                f'file takes, {wanted}, but it gives {given}. Take the config '
                'that export_student wrote beside the file, or set its '
                '`mean`, `std` and `bgr_to_rgb`.'
            )

    def encode_decode(
        self, inputs: Tensor, batch_img_metas: list[dict]
    ) -> Tensor:
        """Run the file.

        Args:
            inputs (Tensor): Preprocessed images, (N, 3, H, W).
            batch_img_metas (list[dict]): Not used.

        Returns:
            Tensor: Logits (N, K, H, W). Of a file that gives labels, 1 for
            the class of a pixel and 0 for the others.

        Raises:
            RuntimeError: If no ONNX file was loaded.
            ValueError: If the images are not of the file's size.
        """
        if self.run is None:
            raise RuntimeError(
                'Expected an ONNX file to run, but none was loaded. Name it '
                'as the checkpoint: --checkpoint STUDENT.onnx'
            )
        if list(inputs.shape[2:]) != self.size:
            size, got = (
                'x'.join(map(str, s)) for s in (self.size, inputs.shape[2:])
            )
            raise ValueError(
                f'Expected images of {size}, the size of the ONNX file, but '
                f'got {got}. Give the test pipeline '
                f"dict(type='Resize', scale=({self.size[1]}, {self.size[0]}), "
                'keep_ratio=False), or export with --shape '
                f'{got.replace("x", " ")}.'
            )
        images = inputs.to(self.dtype).cpu()
        parts = images.split(len(images) if self.takes_batches else 1)
        found = torch.cat(
            [torch.from_numpy(self.run(x.numpy())[0]) for x in parts]
        ).to(inputs.device)
        if self.gives_labels:
            found = F.one_hot(found.long(), self.num_classes)
            return found.permute(0, 3, 1, 2).float()
        return found

    def _forward(self, inputs: Tensor, data_samples: list | None = None):
        """Return the logits."""
        return self.encode_decode(inputs, [])

    def loss(self, inputs: Tensor, data_samples: list) -> dict:
        """Raise, since an ONNX file has no gradients.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            'Expected to be tested only: an ONNX file cannot be trained. '
            'Train the PyTorch model, and export it again.'
        )
