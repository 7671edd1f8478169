"""A whole training step: BCKD beside MMRazor's own CWD, and beside no
distillation at all but the same teacher forward.

On a GPU PSPNet-R101 teaches PSPNet-R18 on 512x1024 crops, as the Cityscapes
configs do; on a CPU the same heads on a ResNet-50 and a ResNet-18, on crops of
half the side. With --full-size a CPU takes what a GPU does, but only the steps
with BCKD and with CWD and that of the student alone, and only their time.
Goals: at most 1.0 of the time and memory of the CWD step, and at most 1.15 of
the time of the step without a term.
"""

import copy

import torch
from _measure import (
    Run,
    arguments,
    environment,
    peak_memory,
    seconds,
    write_json,
)
from mmengine.hub import get_config
from mmengine.structures import PixelData
from mmrazor.registry import MODELS
from mmseg.structures import SegDataSample

import mmbckd  # noqa: F401

PSPNET = 'mmseg::pspnet/pspnet_{}-d8_4xb2-80k_cityscapes-512x1024.py'
FEATURE = dict(type='ModuleInputs', source='decode_head.conv_seg')
LOGITS = dict(type='ModuleOutputs', source='decode_head.conv_seg')
# The terms of configs/_base_/distillers/segmentors.py.
BOUNDARY = dict(type='SemanticAffinityLoss', loss_weight=0.2)
CONTEXT = dict(student=LOGITS, teacher=LOGITS, tau=0.1, loss_weight=0.6)
ON_FEATURES = dict(
    boundary=dict(student='backbone', teacher='decode_head.conv_seg'),
    context=dict(student=FEATURE, teacher=FEATURE),
)
CWD = dict(
    student_recorders=dict(logits=LOGITS),
    teacher_recorders=dict(logits=LOGITS),
    distill_losses=dict(
        loss_cwd=dict(type='ChannelWiseDivergence', tau=1, loss_weight=5)
    ),
    loss_forward_mappings=dict(
        loss_cwd=dict(
            preds_S=dict(from_student=True, recorder='logits'),
            preds_T=dict(from_student=False, recorder='logits'),
        )
    ),
)
# What a step of full size is timed for, on a CPU.
FULL_SIZE = ('CWD of MMRazor', 'BCKD', 'student alone')
STEPS = {
    'student alone': None,
    'CWD of MMRazor': dict(
        type='SingleTeacherDistill', distiller='ConfigurableDistiller', **CWD
    ),
    'teacher forward only': dict(
        type='FrozenTeacherDistill',
        distiller='ConfigurableDistiller',
        teacher_forward='tensor',
    ),
    'BCKD': dict(
        type='FrozenTeacherDistill',
        distiller='BCKDDistiller',
        boundary=BOUNDARY,
        context=CONTEXT,
    ),
    'boundary only': dict(
        type='FrozenTeacherDistill',
        distiller='BCKDDistiller',
        boundary=BOUNDARY,
    ),
    'context only': dict(
        type='FrozenTeacherDistill', distiller='BCKDDistiller', context=CONTEXT
    ),
    'BCKD on features': dict(
        type='FrozenTeacherDistill', distiller='BCKDDistiller', **ON_FEATURES
    ),
    'BCKD + CWD': dict(
        type='FrozenTeacherDistill',
        distiller='BCKDDistiller',
        boundary=BOUNDARY,
        context=CONTEXT,
        **CWD,
    ),
}


def pspnet(depth: str, classes: int) -> dict:
    """Upstream's model, with random weights, for one process."""
    cfg = copy.deepcopy(get_config(PSPNET.format(depth)).model)
    cfg.pretrained = None
    cfg.decode_head.num_classes = cfg.auxiliary_head.num_classes = classes
    for part in (cfg.backbone, cfg.decode_head, cfg.auxiliary_head):
        part.norm_cfg = dict(type='BN', requires_grad=True)
    cfg.data_preprocessor = dict(type='SegDataPreProcessor')
    return dict(cfg, _scope_='mmseg')


def model_config(name: str, teacher: str, classes: int) -> dict:
    """What is trained in a step."""
    student = pspnet('r18', classes)
    if STEPS[name] is None:
        return student
    step = dict(STEPS[name])
    algorithm = {
        k: step.pop(k) for k in ('type', 'teacher_forward') if k in step
    }
    algorithm['type'] = f'mmrazor.{algorithm["type"]}'
    return dict(
        **algorithm,
        architecture=student,
        teacher=pspnet(teacher, classes),
        distiller=dict(type=step.pop('distiller'), _scope_='mmrazor', **step),
    )


def build(
    name: str,
    teacher: str,
    height: int,
    width: int,
    batch: int,
    classes: int,
    device: str,
    dtype: str,
) -> Run:
    """A training step on random images, SGD's update included."""
    torch.manual_seed(0)
    model = MODELS.build(model_config(name, teacher, classes))
    model.to(device).train()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], 0.01, 0.9
    )
    images = torch.randn(batch, 3, height, width, device=device)
    shape = dict(img_shape=(height, width), pad_shape=(height, width))
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(
                data=torch.randint(classes, (1, height, width), device=device)
            ),
            metainfo=shape,
        )
        for _ in range(batch)
    ]
    autocast = torch.autocast(
        torch.device(device).type,
        dtype=getattr(torch, dtype),
        enabled=dtype != 'float32',
    )

    def run() -> None:
        optimizer.zero_grad()
        with autocast:
            losses = model(images, samples, mode='loss')
            loss, _ = model.parse_losses(losses)
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--classes', type=int, default=19)
    parser.add_argument(
        '--full-size', action='store_true', help='on a CPU too'
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    on_gpu = torch.device(args.device).type == 'cuda'
    large = on_gpu or args.full_size
    case = ('r101', 512, 1024, 2) if large else ('r50', 256, 512, 2)
    case += (args.classes, args.device, args.dtype)
    time_only = args.full_size and not on_gpu
    names = FULL_SIZE if time_only else STEPS
    machine = environment(args.device)
    rows = seconds(
        {name: build(name, *case) for name in names}, args.repeats, args.device
    )
    for name, row in rows.items():
        print(name, f'{row["seconds"]:.3f} s', flush=True)
        if time_only:
            continue
        row['peak_memory'] = peak_memory(
            build,
            name,
            *case,
            small=(name, 'r18', 64, 64, 2, *case[4:]),
            device=args.device,
        )
        print(name, f'{row["peak_memory"] / 1e6:.0f} MB', flush=True)
    ratio = {
        f'{name} / {base}': {
            key: rows[name][key] / rows[base][key] for key in rows[name]
        }
        for name in ('BCKD', 'BCKD + CWD')
        for base in ('CWD of MMRazor', 'teacher forward only', 'student alone')
        if name in rows and base in rows
    }
    write_json(
        args.out,
        dict(
            environment=machine,
            teacher=case[0],
            student='r18',
            size=case[1:3],
            batch=case[3],
            classes=args.classes,
            dtype=args.dtype,
            repeats=args.repeats,
            rows=rows,
            ratio=ratio,
        ),
    )


if __name__ == '__main__':
    main()
