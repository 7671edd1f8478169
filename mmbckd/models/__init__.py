from .algorithms import *  # noqa: F403
from .connectors import *  # noqa: F403
from .distillers import *  # noqa: F403
from .feature_extractor import FeatureExtractor as FeatureExtractor
from .losses import *  # noqa: F403
from .segmentors import *  # noqa: F403
from .task_modules import *  # noqa: F403
