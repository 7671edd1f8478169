# %% [markdown]
# # What the two terms see
#
# One drawn street scene, the teacher of the quickstart, and a student that
# learns from the two terms of BCKD alone: no label, no registry, plain
# functions on tensors. The cells are Jupyter's (`# %%`); as a script,
# `python demo/bckd_demo.py --out bckd_demo.png` writes the picture.

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.utils import register_all_modules
from torch import Tensor, nn

from mmbckd.datasets import StreetScenesDataset
from mmbckd.datasets.street_scenes import generate_scene
from mmbckd.functional import (
    affinity_edges,
    boundary_affinity_loss,
    relation_kl,
    relation_rows,
)
from mmbckd.models import HierarchicalBoundaryConnector

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'quickstart'
TEACHER = CONFIGS / 'fpn_r18-w16_1xb8-3k_street-scenes-128x256.py'
STUDENT = CONFIGS / 'fpn_r18-w8_1xb8-400_street-scenes-128x256.py'
SCENE = 7  # seed of the drawing
# Whose relations are drawn, as shares (y, x) of height and width.
POINTS = [(0.75, 0.45), (0.45, 0.75)]
TAU = 0.3

# %% [markdown]
# ## The models
#
# A segmentor of MMSegmentation is read at two places: the stages of its
# backbone, and the classifier's input, whose relations are compared.


# %%
def build(config: Path, checkpoint: Path | None = None) -> nn.Module:
    """A segmentor in eval mode, with the weights of a checkpoint."""
    cfg = Config.fromfile(config)
    model = MODELS.build({**cfg.model, '_scope_': 'mmseg'})
    if checkpoint is not None:
        load_checkpoint(model, str(checkpoint), map_location='cpu')
    return model.eval()


def read(model: nn.Module, image: Tensor) -> tuple[list, Tensor, Tensor]:
    """Backbone stages, the classifier's input, and class logits."""
    kept = []
    classifier = model.decode_head.conv_seg
    handle = classifier.register_forward_pre_hook(
        lambda _, inputs: kept.append(inputs[0])
    )
    stages = model.backbone(image)
    logits = model.decode_head(model.neck(stages))
    handle.remove()
    return stages, kept[0], logits


# %% [markdown]
# ## Learning from the teacher alone
#
# The boundary head reads a map B off the student's backbone. It has to
# explain which near pixels are of one class under the teacher. The second
# term compares how each pixel relates to all others.


# %%
def distill(
    student: nn.Module, teacher: nn.Module, image: Tensor, steps: int
) -> list[dict]:
    """Train the student by the two terms.

    Returns:
        list[dict]: Before and after training, the student's boundary map B
        (``boundary``), its relations (``relations``) and the two losses.
    """
    with torch.no_grad():
        _, features_t, logits_t = read(teacher, image)
        channels = [stage.shape[1] for stage in read(student, image)[0]]
    head = HierarchicalBoundaryConnector(in_channels=channels)
    head.init_weights()
    parameters = [*student.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    shown = []
    for step in range(steps + 1):
        stages, features_s, _ = read(student, image)
        z = head(stages)
        loss_bd = boundary_affinity_loss(z, logits_t)
        loss_cd = relation_kl(features_s, features_t, tau=TAU)
        if step in (0, steps):
            rows, _ = relation_rows(features_s, features_t, POINTS, tau=TAU)
            shown.append(
                dict(
                    step=step,
                    boundary=z.detach().sigmoid()[0, 0],
                    relations=rows[0],
                    loss_bd=loss_bd.item(),
                    loss_cd=loss_cd.item(),
                )
            )
        optimizer.zero_grad()
        (2 * loss_bd + 4 * loss_cd).backward()
        optimizer.step()
    return shown


# %% [markdown]
# ## The picture
#
# First row: the image, the teacher's classes, and the edges of the affinities
# by each of the three sources. Below, before and after training: the student's
# boundary map B, and the relations of two pixels in student and teacher.


# %%
def main(out: Path, steps: int = 200) -> list[dict]:
    """Distill, and draw what student and teacher make of the image."""
    register_all_modules(init_default_scope=False)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    drawn = generate_scene(SCENE)
    image, labels = drawn['image'], drawn['labels']
    teacher = build(TEACHER, TEACHER.with_suffix('.pth'))
    student = build(STUDENT)
    inputs = torch.from_numpy(image).permute(2, 0, 1)
    inputs = teacher.data_preprocessor(dict(inputs=[inputs]))['inputs']
    shown = distill(student, teacher, inputs, steps)

    with torch.no_grad():
        stages_t, features_t, logits_t = read(teacher, inputs)
        z = shown[0]['boundary'][None, None]
        _, rows_t = relation_rows(features_t, features_t, POINTS, tau=TAU)
    palette = np.array(StreetScenesDataset.METAINFO['palette'], np.uint8)
    edges = {
        "source='semantic'": affinity_edges(z, logits_t),
        "source='feature'": affinity_edges(
            z, list(stages_t), source='feature'
        ),
        "source='label'": affinity_edges(
            z, torch.from_numpy(labels)[None].long(), source='label'
        ),
    }
    figure, axes = plt.subplots(3, 5, figsize=(17, 6.2), layout='constrained')
    panels = [
        ('image', image[..., ::-1]),
        ('teacher: classes', palette[logits_t.argmax(1)[0].numpy()]),
        *((f'edges of affinities, {n}', e[0, 0]) for n, e in edges.items()),
    ]
    for axis, (title, panel) in zip(axes[0], panels):
        show(axis, title, panel)
    for line, state in zip(axes[1:], shown):
        show(
            line[0],
            f'student: B after {state["step"]} steps '
            f'($L_{{BD}}$ {state["loss_bd"]:.2f})',
            state['boundary'],
        )
        for i, point in enumerate(POINTS):
            for axis, who, rows in (
                (line[1 + 2 * i], 'student', state['relations']),
                (line[2 + 2 * i], 'teacher', rows_t[0]),
            ):
                title = f'{who}: relation of pixel {i + 1}'
                if who == 'student':
                    title += f' ($L_{{CD}}$ {state["loss_cd"]:.3f})'
                top = np.percentile(rows_t[0, i], 99.5)
                show(axis, title, rows[i], top, (i + 1, point))
    figure.savefig(out, dpi=80)
    plt.close(figure)
    return shown


def show(
    axis: plt.Axes,
    title: str,
    panel: np.ndarray | Tensor,
    top: float = 1.0,
    mark: tuple | None = None,
) -> None:
    """A picture, or a map from 0 to ``top``, and the pixel it is about."""
    axis.imshow(panel, vmin=0, vmax=top, interpolation='nearest')
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()
    if mark is not None:
        number, (y, x) = mark
        height, width = panel.shape
        axis.text(
            x * width,
            y * height,
            number,
            color='white',
            ha='center',
            va='center',
            bbox=dict(boxstyle='circle', facecolor='black'),
        )


# %%
if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='What the two terms see.')
    parser.add_argument('--out', type=Path, default=Path('bckd_demo.png'))
    parser.add_argument('--steps', type=int, default=200)
    args = parser.parse_args()
    main(args.out, args.steps)
    print(args.out)
