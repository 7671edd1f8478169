import logging
import os.path as osp
from collections.abc import Iterable
from contextlib import nullcontext
from inspect import signature
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader
from mmengine.structures import BaseDataElement
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.utils._pytree import tree_map_only

from ..quantization import FakeQuantization
from ..task_modules.recorders import (
    InstanceFeaturesRecorder,
    recorded_modules,
)
from ..utils import build_model, num_classes_of
from .teacher_inputs import TeacherInputs

# What heads are called that may take data samples: mmseg's, and that of
# mmdet's MaskFormer and Mask2Former.
_HEADS = ('decode_head', 'panoptic_head')


@MODELS.register_module()
class FrozenTeacherDistill(SingleTeacherDistill):
    """Distillation from one teacher that is frozen throughout.

    It differs from MMRazor's ``SingleTeacherDistill`` in what the teacher
    does, and works with any distiller:

    - all of the teacher is in eval mode, not its batch norms only, so that
      dropout and stochastic depth do not make the targets noisy;
    - the teacher computes no loss, since nobody reads it, no heads if
      nothing is recorded of them, and runs in inference mode, or not at all
      if nothing of it is recorded or delivered;
    - it gets the images in its own normalization, that of its data
      preprocessor, see :class:`TeacherInputs`;
    - its checkpoint has to fit it: weights that are missing would silently
      stay random;
    - student and teacher have to predict as many classes.

    Args:
        architecture (dict | str | BaseModel): The student: its config, the
            path of a config file that has it under ``model`` (a file, or
            ``'mmseg::pspnet/…'``), or the built model.
        teacher (dict | str | BaseModel): The teacher, in the same forms.
        distiller (dict): Config of the distiller.
        teacher_ckpt (str | None): The teacher's checkpoint. Defaults to
            None: the teacher has been built with its weights.
        teacher_forward (str | None): What the teacher runs:
            ``'extract_feat'`` (its backbone and neck), ``'decode_head'`` or
            ``'panoptic_head'`` (these and the head of that name, called with
            data samples without truth), or a mode in which it is called,
            ``'tensor'`` or ``'loss'``. Defaults to None: ``'loss'`` if the
            distiller delivers data between the models, since what is
            delivered is mostly part of the losses, else ``'extract_feat'``
            if the distiller records modules of backbone and neck only, else
            the name of such a head if it takes data samples, as
            Mask2Former's does, else ``'tensor'``.
        data_preprocessor (dict | None): For a student whose config has
            none. Defaults to None. mmengine passes the config's top level
            here; as for a student alone, the student's own comes first.
        quantize (dict | None): Fake quantization in the student's forward:
            arguments of :class:`FakeQuantization` besides the model, of which
            there may be none. It wants a ``CalibrationHook``. Defaults to
            None: the student computes in float.
        kwargs: See ``SingleTeacherDistill``.

    Raises:
        FileNotFoundError: If ``teacher_ckpt`` does not exist.
        ValueError: If ``teacher_ckpt`` does not fit the teacher, if student
            and teacher differ in their number of classes, or if the teacher
            is to be trained.
    """

    def __init__(
        self,
        architecture: dict | str | BaseModel,
        teacher: dict | str | BaseModel,
        distiller: dict,
        teacher_ckpt: str | None = None,
        teacher_forward: str | None = None,
        teacher_trainable: bool = False,
        data_preprocessor: dict | None = None,
        quantize: dict | None = None,
        **kwargs,
    ) -> None:
        if teacher_trainable:
            raise ValueError(
                'Expected FrozenTeacherDistill with a frozen teacher, but got '
                'teacher_trainable=True. Use SingleTeacherDistill to train it.'
            )
        forwards = ('extract_feat', *_HEADS, 'tensor', 'loss')
        if teacher_forward not in (None, *forwards):
            raise ValueError(
                f'Expected `teacher_forward` to be one of {forwards} or None, '
                f'but got {teacher_forward!r}.'
            )
        architecture = build_model(architecture, data_preprocessor)
        teacher = build_model(teacher)
        _check_classes(architecture, teacher)
        if teacher_ckpt is not None:
            _load_teacher(teacher, teacher_ckpt)
        elif not teacher.is_init:
            print_log(
                'The teacher has no `teacher_ckpt`: unless its own config '
                'loads weights, it teaches what random weights say.',
                logger='current',
                level=logging.WARNING,
            )
        super().__init__(
            distiller={'_scope_': 'mmrazor', **distiller},
            teacher=teacher,
            architecture=architecture,
            **kwargs,
        )
        self.teacher_ckpt = teacher_ckpt
        self.teacher_inputs = TeacherInputs(
            self.data_preprocessor, teacher.data_preprocessor
        )
        self.teacher_forward = teacher_forward or (
            'loss'
            if self.distiller.deliveries.deliveries
            else 'extract_feat'
            if self._only_features_are_recorded()
            else head_with_samples(teacher) or 'tensor'
        )
        # After the distiller, so that what it records is quantized.
        if quantize is not None:
            self.quantization = FakeQuantization(architecture, **quantize)

    def loss(
        self,
        batch_inputs: torch.Tensor,
        data_samples: list[BaseDataElement] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses of the student and of the distiller, by name."""
        losses = dict()
        distiller = self.distiller
        distilling = not self.distillation_stopped
        if distiller.deliveries.deliveries or (
            distilling and distiller.teacher_recorders.recorders
        ):
            self.run_teacher(batch_inputs, data_samples)

        distiller.set_deliveries_override(True)
        with (
            distiller.student_recorders if distilling else nullcontext(),
            distiller.deliveries,
            torch.set_grad_enabled(self.student_trainable),
        ):
            student_losses = self.student(
                batch_inputs, data_samples, mode='loss'
            )
        if self.calculate_student_loss:
            losses.update(add_prefix(student_losses, 'student'))

        if distilling:
            distilled = distiller.compute_distill_losses()
            if self.training and self.student_trainable:
                _check_gradients(distilled)
            losses.update(add_prefix(distilled, 'distill'))
        return losses

    def run_teacher(
        self,
        batch_inputs: torch.Tensor,
        data_samples: list[BaseDataElement] | None,
    ) -> None:
        """Let the teacher run, for what is recorded and delivered of it.

        Args:
            batch_inputs (Tensor): As the student gets them, (N, 3, H, W).
            data_samples (list[BaseDataElement] | None): Those of the images.
        """
        distiller = self.distiller
        # What is delivered becomes part of the student's graph.
        delivers = bool(distiller.deliveries.deliveries)
        distiller.set_deliveries_override(False)
        inputs = self.teacher_inputs(batch_inputs, data_samples)
        for recorder in distiller.teacher_recorders.recorders.values():
            if isinstance(recorder, InstanceFeaturesRecorder):
                recorder.see(data_samples)
        with (
            distiller.teacher_recorders,
            distiller.deliveries,
            torch.no_grad() if delivers else torch.inference_mode(),
        ):
            if self.teacher_forward == 'extract_feat':
                self.teacher.extract_feat(inputs)
            elif self.teacher_forward in _HEADS:
                run_head(
                    self.teacher, self.teacher_forward, inputs, data_samples
                )
            else:
                self.teacher(inputs, data_samples, mode=self.teacher_forward)
        for recorder in distiller.teacher_recorders.recorders.values():
            _leave_inference_mode(recorder)

    def set_module_inplace_false(
        self, architecture: nn.Module, varstr: str
    ) -> None:
        """Have no activation function overwrite what is recorded before it.

        MMRazor's own stops at a ``ConvModule``, above its activation.

        Args:
            architecture (nn.Module): The student or the teacher.
            varstr (str): Its name, of no use here.
        """
        modules: Iterable[Any] = architecture.modules()
        for module in modules:
            if hasattr(module, 'inplace'):
                module.inplace = False

    def _only_features_are_recorded(self) -> bool:
        recorders = self.distiller.teacher_recorders.recorders.values()
        return hasattr(self.teacher, 'extract_feat') and all(
            # Which runs its head by itself, on the features.
            isinstance(recorder, InstanceFeaturesRecorder)
            or name.partition('.')[0] in ('backbone', 'neck')
            for recorder in recorders
            for name in recorded_modules(recorder) or ['']
        )

    def train(self, mode: bool = True) -> 'FrozenTeacherDistill':
        """Set the mode of all but the teacher, which stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self


def _leave_inference_mode(recorder: BaseRecorder) -> None:
    """Copy what was recorded, so that a loss may save it for backward."""
    recorder.data_buffer[:] = tree_map_only(
        torch.Tensor,
        lambda t: t.clone() if t.is_inference() else t,
        recorder.data_buffer,
    )


def head_with_samples(model: nn.Module) -> str | None:
    """The name of the head that is called with data samples, if there is one.

    mmseg's mode 'tensor' gives it none, and mmdet's runs it past its hooks.
    """
    for name in _HEADS:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module) and (
            'batch_data_samples' in signature(head.forward).parameters
        ):
            return name
    return None


def run_head(
    model: BaseModel,
    name: str,
    inputs: torch.Tensor,
    data_samples: list[BaseDataElement] | None,
) -> None:
    """Run backbone, neck and a head of :func:`head_with_samples`.

    Args:
        model (BaseModel): The model.
        name (str): The head's name.
        inputs (Tensor): As the model gets them, (N, 3, H, W).
        data_samples (list[BaseDataElement] | None): Those of the images,
            whose truth the head does not get.
    """
    # mmseg's heads add the size in inference.
    size = tuple(inputs.shape[-2:])
    without_truth = [
        type(sample)(metainfo={**sample.metainfo, 'batch_input_shape': size})
        for sample in data_samples or ()
    ]
    model.get_submodule(name)(model.extract_feat(inputs), without_truth)


def _check_gradients(losses: dict[str, torch.Tensor]) -> None:
    constant = [k for k, v in losses.items() if not v.requires_grad]
    if constant and torch.is_grad_enabled():
        raise ValueError(
            f'Expected {constant[0]} to train the student, but no gradient '
            'reaches it: what it records of the student is frozen '
            '(`frozen_stages`) or recomputed in the backward pass '
            '(`with_cp`). Name a module that comes later.'
        )


def _check_classes(student: nn.Module, teacher: nn.Module) -> None:
    student_classes = num_classes_of(student)
    teacher_classes = num_classes_of(teacher)
    if (
        None not in (student_classes, teacher_classes)
        and student_classes != teacher_classes
    ):
        raise ValueError(
            'Expected student and teacher to predict the same classes, but '
            f'got num_classes={student_classes} of the student and '
            f'num_classes={teacher_classes} of the teacher. Set '
            '`num_classes` of their heads to that of the data set, and use a '
            'teacher trained on it.'
        )


def _load_teacher(teacher: BaseModel, path: str) -> None:
    """Load a teacher's checkpoint, all of it."""
    if '://' not in path and not osp.isfile(path):
        raise FileNotFoundError(
            'Expected `teacher_ckpt` to be the checkpoint of a trained '
            f'teacher, but {path} does not exist (looked up from '
            f'{osp.abspath(".")}). '
            'Train the teacher first, or correct the path.'
        )
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    state_dict = checkpoint.get('state_dict', checkpoint)
    if any(k.startswith('architecture.') for k in state_dict):
        raise ValueError(
            f'Expected `teacher_ckpt` to hold a plain model, but {path} holds '
            'a whole distillation. Use the *_student.pth beside it, or make '
            'one: mim run mmbckd convert_kd_ckpt_to_student CHECKPOINT.'
        )
    consume_prefix_in_state_dict_if_present(state_dict, 'module.')
    try:
        missing, unexpected = teacher.load_state_dict(state_dict, strict=False)
    except RuntimeError as e:
        raise ValueError(
            f'`teacher_ckpt` {path} is not of the teacher '
            f'({type(teacher).__name__}): {e}'
        ) from None
    missing = [k for k in missing if not k.endswith('num_batches_tracked')]
    if missing:
        raise ValueError(
            f'`teacher_ckpt` {path} is not of the teacher '
            f'({type(teacher).__name__}): {len(missing)} of its '
            f'{len(teacher.state_dict())} weights are missing, such as '
            f'{missing[:3]}; the checkpoint has names such as '
            f'{list(state_dict)[:3]}. Use the config that it was trained with.'
        )
    if unexpected:
        print_log(
            f'{len(unexpected)} entries of `teacher_ckpt` {path} are not '
            f'weights of the teacher and were left out: {unexpected[:5]} …',
            logger='current',
            level=logging.WARNING,
        )
    broken = [
        k for k, v in teacher.state_dict().items() if not v.isfinite().all()
    ]
    if broken:
        raise ValueError(
            f'`teacher_ckpt` {path} has NaN or infinity in {len(broken)} '
            f'weights, such as {broken[:3]}: its training diverged. Use an '
            'earlier checkpoint of the teacher.'
        )
    # mmengine is not to initialize what was loaded.
    teacher._is_init = True
