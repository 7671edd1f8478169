"""A batch as the teacher's data preprocessor would have made it."""

import logging
from dataclasses import dataclass

import torch
from mmengine.logging import print_log
from mmengine.model import ImgDataPreprocessor
from mmengine.structures import BaseDataElement
from mmseg.models import SegDataPreProcessor
from torch import Tensor, nn


@dataclass(frozen=True)
class Normalization:
    """How a data preprocessor turns an image's pixels into a model's input.

    Args:
        mean (tuple[float]): Of each channel of the input, or one of all.
        std (tuple[float]): Likewise.
        reverses (bool): Whether the order of three channels is reversed.
        padding (float): What normalized images are padded with.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    reverses: bool
    padding: float

    @classmethod
    def of(cls, preprocessor: nn.Module) -> 'Normalization | None':
        """That of mmseg's, mmdet's or mmengine's data preprocessor; None if
        it is of another type."""
        # That of mmseg is both in the fork of OpenMMLab.
        if isinstance(preprocessor, ImgDataPreprocessor):
            reverses = preprocessor._channel_conversion
            padding = preprocessor.pad_value
        elif isinstance(preprocessor, SegDataPreProcessor):
            reverses = preprocessor.channel_conversion
            padding = preprocessor.pad_val
        else:
            return None
        mean, std = (0.0,), (1.0,)
        if preprocessor._enable_normalize:
            mean = tuple(preprocessor.mean.double().flatten().tolist())
            std = tuple(preprocessor.std.double().flatten().tolist())
        return cls(mean, std, bool(reverses), float(padding))

    def __str__(self) -> str:
        mean, std = (
            [round(v, 4) for v in values] for values in (self.mean, self.std)
        )
        order = 'reversed' if self.reverses else 'as loaded'
        return (
            f'mean {mean}, std {std}, channels {order}, padding {self.padding}'
        )


class TeacherInputs:
    """Make the teacher's input of the student's.

    Every pixel gets the value that the teacher's data preprocessor would have
    given it, which is an affine map for each channel, and reversed channels.
    The padding gets that of the teacher: outside of an image's ``img_shape``,
    what has the value of the student's padding. Images that the student's
    preprocessor mixed or resized afterwards are mixed and resized alike. The
    size is that of the student's input.

    Where both normalize alike, the batch is left as it is; so it is, with a
    warning, if one is of a type that is not known: what it does to the pixels
    cannot be told.

    Args:
        student (nn.Module): The data preprocessor of the student: mmseg's
            ``SegDataPreProcessor``, mmdet's ``DetDataPreprocessor`` or
            mmengine's ``ImgDataPreprocessor``.
        teacher (nn.Module): That of the teacher.

    Shape:
        - images: (N, C, H, W)
        - returns: the same
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        before, after = Normalization.of(student), Normalization.of(teacher)
        # Normalizations of the student and of the teacher, if they differ.
        self.conversion: tuple[Normalization, Normalization] | None = None
        if before is None or after is None:
            print_log(
                'The teacher gets the batch as the student does: the data '
                f'preprocessors of student ({type(student).__name__}) and '
                f'teacher ({type(teacher).__name__}) can only be compared if '
                'they are SegDataPreProcessor, DetDataPreprocessor or '
                'ImgDataPreprocessor. Make sure that both models want the '
                'same normalization.',
                logger='current',
                level=logging.WARNING,
            )
        elif before != after:
            self.conversion = before, after
            print_log(
                'The teacher gets the batch in its own normalization '
                f'({after}), converted from that of the student ({before}).',
                logger='current',
            )

    def __call__(
        self,
        images: Tensor,
        data_samples: list[BaseDataElement] | None = None,
    ) -> Tensor:
        """Convert a batch."""
        if self.conversion is None:
            return images
        student, teacher = self.conversion
        channels = images.shape[-3]
        mean, std, new_mean, new_std = (
            torch.tensor(values, dtype=torch.float64).expand(channels)
            for values in (
                student.mean,
                student.std,
                teacher.mean,
                teacher.std,
            )
        )
        converted = images
        if student.reverses != teacher.reverses and channels == 3:
            converted, mean, std = images.flip(-3), mean.flip(0), std.flip(0)
        scale, shift = (
            factor.to(images).view(-1, 1, 1)
            for factor in (std / new_std, (mean - new_mean) / new_std)
        )
        converted = converted * scale + shift

        for before, after, sample in zip(
            images, converted, data_samples or ()
        ):
            height, width = sample.get('img_shape', images.shape[-2:])[:2]
            below = slice(height, None), slice(None)
            beside = slice(height), slice(width, None)
            for rows, columns in (below, beside):
                padded = before[..., rows, columns] == student.padding
                after[..., rows, columns].masked_fill_(
                    padded.all(0), teacher.padding
                )
        return converted
