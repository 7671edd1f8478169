"""Which modules of a student and a teacher are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdet.models.dense_heads import MaskFormerHead
from mmdet.models.detectors import MaskFormer
from mmengine.config import Config
from mmengine.model import BaseModel
from mmseg.models.segmentors import CascadeEncoderDecoder

from ..models.distillers.bckd_distiller import CLASSIFIER
from .stages import FeatureMap, read_stages

# Where this package's own configs have the losses, with all their weights.
BASE = Path(__file__).parents[1] / '.mim/configs/_base_'
_DISTILLERS = dict(
    mmseg='distillers/segmentors.py', mmdet='distillers/detectors.py'
)

# As the name of a module the training refuses it, and says what there is.
TO_BE_SET = 'to be set'


class Choice:
    """What is compared of a student and a teacher, and why.

    The modules are chosen by the rules that this package's own configs
    follow, with the weights of those:

    - Segmentors whose student is pretrained: both terms compare the class
      logits, and channel-wise distillation (CWD) beside them says which class
      is which.
    - Segmentors whose student is trained from scratch: the boundary head is on
      the student's backbone, pixels are alike as the teacher's class logits
      are, and context is that of what the classifiers take in. A teacher that
      classifies masks has the map that these are products of.
    - Detectors: the boundary head is on the student's backbone, pixels are
      alike as the finest level of the teacher's neck is, and context is that
      of the levels of both necks.
    - Detectors whose teacher finds instances by queries: pixels are alike that
      belong to one query, and context is that of the map that all masks are
      products of.

    What cannot be chosen so has the module :data:`TO_BE_SET`.

    Args:
        library (str): 'mmseg' or 'mmdet', which both are of.
        student (BaseModel): The student.
        teacher (BaseModel): The teacher.
        pretrained (bool): Whether the student's training begins with weights
            that were learned. Those of detectors get the same either way.

    Attributes:
        distiller (dict): The config of the distiller.
        comments (dict[str, str]): What to say of a key of it, by its dotted
            name.
        todo (list[str]): What could not be chosen, what was found instead,
            and which key to set.
        stages (dict[str, Stages]): The feature maps of both.
        teacher_forward (str, optional): See :class:`FrozenTeacherDistill`.
    """

    def __init__(
        self,
        library: str,
        student: BaseModel,
        teacher: BaseModel,
        pretrained: bool,
    ) -> None:
        zoo = Config.fromfile(BASE / _DISTILLERS[library])
        self.comments: dict[str, str] = {}
        self.todo: list[str] = []
        self.stages = dict(
            student=read_stages(student, training=True),
            teacher=read_stages(teacher),
        )
        if library == 'mmseg' and pretrained:
            self.distiller = dict(zoo.bckd.to_dict(), **zoo.cwd.to_dict())
            self._choose_logits(student, teacher)
        elif library == 'mmseg':
            self.distiller = zoo.bckd_features.to_dict()
            self._choose_features(student, teacher)
        elif isinstance(teacher, MaskFormer):
            self.distiller = zoo.bckd_queries.to_dict()
            self._choose_backbone(student)
            self._choose_map_of_queries()
        else:
            self.distiller = zoo.bckd.to_dict()
            self._choose_backbone(student)
            self._choose_levels()
        pixels = self.distiller['context']['max_tokens']
        self.comments['context.max_tokens'] = (
            f'Maps of more than {pixels} pixels are pooled.'
        )
        # A cascade of heads runs as a whole for its losses only.
        cascade = isinstance(teacher, CascadeEncoderDecoder)
        self.teacher_forward = 'loss' if cascade else None

    def _set(self, key: str, value: str | dict, comment: str) -> None:
        term, side = key.split('.')
        self.distiller[term][side] = value
        self.comments[key] = comment

    def _leave(self, key: str, wanted: str, came: str) -> None:
        self._set(
            key,
            TO_BE_SET,
            'To be set by hand: the training refuses this name.',
        )
        self.todo.append(
            f'Set `{key}` by hand: expected {wanted}, but {came}.'
        )

    def _choose_backbone(self, student: BaseModel) -> None:
        """The student's stages, for the boundary head."""
        found = self.stages['student']
        key = 'boundary.student'
        if not found.backbone:
            self._leave(
                key,
                "feature maps of the student's backbone",
                found.problems['backbone'],
            )
            return
        comment = f'The stages of the backbone: {listed(found.backbone)}.'
        if len(found.backbone) == 1:
            comment = (
                f'The one map of the backbone: {listed(found.backbone)}. A '
                'list of its modules would give the boundary head more.'
            )
        self._set(key, 'backbone', comment)
        if found.backbone != read_stages(student).backbone:
            # The distiller would read the channels of inference.
            self._set(
                'boundary.in_channels',
                [feature.channels for feature in found.backbone],
                'In training the backbone puts out other maps than in '
                'inference.',
            )

    def _choose_logits(self, student: BaseModel, teacher: BaseModel) -> None:
        """What the classifiers of segmentors put out."""
        self.comments['logits.type'] = (
            'Channel-wise distillation; the other two do not know which class '
            'is which.'
        )
        for side, model in (('student', student), ('teacher', teacher)):
            for term in ('boundary', 'context', 'logits'):
                if (
                    term == 'logits'
                    and self.stages[side].classifier == CLASSIFIER
                ):
                    continue  # its default
                self._choose_output(f'{term}.{side}', model)

    def _choose_features(self, student: BaseModel, teacher: BaseModel) -> None:
        """The student's stages, and what the classifiers take in."""
        self.comments['type'] = (
            'No pretrained weights: both terms on features, and no CWD, which '
            'held such a student (DDRNet-23-slim) back.'
        )
        self._choose_backbone(student)
        self._choose_output('boundary.teacher', teacher)
        self._choose_input('context.student', student)
        self._choose_input('context.teacher', teacher)

    def _choose_output(self, key: str, model: BaseModel) -> None:
        """What the classifier of a segmentor puts out."""
        side = key.rpartition('.')[2]
        found = self.stages[side]
        if found.classifier and found.logits[0].channels < 2:
            self._leave(
                key,
                f"the {side}'s class logits of at least 2 channels",
                f'its {found.classifier} puts out 1 channel. Set '
                'out_channels=2 of its head, with the softmax that goes with '
                'it, or leave the term out',
            )
        elif found.classifier:
            self._set(
                key,
                found.classifier,
                f'The class logits: {listed(found.logits)}.',
            )
        elif _classifies_masks(model):
            self._set(
                key,
                dict(type='MaskClassLogits', source='decode_head'),
                'The class logits that its queries amount to.',
            )
        else:
            self._leave(
                key,
                f"the {side}'s class logits",
                found.problems['classifier'],
            )

    def _choose_input(self, key: str, model: BaseModel) -> None:
        """What the classifier of a segmentor takes in."""
        side = key.rpartition('.')[2]
        found = self.stages[side]
        if found.classifier:
            self._set(
                key,
                dict(type='ModuleInputs', source=found.classifier),
                f'What the classifier takes in: {listed(found.features)}.',
            )
        elif _classifies_masks(model):
            self._set(
                key,
                _level(0, 'decode_head.pixel_decoder'),
                'The map that its masks are products of.',
            )
        else:
            self._leave(
                key,
                f"what the {side}'s classifier takes in",
                found.problems['classifier'],
            )

    def _choose_finest(self, key: str, levels: Sequence[FeatureMap]) -> None:
        finest = min(range(len(levels)), key=lambda i: levels[i].stride)
        self._set(
            key,
            _level(finest),
            f'The finest level of the neck: {listed([levels[finest]])}.',
        )

    def _choose_map_of_queries(self) -> None:
        """The finest level of the student's neck; the teacher has no neck."""
        self.comments['boundary.teacher'] = 'The instances of its queries.'
        self.comments['context.teacher'] = (
            'The map that its masks are products of.'
        )
        found = self.stages['student']
        if not found.neck:
            self._leave(
                'context.student',
                "the levels of the student's neck",
                found.problems['neck'],
            )
            return
        self._choose_finest('context.student', found.neck)

    def _choose_levels(self) -> None:
        """The levels of the necks of detectors."""
        self.comments['boundary.source'] = (
            "Pixels are alike as the teacher's features are; source='label' "
            "and teacher='gt_instances' would go by masks."
        )
        for side, found in self.stages.items():
            if not found.neck:
                self._leave(
                    f'context.{side}',
                    f"the levels of the {side}'s neck",
                    found.problems['neck'],
                )
        student, teacher = (found.neck for found in self.stages.values())
        if not teacher:
            self._leave(
                'boundary.teacher',
                "the levels of the teacher's neck",
                self.stages['teacher'].problems['neck'],
            )
            return
        self._choose_finest('boundary.teacher', teacher)
        if not student:
            return
        of_student, of_teacher = (
            [level.stride for level in levels] for levels in (student, teacher)
        )
        if of_student == of_teacher:
            for side, levels in (('student', student), ('teacher', teacher)):
                self._set(
                    f'context.{side}',
                    'neck',
                    f'All levels of the neck: {listed(levels)}.',
                )
            return
        common = sorted(set(of_student) & set(of_teacher))
        for side, strides in (
            ('student', of_student),
            ('teacher', of_teacher),
        ):
            key = f'context.{side}'
            if common:
                level = strides.index(common[0])
                self._set(
                    key,
                    _level(level),
                    'The finest stride that both necks have, '
                    f'{common[0]}, of {_joined(strides)}.',
                )
            else:
                self._leave(
                    key,
                    'necks with levels of one stride',
                    f'the student has strides {_joined(of_student)} and the '
                    f'teacher {_joined(of_teacher)}',
                )


def complete_terms(distiller: dict) -> dict:
    """A distiller's config without the terms in which something is missing."""
    return {
        key: term
        for key, term in distiller.items()
        if not isinstance(term, dict) or TO_BE_SET not in term.values()
    }


def listed(maps: Sequence[FeatureMap]) -> str:
    """Strides and channels of feature maps, in words."""
    strides = _joined([feature.stride for feature in maps])
    channels = _joined([feature.channels for feature in maps])
    plural = 's' if len(maps) > 1 else ''
    return f'stride{plural} {strides} with {channels} channels'


def _joined(numbers: Sequence[int]) -> str:
    if len(numbers) > 1 and len(set(numbers)) == 1:
        return f'{len(numbers)} x {numbers[0]}'
    return ', '.join(map(str, numbers))


def _level(index: int, source: str = 'neck') -> dict:
    return dict(type='ModuleOutputs', source=source, data_idx=index)


def _classifies_masks(model: BaseModel) -> bool:
    """Whether a segmentor is a MaskFormer or Mask2Former."""
    return isinstance(getattr(model, 'decode_head', None), MaskFormerHead)
