import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..utils import unwrapped_model

_STUDENT = 'architecture.'


@HOOKS.register_module()
class CalibrationHook(Hook):
    """Begin a quantization-aware training with a float student.

    It lets ``load_from`` name the plain checkpoint of the student, all of
    which has to fit, and before the first iteration folds its batch norms and
    fixes the ranges of its activations, by training images that go through
    the validation pipeline: the images that ``mim run mmbckd export_student
    --int8`` takes. A training that is resumed has its ranges in its
    checkpoint. In a run without fake quantization the hook does nothing.

    Args:
        num_images (int): How many images. Defaults to 64.

    Raises:
        ValueError: If the checkpoint is of another student, there are no
            images, or an activation has NaN or infinity.
    """

    # Before DataCheckHook, to which it gives the student's weights the names
    # that they have here.
    priority = 'HIGH'

    def __init__(self, num_images: int = 64) -> None:
        self.num_images = num_images

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the checkpoint of a plain student for that of the training."""
        model = unwrapped_model(runner)
        weights = checkpoint.get('state_dict', checkpoint)
        if not hasattr(model, 'quantization') or any(
            key.startswith(_STUDENT) for key in weights
        ):
            return
        wanted = model.architecture.state_dict()
        differing = [
            key
            for key, value in wanted.items()
            if not key.endswith('num_batches_tracked')
            and getattr(weights.get(key), 'shape', None) != value.shape
        ]
        if differing:
            raise ValueError(
                'Expected the checkpoint of a float student to begin with, '
                f'but {runner._load_from} lacks {len(differing)} of the '
                f'{len(wanted)} weights of `architecture`, or has them in '
                f'another shape, such as {differing[:3]}. Name in `load_from` '
                'a checkpoint of that model.'
            )
        for key in wanted.keys() & weights.keys():
            weights[_STUDENT + key] = weights.pop(key)

    def before_train(self, runner: Runner) -> None:
        """Calibrate, unless that is done."""
        from ...deploy.comparison import normalize
        from ...deploy.configs import build_dataset, read_images

        quantization = getattr(unwrapped_model(runner), 'quantization', None)
        if quantization is None or quantization.calibrated:
            return
        student = quantization.model
        device = next(student.parameters()).device
        dataset = build_dataset(runner.cfg, 'train')
        quantization.calibrate(
            normalize(
                student, torch.from_numpy(image.transpose(2, 0, 1).copy())
            ).to(device)
            for image in read_images(dataset, self.num_images)
        )
        runner.logger.info(
            'The ranges of the activations are those of '
            f'{min(self.num_images, len(dataset))} training images.'
        )
