# CamVid's instances seen at the whole size of the images.
_base_ = './camvid_instance.py'

crop_size = (192, 256)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=(480, 360))
train_pipeline[3].update(crop_size=crop_size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(480, 360))
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
