import copy
import difflib
from inspect import signature
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

import torch
from mmengine.model import BaseModel
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.registry import MODELS
from torch import nn

from ..connectors import ContextConnector, HierarchicalBoundaryConnector
from ..losses import BoundaryAffinityLoss, ContextRelationLoss
from ..task_modules.recorders import recorded_modules

Source = Union[str, Sequence[str], dict]


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

    def __init__(self,
                 boundary: Optional[dict] = None,
                 context: Optional[dict] = None,
                 **kwargs) -> None:
        long_form = copy.deepcopy(kwargs)
        if boundary is not None:
            _extend(long_form, _expand_boundary(boundary))
        if context is not None:
            _extend(long_form, _expand_context(context))
        if not long_form.get('distill_losses'):
            raise ValueError(
                'BCKDDistiller has no loss to compute: give `boundary`, '
                '`context`, or `distill_losses` in the form of '
                'ConfigurableDistiller.')
        super().__init__(**long_form)

    def prepare_from_student(self, model: BaseModel) -> None:
        """Hook the student, and build what depends on its channels."""
        _check_sources(self.student_recorders.recorders, model, 'student')
        super().prepare_from_student(model)
        for mapping in self.loss_forward_mappings.values():
            for record in mapping.values():
                connector = self.connectors[record['connector']] \
                    if record.get('connector') else None
                if isinstance(connector, HierarchicalBoundaryConnector) \
                        and connector.in_channels is None:
                    connector.set_in_channels(
                        self._probe_channels(model, record))

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Hook the teacher."""
        _check_sources(self.teacher_recorders.recorders, model, 'teacher')
        super().prepare_from_teacher(model)

    def get_record(self, recorder: str, from_student: bool, *args,
                   **kwargs) -> Any:
        """Return a record of this step, see :class:`ConfigurableDistiller`.

        Raises:
            RuntimeError: If nothing was recorded.
        """
        manager = self.student_recorders if from_student \
            else self.teacher_recorders
        if not manager.get_recorder(recorder).data_buffer:
            who = 'student' if from_student else 'teacher'
            raise RuntimeError(
                f'The recorder "{recorder}" of the {who} expected '
                f'"{manager.get_recorder(recorder).source}" to run, but it '
                f"did not run in the {who}'s forward. Record a module that "
                'does' + ('.' if from_student else
                          ", or set `teacher_forward='loss'` of "
                          'FrozenTeacherDistill if it runs only there.'))
        return super().get_record(recorder, from_student, *args, **kwargs)

    def compute_distill_losses(self) -> Dict[str, torch.Tensor]:
        """Compute the losses, then let go of what was recorded for them."""
        losses = super().compute_distill_losses()
        for manager in (self.student_recorders, self.teacher_recorders):
            for recorder in manager.recorders.values():
                recorder.reset_data_buffer()
        return losses

    def _probe_channels(self, model: BaseModel, record: dict) -> List[int]:
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
                '`in_channels` of the boundary term.') from e
        finally:
            recorder.__exit__(None, None, None)
            for hook in hooks:
                hook.remove()
            for module, mode in training.items():
                module.training = mode
        features = self.get_record(
            **{k: v
               for k, v in record.items() if k != 'connector'})
        recorder.reset_data_buffer()
        if isinstance(features, torch.Tensor):
            features = [features]
        return [f.shape[1] for f in features]


class _Recorded(Exception):
    """Ends a forward once its records are there."""


def _extend(long_form: dict, addition: dict) -> None:
    """Add the parts of a short form to those of the long form."""
    for part, items in addition.items():
        present = long_form.get(part) or {}
        taken = sorted(set(present) & set(items))
        if taken:
            raise ValueError(
                f'BCKDDistiller adds {taken} to `{part}`, but the config has '
                'these already. Rename yours, or leave the short form out.')
        long_form[part] = {**present, **items}


def _take(cfg: dict, cls: type, keys: Iterable[str] = ()) -> dict:
    """Remove from ``cfg``, and return, what ``cls`` is to be built with."""
    keys = keys or (k for k in signature(cls.__init__).parameters
                    if k != 'self')
    return dict(
        type=f'mmrazor.{cls.__name__}',
        **{k: cfg.pop(k)
           for k in keys if k in cfg})


def _recorder(term: str, cfg: dict, side: str) -> tuple:
    """Remove a side from a short form; return its recorder and mapping."""
    if side not in cfg:
        raise ValueError(f'`{term}` of BCKDDistiller needs `{side}`, the name '
                         f'of a module of the {side}, but got only '
                         f'{sorted(cfg)}.')
    source: Source = cfg.pop(side)
    if isinstance(source, str):
        recorder = dict(type='ModuleOutputs', source=source)
    elif isinstance(source, dict):
        recorder = dict(source)
    else:
        recorder = dict(type='ModuleListOutputs', source=list(source))
    name = f'{term}_{side}'
    # The truth comes with every call of the student, but not with every one
    # of the teacher, which may run its backbone and neck only.
    record = dict(
        recorder=name,
        from_student=side == 'student' or recorder['type'] == 'GroundTruth')
    if recorder['type'] == 'ModuleInputs':
        # What is recorded is the tuple of a call's arguments.
        record['data_idx'] = 0
    record.update({
        k: recorder.pop(k)
        for k in ('record_idx', 'data_idx') if k in recorder
    })
    return {name: recorder}, record


def _check_all_taken(term: str, cfg: dict, known: str) -> None:
    if cfg:
        raise ValueError(f'`{term}` of BCKDDistiller does not know '
                         f'{sorted(cfg)}. It knows: {known}.')


def _expand_boundary(cfg: dict) -> dict:
    cfg = dict(cfg)
    truth = cfg.get('teacher', 'gt_sem_seg')
    if cfg.get('source') == 'label' and isinstance(truth, str):
        cfg['teacher'] = dict(
            type='GroundTruth',
            source=truth,
            ignore_index=cfg.get('ignore_index', 255))
    student_recorder, student_record = _recorder('boundary', cfg, 'student')
    teacher_recorder, teacher_record = _recorder('boundary', cfg, 'teacher')
    if teacher_record['from_student']:
        student_recorder.update(teacher_recorder)
        teacher_recorder = {}
    connector = _take(cfg, HierarchicalBoundaryConnector)
    loss = _take(cfg, BoundaryAffinityLoss)
    _check_all_taken(
        'boundary', cfg, 'student, teacher, in_channels, channels, '
        'num_groups, source, radius, tau, ignore_index, loss_weight')
    return dict(
        student_recorders=student_recorder,
        teacher_recorders=teacher_recorder,
        connectors=dict(boundary_head=connector),
        distill_losses=dict(loss_bd=loss),
        loss_forward_mappings=dict(
            loss_bd=dict(
                preds_S=dict(connector='boundary_head', **student_record),
                preds_T=teacher_record)))


def _expand_context(cfg: dict) -> dict:
    cfg = dict(cfg)
    student_recorder, student_record = _recorder('context', cfg, 'student')
    teacher_recorder, teacher_record = _recorder('context', cfg, 'teacher')
    expanded = dict(
        student_recorders=student_recorder,
        teacher_recorders=teacher_recorder)
    if cfg.get('max_tokens') is not None:
        expanded['connectors'] = dict(
            context_pool=_take(cfg, ContextConnector, ('max_tokens', )))
        student_record['connector'] = 'context_pool'
        teacher_record['connector'] = 'context_pool'
    cfg.pop('max_tokens', None)
    loss = _take(cfg, ContextRelationLoss)
    _check_all_taken(
        'context', cfg, 'student, teacher, max_tokens, tau, exclude_self, '
        'center, block_size, loss_weight')
    return dict(
        **expanded,
        distill_losses=dict(loss_cd=loss),
        loss_forward_mappings=dict(
            loss_cd=dict(preds_S=student_record, preds_T=teacher_record)))


def _check_sources(recorders: Dict[str, BaseRecorder], model: nn.Module,
                   who: str) -> None:
    """Name the nearest modules where one does not exist."""
    names = [name for name, _ in model.named_modules() if name]
    for key, recorder in recorders.items():
        for source in recorded_modules(recorder):
            if source in names:
                continue
            near = difflib.get_close_matches(source, names, n=5, cutoff=0.4)
            tops = [name for name, _ in model.named_children()]
            hint = f'the nearest names are {near}' if near else \
                f'its top modules are {tops}'
            raise ValueError(
                f'The {who} ({type(model).__name__}) has no module '
                f'"{source}", which the recorder "{key}" names: {hint}.')
