import re

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ...datasets.checks import check_labels
from ...models.utils import num_classes_of
from ..utils import unwrapped_model


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Check the data and the checkpoint of a run before they do harm.

    It ends the run with one message

    - if the data set is empty (mmengine's infinite sampler would wait
      forever), or has another number of classes than the model;
    - if a batch has a label outside the classes (on a GPU an assertion inside
      a kernel). The batch is checked while it is in host memory, without any
      synchronization;
    - if the checkpoint is of another model, which mmengine loads with a
      warning. To be resumed, all of it has to fit; to be loaded
      (``load_from``), at least one weight. A teacher that has its own
      ``teacher_ckpt`` keeps it then.

    Raises:
        ValueError: See above.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that the checkpoint is one of this model."""
        path = runner._load_from or f'the last one in {runner.work_dir}'
        resumed = runner._resume
        lacking = [
            k
            for k in ('state_dict', 'optimizer', 'message_hub')
            if k not in checkpoint
        ]
        if resumed and lacking:
            raise ValueError(
                f'Expected {path} to be a checkpoint that a run saved, to be '
                f'resumed, but got one without `{"`, `".join(lacking)}`: it '
                'holds weights alone. Name it in `load_from`, without '
                '`resume`, to begin a run with them.'
            )
        model = unwrapped_model(runner)
        weights = checkpoint.get('state_dict', checkpoint)
        own, loaded = (
            {re.sub(r'^module\.', '', k): v for k, v in of.items()}
            for of in (model.state_dict(), weights)
        )
        fit = [
            k
            for k, v in own.items()
            if k in loaded and v.shape == loaded[k].shape
        ]
        if not resumed and getattr(model, 'teacher_ckpt', None):
            # It has its teacher, which a student to begin with is not to
            # change.
            fit = [k for k in fit if not k.startswith('teacher.')]
            for name in [k for k in weights if k.startswith('teacher.')]:
                del weights[name]
            weights.update(model.teacher.state_dict(prefix='teacher.'))
        if fit and (not resumed or len(fit) == len(own) == len(loaded)):
            return
        differ = sorted(set(own) ^ set(loaded)) or [
            k for k in own if k not in fit
        ]
        raise ValueError(
            f'{path} is of another model: it has {len(fit)} of the {len(own)} '
            f'weights of this {type(model).__name__}, and they differ in '
            f'{differ[:3]}. Name a checkpoint of this model, or use the '
            'config that the checkpoint was made with.'
        )

    def before_train(self, runner: Runner) -> None:
        """Check the size of the data set and its number of classes."""
        dataset = runner.train_dataloader.dataset
        if len(dataset) == 0:
            raise ValueError(
                'Expected a training set with images, but '
                f'{type(dataset).__name__} found none (data_root='
                f'{getattr(dataset, "data_root", None)!r}, data_prefix='
                f'{getattr(dataset, "data_prefix", None)!r}). Correct these.'
            )
        model = unwrapped_model(runner)
        model = getattr(model, 'architecture', model)
        self._head = _segmentation_head(model)
        check_num_classes(model, dataset)

    def before_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list = None,
    ) -> None:
        """Check the labels of a batch."""
        if self._head is None:
            return
        classes, ignore = self._head.num_classes, self._head.ignore_index
        for sample in data_batch['data_samples']:
            if 'gt_sem_seg' not in sample:
                continue
            check_labels(
                sample.gt_sem_seg.data,
                classes,
                ignore,
                getattr(sample, 'seg_map_path', 'a label map'),
            )


def check_num_classes(model: nn.Module, dataset: BaseDataset) -> None:
    """Raise unless a model predicts the classes of a data set.

    Args:
        model (nn.Module): A model of mmseg or mmdet.
        dataset (BaseDataset): What it is trained on. It need not have been
            read.

    Raises:
        ValueError: If both say how many classes there are, and differ.
    """
    num_classes = num_classes_of(model)
    metainfo = getattr(dataset, 'metainfo', {})
    classes = metainfo.get('classes')
    # Of a panoptic data set, a box head has the things alone.
    things = len(metainfo.get('thing_classes', ()))
    if None not in (num_classes, classes) and (
        num_classes not in (len(classes), things)
    ):
        raise ValueError(
            f'The model has num_classes={num_classes}, but '
            f'{type(dataset).__name__} has {len(classes)} classes: '
            f'{tuple(classes)}. Set `num_classes` of the heads to '
            f'{len(classes)}.'
        )


def _segmentation_head(model: nn.Module) -> nn.Module | None:
    """The decode head whose classes the labels must be of, if there is one."""
    head = getattr(model, 'decode_head', None)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    return head
