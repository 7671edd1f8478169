# Regions, their boundaries and whether they stay connected. A config has it by
# val_evaluator = {{_base_.seg_evaluator}}
seg_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='BoundaryIoUMetric'),
    dict(type='ConnectivityMetric'),
]
