from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner


def unwrapped_model(runner: Runner) -> BaseModel:
    """The model of a runner, without the wrapper of distributed training."""
    model = runner.model
    return model.module if is_model_wrapper(model) else model
