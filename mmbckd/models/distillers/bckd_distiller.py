import copy
import difflib
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from mmengine.model import BaseModel
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.registry import MODELS
from torch import nn

from ..connectors import ContextConnector, HierarchicalBoundaryConnector
from ..losses import BoundaryAffinityLoss, ContextRelationLoss
from ..task_modules.recorders import recorded_modules

Source = str | Sequence[str] | dict


@MODELS.register_module()
class BCKDDistiller(ConfigurableDistiller):
    """Boundary and context knowledge distillation from a short config.

    It is a :class:`ConfigurableDistiller`, takes all of its arguments, and
    adds the recorders, connectors, losses and mappings that ``boundary`` and
    ``context`` stand for. Other distillation losses can be listed beside them
    in MMRazor's own form. The losses are logged as ``distill.loss_bd`` and
    ``distill.loss_cd``.

    A module whose data is taken (``student``, ``teacher`` below) is given as

    - its name: what it puts out,
    - a list of names: the list of what they put out,
    - a recorder config of MMRazor, for anything else, such as
      ``dict(type='ModuleInputs', source='decode_head.conv_seg')``, with
      ``record_idx`` and ``data_idx`` where a module runs more than once or
      has several outputs.

    Args:
        boundary (dict, optional): Boundary distillation.

            - student: the hierarchical features, such as ``'backbone'``.
              Their channels are read off the model by running it on a blank
              image; ``in_channels`` spares that.
            - teacher: class logits or feature maps. For ``source='label'``
              a name is that of the truth: ``'gt_sem_seg'``, which is the
              default, or ``'gt_instances'``, by which two pixels are alike
              only in the same instance, see :class:`GroundTruthRecorder`.
            - in_channels, channels, num_groups: see
              :class:`HierarchicalBoundaryConnector`.
            - source, radius, tau, ignore_index, loss_weight: see
              :class:`BoundaryAffinityLoss`.
        context (dict, optional): Context distillation.

            - student, teacher: feature maps. Channels may differ.
            - max_tokens: see :class:`ContextConnector`.
            - tau, exclude_self, center, block_size, loss_weight: see
              :class:`ContextRelationLoss`.
        kwargs: See :class:`ConfigurableDistiller`.

    Raises:
        ValueError: If a short form has an unknown or missing key, if a name
            that it adds is taken, or (when the models are known) if a module
            does not exist.

    Examples:
        >>> distiller = dict(
        ...     type='BCKDDistiller',
        ...     boundary=dict(
        ...         student='backbone', teacher='decode_head.conv_seg'),
        ...     context=dict(
        ...         student='decode_head.bottleneck',
        ...         teacher='decode_head.bottleneck'))
    """

    def __init__(
        self,
        boundary: dict | None = None,
        context: dict | None = None,
        **kwargs,
    ) -> None:
        long_form = copy.deepcopy(kwargs)
        if boundary is not None:
            long_form = _joined(long_form, _expand_boundary(boundary))
        if context is not None:
            long_form = _joined(long_form, _expand_context(context))
        if not long_form.get('distill_losses'):
            raise ValueError(
                'BCKDDistiller has no loss to compute: give `boundary`, '
                '`context`, or `distill_losses` in the form of '
                'ConfigurableDistiller.'
            )
        super().__init__(**long_form)

    def prepare_from_student(self, model: BaseModel) -> None:
        """Hook the student, and build what depends on its channels."""
        _check_sources(self.student_recorders.recorders, model, 'student')
        super().prepare_from_student(model)
        for mapping in self.loss_forward_mappings.values():
            for record in mapping.values():
                connector = (
                    self.connectors[record['connector']]
                    if record.get('connector')
                    else None
                )
                if (
                    isinstance(connector, HierarchicalBoundaryConnector)
                    and connector.in_channels is None
                ):
                    connector.set_in_channels(
                        self._probe_channels(model, record)
                    )

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Hook the teacher."""
        _check_sources(self.teacher_recorders.recorders, model, 'teacher')
        super().prepare_from_teacher(model)

    def get_record(
        self, recorder: str, from_student: bool, *args, **kwargs
    ) -> Any:
        """Return a record of this step, see :class:`ConfigurableDistiller`.

        Raises:
            RuntimeError: If nothing was recorded.
        """
        manager = (
            self.student_recorders if from_student else self.teacher_recorders
        )
        if not manager.get_recorder(recorder).data_buffer:
            who = 'student' if from_student else 'teacher'
            raise RuntimeError(
                f'The recorder "{recorder}" of the {who} expected '
                f'"{manager.get_recorder(recorder).source}" to run, but it '
                f"did not run in the {who}'s forward. Record a module that "
                'does'
                + (
                    '.'
                    if from_student
                    else ", or set `teacher_forward='loss'` of "
                    'FrozenTeacherDistill if it runs only there.'
                )
            )
        return super().get_record(recorder, from_student, *args, **kwargs)

    def compute_distill_losses(self) -> dict[str, torch.Tensor]:
        """Compute the losses, then let go of what was recorded for them."""
        losses = super().compute_distill_losses()
        for manager in (self.student_recorders, self.teacher_recorders):
            for recorder in manager.recorders.values():
                recorder.reset_data_buffer()
        return losses

    def _probe_channels(self, model: BaseModel, record: dict) -> list[int]:
        """Channels of a record, read off a blank image."""
        recorder = self.student_recorders.get_recorder(record['recorder'])
        training = {m: m.training for m in model.modules()}
        device = next(model.parameters()).device

        # What comes after the recorded modules need not run, and could not
        # in heads that want data samples.
        awaited = {model.get_submodule(n) for n in recorded_modules(recorder)}

        def stop(module: nn.Module, *_) -> None:
            awaited.discard(module)
            if not awaited:
                raise _Recorded

        hooks = [m.register_forward_hook(stop) for m in list(awaited)]
        model.eval()
        try:
            with torch.no_grad():
                recorder.__enter__()
                model(torch.zeros(1, 3, 128, 128, device=device))
        except _Recorded:
            pass
        except Exception as e:
            raise ValueError(
                'The channels of '
                f'"{recorder.source}" could not be read off the student by '
                f'running it on a blank image ({type(e).__name__}: {e}). Set '
                '`in_channels` of the boundary term.'
            ) from e
        finally:
            recorder.__exit__(None, None, None)
            for hook in hooks:
                hook.remove()
            for module, mode in training.items():
                module.training = mode
        features = self.get_record(
            **{k: v for k, v in record.items() if k != 'connector'}
        )
        recorder.reset_data_buffer()
        if isinstance(features, torch.Tensor):
            features = [features]
        return [f.shape[1] for f in features]


class _Recorded(Exception):
    """Ends a forward once its records are there."""


def _joined(long_form: dict, addition: dict) -> dict:
    """The long form with the parts of a short form added."""
    joined = dict(long_form)
    for part, items in addition.items():
        present = long_form.get(part) or {}
        taken = sorted(set(present) & set(items))
        if taken:
            raise ValueError(
                f'BCKDDistiller adds {taken} to `{part}`, but the config has '
                'these already. Rename yours, or leave the short form out.'
            )
        joined[part] = {**present, **items}
    return joined


def _arguments(cls: type) -> list[str]:
    """Names of what a class is built with."""
    return list(signature(cls).parameters)


def _component(cls: type, cfg: dict) -> dict:
    """The config of a connector or loss, from what a short form sets."""
    given = {name: cfg[name] for name in _arguments(cls) if name in cfg}
    return dict(type=f'mmrazor.{cls.__name__}', **given)


def _check_keys(term: str, cfg: dict, options: list[str]) -> None:
    """Refuse a short form that has a key too many or too few."""
    for side in ('student', 'teacher'):
        if side not in cfg:
            raise ValueError(
                f'`{term}` of BCKDDistiller needs `{side}`, the name of a '
                f'module of the {side}, but got only {sorted(cfg)}.'
            )
    known = ['student', 'teacher', *options]
    unknown = sorted(set(cfg) - set(known))
    if unknown:
        raise ValueError(
            f'`{term}` of BCKDDistiller does not know {unknown}. '
            f'It knows: {", ".join(known)}.'
        )


def _recorder(term: str, side: str, source: Source) -> tuple:
    """The recorder of a side, by name, and the mapping to its record."""
    if isinstance(source, str):
        source = dict(type='ModuleOutputs', source=source)
    elif not isinstance(source, dict):
        source = dict(type='ModuleListOutputs', source=list(source))
    recorder, record = {}, {}
    if source['type'] == 'ModuleInputs':
        # What is recorded is the tuple of a call's arguments.
        record['data_idx'] = 0
    for key, value in source.items():
        part = record if key in ('record_idx', 'data_idx') else recorder
        part[key] = value
    name = f'{term}_{side}'
    # The truth comes with every call of the student, but not with every one
    # of the teacher, which may run its backbone and neck only.
    from_student = side == 'student' or recorder['type'] == 'GroundTruth'
    record.update(recorder=name, from_student=from_student)
    return {name: recorder}, record


def _expand_boundary(cfg: dict) -> dict:
    teacher = cfg.get('teacher', 'gt_sem_seg')
    if cfg.get('source') == 'label':
        if isinstance(teacher, str):
            teacher = dict(
                type='GroundTruth',
                source=teacher,
                ignore_index=cfg.get('ignore_index', 255),
            )
        cfg = dict(cfg, teacher=teacher)
    _check_keys(
        'boundary',
        cfg,
        [
            *_arguments(HierarchicalBoundaryConnector),
            *_arguments(BoundaryAffinityLoss),
        ],
    )
    student_recorder, student_record = _recorder(
        'boundary', 'student', cfg['student']
    )
    teacher_recorder, teacher_record = _recorder(
        'boundary', 'teacher', cfg['teacher']
    )
    if teacher_record['from_student']:
        student_recorder = {**student_recorder, **teacher_recorder}
        teacher_recorder = {}
    return dict(
        student_recorders=student_recorder,
        teacher_recorders=teacher_recorder,
        connectors=dict(
            boundary_head=_component(HierarchicalBoundaryConnector, cfg)
        ),
        distill_losses=dict(loss_bd=_component(BoundaryAffinityLoss, cfg)),
        loss_forward_mappings=dict(
            loss_bd=dict(
                preds_S=dict(connector='boundary_head', **student_record),
                preds_T=teacher_record,
            )
        ),
    )


def _expand_context(cfg: dict) -> dict:
    _check_keys(
        'context', cfg, ['max_tokens', *_arguments(ContextRelationLoss)]
    )
    student_recorder, student_record = _recorder(
        'context', 'student', cfg['student']
    )
    teacher_recorder, teacher_record = _recorder(
        'context', 'teacher', cfg['teacher']
    )
    connectors = {}
    if cfg.get('max_tokens') is not None:
        connectors = dict(context_pool=_component(ContextConnector, cfg))
        student_record['connector'] = 'context_pool'
        teacher_record['connector'] = 'context_pool'
    return dict(
        student_recorders=student_recorder,
        teacher_recorders=teacher_recorder,
        connectors=connectors,
        distill_losses=dict(loss_cd=_component(ContextRelationLoss, cfg)),
        loss_forward_mappings=dict(
            loss_cd=dict(preds_S=student_record, preds_T=teacher_record)
        ),
    )


def _check_sources(
    recorders: dict[str, BaseRecorder], model: nn.Module, who: str
) -> None:
    """Name the nearest modules where one does not exist."""
    names = [name for name, _ in model.named_modules() if name]
    for key, recorder in recorders.items():
        for source in recorded_modules(recorder):
            if source in names:
                continue
            near = difflib.get_close_matches(source, names, n=5, cutoff=0.4)
            tops = [name for name, _ in model.named_children()]
            hint = (
                f'the nearest names are {near}'
                if near
                else f'its top modules are {tops}'
            )
            raise ValueError(
                f'The {who} ({type(model).__name__}) has no module '
                f'"{source}", which the recorder "{key}" names: {hint}.'
            )
