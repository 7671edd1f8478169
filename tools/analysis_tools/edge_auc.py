"""Say how well a teacher's features show where instances end.

The boundary term with ``source='feature'`` can be no better than the
affinities it is given. For each of some modules of a detector, and for each
level of their output, the edges of these affinities are compared with those of
the annotated instances: the area under the ROC curve (0.5 is chance), mean
over the images of ``train_dataloader`` that have any.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from mmengine.config import Config, DictAction
from mmengine.model import BaseModel
from mmengine.runner import Runner
from scipy.stats import mannwhitneyu
from torch import Tensor

from mmbckd.analysis.formatting import markdown_table
from mmbckd.functional import affinity_edges
from mmbckd.models.task_modules.recorders import instance_id_map

STRIDE = 4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config of the teacher')
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--modules',
        nargs='+',
        default=['backbone', 'neck'],
        help='modules to look at (default: backbone neck)',
    )
    parser.add_argument('--images', type=int, default=16, help='default: 16')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    return parser.parse_args()


def features(
    model: BaseModel, inputs: Tensor, modules: list[str]
) -> dict[str, list[Tensor]]:
    """The maps of some modules: of each level, and of all together."""
    found: dict[str, list[Tensor]] = {}

    def keep(name: str, output: object) -> None:
        maps = [output] if isinstance(output, Tensor) else list(output)
        found[name] = maps
        if len(maps) > 1:
            found.update({f'{name}[{i}]': [m] for i, m in enumerate(maps)})

    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: keep(name, output)
        )
        for name in modules
    ]
    try:
        with torch.no_grad():
            model.extract_feat(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def edge_auc(maps: list[Tensor], ids: Tensor) -> float:
    """Area under the ROC curve of the edges of features, for those of
    instance ids (H, W)."""
    size = [side // STRIDE for side in ids.shape]
    blank = torch.zeros(1, 1, *size)
    edges = affinity_edges(blank, maps, source='feature').flatten()
    truth = affinity_edges(blank, ids[None], source='label').flatten() > 0
    on, off = edges[truth].numpy(), edges[~truth].numpy()
    return float(mannwhitneyu(on, off).statistic / (len(on) * len(off)))


def measure(
    model: BaseModel, batches: Iterable[dict], modules: list[str]
) -> dict[str, dict]:
    """The mean over images, and their number, by module."""
    rows: dict[str, list[float]] = {}
    for data in batches:
        data = model.data_preprocessor(data, False)
        (sample,) = data['data_samples']
        ids = torch.from_numpy(
            instance_id_map(sample, data['inputs'].shape[-2:])
        ).long()
        if len(ids[ids != 255].unique()) < 2:
            continue
        for name, maps in features(model, data['inputs'], modules).items():
            rows.setdefault(name, []).append(
                edge_auc([m.cpu() for m in maps], ids)
            )
    return {
        name: dict(auc=fmean(values), images=len(values))
        for name, values in rows.items()
    }


def table(found: dict) -> list[str]:
    """What was found, in Markdown."""
    return markdown_table(
        ['features of', 'AUC of edges', 'images'],
        [
            [name, f'{row["auc"]:.3f}', str(row['images'])]
            for name, row in found['modules'].items()
        ],
    )


def main() -> None:
    args = parse_args()
    config = Config.fromfile(args.config)
    config.train_dataloader.update(
        batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False)
    )
    config.train_dataloader.pop('batch_sampler', None)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    with tempfile.TemporaryDirectory() as work_dir:
        config.work_dir = work_dir
        runner = Runner.from_cfg(config)
        runner.load_checkpoint(args.checkpoint)
        loader = runner.build_dataloader(config.train_dataloader)
        rows = measure(
            runner.model.eval(), islice(loader, args.images), args.modules
        )
    found = dict(config=Path(args.config).stem, modules=rows)
    print('\n'.join(table(found)))
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=2) + '\n')


if __name__ == '__main__':
    main()
