import copy
import difflib
from collections.abc import Sequence
from contextlib import suppress
from inspect import signature
from typing import Any

import torch
from mmengine.model import BaseModel
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.registry import MODELS
from torch import nn

from ...functional.boundary_affinity import check_source
from ..connectors import ContextConnector, HierarchicalBoundaryConnector
from ..losses import (
    BoundaryAffinityLoss,
    ContextRelationLoss,
    LogitLoss,
    SemanticAffinityLoss,
)
from ..task_modules.recorders import recorded_modules

Source = str | Sequence[str] | dict

# The classifier of mmseg's heads.
CLASSIFIER = 'decode_head.conv_seg'

# What `teacher` of the boundary term may name for source='label'.
_TRUTHS = ('gt_sem_seg', 'gt_instances')

# What the losses on logits are logged as, by their class; all others are
# loss_logits.
LOGIT_LOSS_NAMES = dict(
    PixelWiseDivergence='loss_kd',
    KLDivergence='loss_kd',
    ChannelWiseDivergence='loss_cwd',
)


@MODELS.register_module()
class BCKDDistiller(ConfigurableDistiller):
    """Boundary and context knowledge distillation from a short config.

    It is a :class:`ConfigurableDistiller`, takes all of its arguments, and
    adds the recorders, connectors, losses and mappings that ``boundary``,
    ``context`` and ``logits`` stand for. Other distillation losses can be
    listed beside them in MMRazor's own form. The losses are logged as
    ``distill.loss_bd`` and ``distill.loss_cd``; that of the logits as
    ``distill.loss_kd`` for per-pixel distillation, ``distill.loss_cwd`` for
    ``ChannelWiseDivergence``, and ``distill.loss_logits`` for any other.

    A module whose data is taken (``student``, ``teacher`` below) is given as

    - its name: what it puts out,
    - a list of names: the list of what they put out,
    - a recorder config of MMRazor, for anything else, such as
      ``dict(type='ModuleInputs', source='decode_head.conv_seg')``, with
      ``record_idx`` and ``data_idx`` where a module runs more than once or
      has several outputs; or of ours, such as
      :class:`MaskClassLogitsRecorder` for the class logits of Mask2Former,
      :class:`MaskQueryLogitsRecorder` for its instances, or
      :class:`InstanceFeaturesRecorder` for the boxes of Mask R-CNN.

    Args:
        boundary (dict | None): Boundary distillation. By ``type``, it is on
            the mask (``'SemanticAffinityLoss'``):

            - student, teacher: class logits, maps of as many classes. Default
              to ``'decode_head.conv_seg'``, the classifier of mmseg's heads.
            - radius, tau, loss_weight: see :class:`SemanticAffinityLoss`.

            or on the features (``'BoundaryAffinityLoss'``, the default):

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

            Defaults to None: none.
        context (dict | None): Context distillation.

            - student, teacher: feature maps. Channels may differ.
            - max_tokens: see :class:`ContextConnector`.
            - tau, exclude_self, center, block_size, loss_weight, warmup: see
              :class:`ContextRelationLoss`.

            Defaults to None: none.
        logits (dict | None): Distillation of the logits.

            - student, teacher: class logits, maps of as many classes. Their
              sizes may differ, see :class:`LogitLoss`. Default to
              ``'decode_head.conv_seg'``.
            - type: any loss of MMRazor's registry that is called with
              ``preds_S`` and ``preds_T``. Defaults to
              ``'PixelWiseDivergence'``, per-pixel distillation: ``dict()``
              is all that it needs.
            - tau, loss_weight and the like: arguments of that loss.

            Defaults to None: none.
        kwargs: See :class:`ConfigurableDistiller`.

    Raises:
        ValueError: If a short form has an unknown or missing key, if a name
            that it adds is taken, or (when the models are known) if a module
            does not exist.

    Example:
        >>> distiller = dict(
        ...     type='BCKDDistiller',
        ...     boundary=dict(
        ...         student='backbone', teacher='decode_head.conv_seg'),
        ...     context=dict(
        ...         student='decode_head.bottleneck',
        ...         teacher='decode_head.bottleneck'),
        ...     logits=dict(type='ChannelWiseDivergence', loss_weight=5.0))
    """

    def __init__(
        self,
        boundary: dict | None = None,
        context: dict | None = None,
        logits: dict | None = None,
        **kwargs,
    ) -> None:
        long_form = copy.deepcopy(kwargs)
        for short_form, expand in (
            (boundary, _expand_boundary),
            (context, _expand_context),
            (logits, _expand_logits),
        ):
            if short_form is not None:
                long_form = _joined(long_form, expand(short_form))
        if not long_form.get('distill_losses'):
            raise ValueError(
                'Expected BCKDDistiller to be given a loss, but got none: '
                'set `boundary`, `context`, `logits`, or `distill_losses` in '
                'the form of ConfigurableDistiller.'
            )
        super().__init__(**long_form)

    def prepare_from_student(self, model: BaseModel) -> None:
        """Hook the student, and build what depends on its channels."""
        _check_sources(self.student_recorders.recorders, model, 'student')
        super().prepare_from_student(model)
        for mapping in self.loss_forward_mappings.values():
            for record in mapping.values():
                if not record.get('connector'):
                    continue
                connector = self.connectors[record['connector']]
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
        advice = (
            "Record a module that does (of mmseg's heads one inside, such as "
            "'decode_head.conv_seg', since their own forward is called past "
            'all hooks)'
        )
        if from_student:
            side, manager = 'student', self.student_recorders
        else:
            side, manager = 'teacher', self.teacher_recorders
            advice += (
                ", or set `teacher_forward='loss'` of FrozenTeacherDistill if "
                'it runs only there'
            )
        if not manager.get_recorder(recorder).data_buffer:
            raise RuntimeError(
                f'The recorder "{recorder}" of the {side} expected '
                f'"{manager.get_recorder(recorder).source}" to run, but it '
                f"did not run in the {side}'s forward. {advice}."
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
        runs = 1 + record.get('record_idx', 0)
        awaited = dict.fromkeys(
            map(model.get_submodule, recorded_modules(recorder)), runs
        )

        def stop(module: nn.Module, *_) -> None:
            awaited[module] -= 1
            if max(awaited.values()) <= 0:
                raise _Recorded

        hooks = [m.register_forward_hook(stop) for m in awaited]
        model.eval()
        try:
            with torch.no_grad(), suppress(_Recorded), recorder:
                model(torch.zeros(1, 3, 128, 128, device=device))
            features = self.get_record(
                **{k: v for k, v in record.items() if k != 'connector'}
            )
        except Exception as e:
            raise ValueError(
                'The channels of '
                f'"{recorder.source}" could not be read off the student by '
                f'running it on a blank image ({type(e).__name__}: {e}). Set '
                '`in_channels` of the boundary term.'
            ) from e
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in training.items():
                module.training = mode
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


def _loss_class(loss: str | type) -> type | None:
    """The loss of a short form's ``type``; None if no such is registered."""
    return MODELS.get(loss) if isinstance(loss, str) else loss


def _check_keys(term: str, cfg: dict, options: list[str]) -> None:
    """Refuse a short form that has a key too many or too few."""
    for side in ('student', 'teacher'):
        if side not in cfg:
            raise ValueError(
                f'Expected `{side}` in `{term}` of BCKDDistiller, the name of '
                f'a module of the {side}, but got only {sorted(cfg)}.'
            )
    known = ['student', 'teacher', *options]
    unknown = sorted(set(cfg) - set(known))
    if unknown:
        raise ValueError(
            f'Expected `{term}` of BCKDDistiller with keys among '
            f'{", ".join(known)}, but got {unknown}.'
        )


def _recorder(source: Source) -> tuple[dict, dict]:
    """The recorder of a module, and what to pick of its records."""
    if isinstance(source, str):
        source = dict(type='ModuleOutputs', source=source)
    elif not isinstance(source, dict):
        source = dict(type='ModuleListOutputs', source=list(source))
    elif 'type' not in source:
        raise ValueError(
            "Expected the `type` of a recorder, such as 'ModuleInputs', but "
            f'got {source}. Add it, or give the name of a module alone for '
            'what it puts out.'
        )
    picks = ('record_idx', 'data_idx')
    recorder = {k: v for k, v in source.items() if k not in picks}
    picked = {k: v for k, v in source.items() if k in picks}
    if recorder['type'] == 'ModuleInputs':
        # What is recorded is the tuple of a call's arguments.
        picked.setdefault('data_idx', 0)
    return recorder, picked


def _long_form(
    term: str,
    cfg: dict,
    loss_name: str,
    loss: dict,
    student_connector: dict | None = None,
    teacher_connector: dict | None = None,
) -> dict:
    """The parts of MMRazor's form that a short form stands for.

    Args:
        term (str): Name of the short form.
        cfg (dict): The short form, with ``student`` and ``teacher``.
        loss_name (str): What the loss is logged as.
        loss (dict): Config of the loss.
        student_connector (dict | None): Name of the connector of the
            student's record, and its config. Defaults to None: none.
        teacher_connector (dict | None): Likewise of the teacher's.

    Returns:
        dict: Arguments of :class:`ConfigurableDistiller`.
    """
    recorders: dict[str, dict] = dict(student={}, teacher={})
    connectors: dict[str, dict] = {}
    mapping = {}
    for side, preds, connector in (
        ('student', 'preds_S', student_connector),
        ('teacher', 'preds_T', teacher_connector),
    ):
        name = f'{term}_{side}'
        recorder, picked = _recorder(cfg[side])
        # The truth comes with every call of the student, but not with every
        # one of the teacher, which may run its backbone and neck only.
        from_student = side == 'student' or recorder['type'] == 'GroundTruth'
        recorders['student' if from_student else 'teacher'][name] = recorder
        mapping[preds] = dict(picked, recorder=name, from_student=from_student)
        if connector is not None:
            connectors.update(connector)
            (mapping[preds]['connector'],) = connector
    return dict(
        student_recorders=recorders['student'],
        teacher_recorders=recorders['teacher'],
        connectors=connectors,
        distill_losses={loss_name: loss},
        loss_forward_mappings={loss_name: mapping},
    )


def _expand_boundary(cfg: dict) -> dict:
    cfg = dict(cfg)
    name = cfg.pop('type', 'BoundaryAffinityLoss')
    loss = _loss_class(name)
    if loss is SemanticAffinityLoss:
        cfg = dict(dict(student=CLASSIFIER, teacher=CLASSIFIER), **cfg)
        _check_keys('boundary', cfg, _arguments(loss))
        return _long_form('boundary', cfg, 'loss_bd', _component(loss, cfg))
    if loss is not BoundaryAffinityLoss:
        raise ValueError(
            "Expected `type` of `boundary` to be 'BoundaryAffinityLoss' or "
            f"'SemanticAffinityLoss', but got {name!r}. List any other loss "
            'in `distill_losses`.'
        )
    teacher = cfg.get('teacher', 'gt_sem_seg')
    source = cfg.get('source', 'semantic')
    check_source(source)
    if source != 'label' and cfg.get('teacher') in _TRUTHS:
        raise ValueError(
            'Expected a module of the teacher as `teacher` of `boundary`, '
            f'whose source is {source!r}, but got {teacher!r}, which is the '
            "truth. Set source='label' for the affinities of that."
        )
    if source == 'label':
        if isinstance(teacher, str):
            teacher = dict(
                type='GroundTruth',
                source=teacher,
                ignore_index=cfg.get('ignore_index', 255),
            )
        cfg = dict(cfg, teacher=teacher)
    options = [
        *_arguments(HierarchicalBoundaryConnector),
        *_arguments(BoundaryAffinityLoss),
    ]
    _check_keys('boundary', cfg, options)
    return _long_form(
        'boundary',
        cfg,
        'loss_bd',
        _component(BoundaryAffinityLoss, cfg),
        student_connector=dict(
            boundary_head=_component(HierarchicalBoundaryConnector, cfg)
        ),
    )


def _expand_context(cfg: dict) -> dict:
    options = ['max_tokens', *_arguments(ContextRelationLoss)]
    _check_keys('context', cfg, options)
    pool = None
    if cfg.get('max_tokens') is not None:
        pool = dict(context_pool=_component(ContextConnector, cfg))
    return _long_form(
        'context',
        cfg,
        'loss_cd',
        _component(ContextRelationLoss, cfg),
        student_connector=pool,
        teacher_connector=pool,
    )


def _expand_logits(cfg: dict) -> dict:
    cfg = dict(
        dict(
            student=CLASSIFIER, teacher=CLASSIFIER, type='PixelWiseDivergence'
        ),
        **cfg,
    )
    loss = _loss_class(cfg['type'])
    if loss is None:
        raise ValueError(
            'Expected `type` of `logits` to be a loss that MMRazor has '
            f'registered, but got {cfg["type"]!r}. Correct the name.'
        )
    _check_keys('logits', cfg, ['type', *_arguments(loss)])
    arguments = {
        k: v for k, v in cfg.items() if k not in ('student', 'teacher', 'type')
    }
    return _long_form(
        'logits',
        cfg,
        LOGIT_LOSS_NAMES.get(loss.__name__, 'loss_logits'),
        _component(LogitLoss, dict(loss=dict(type=loss, **arguments))),
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
