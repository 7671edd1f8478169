from typing import Optional, Union

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ...datasets.checks import check_labels
from ...models.algorithms.frozen_teacher_distill import num_classes_of


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Say what is wrong with the training data before it does harm.

    It ends the run with one message if the data set is empty (mmengine's
    infinite sampler would wait for ever), if it has another number of classes
    than the model, or if a batch has a label outside the classes (on a GPU an
    assertion inside a kernel). The check reads the batch while it is in host
    memory and costs no synchronisation.

    Raises:
        ValueError: See above.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the size of the data set and its number of classes."""
        dataset = runner.train_dataloader.dataset
        if len(dataset) == 0:
            raise ValueError(
                'Expected a training set with images, but '
                f'{type(dataset).__name__} found none (data_root='
                f'{getattr(dataset, "data_root", None)!r}, data_prefix='
                f'{getattr(dataset, "data_prefix", None)!r}). Correct these.')
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        model = getattr(model, 'architecture', model)
        self._head = _segmentation_head(model)
        num_classes = num_classes_of(model)
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        if None not in (num_classes, classes) and num_classes != len(classes):
            raise ValueError(
                f'The model has num_classes={num_classes}, but '
                f'{type(dataset).__name__} has {len(classes)} classes: '
                f'{tuple(classes)}. Set `num_classes` of the heads to '
                f'{len(classes)}.')

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Union[dict, tuple, list] = None) -> None:
        """Check the labels of a batch."""
        if self._head is None:
            return
        classes, ignore = self._head.num_classes, self._head.ignore_index
        for sample in data_batch['data_samples']:
            if 'gt_sem_seg' not in sample:
                continue
            check_labels(sample.gt_sem_seg.data, classes, ignore,
                         getattr(sample, 'seg_map_path', 'a label map'))


def _segmentation_head(model: nn.Module) -> Optional[nn.Module]:
    """The decode head whose classes the labels must be of, if there is one."""
    head = getattr(model, 'decode_head', None)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    return head
