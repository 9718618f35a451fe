"""Tiny Grounding DINO for a world of coloured shapes (mmengine configuration).

The class is mmdet's own GroundingDINO; only sizes differ from configs/mm_grounding_dino. `embed_dims` stays 256 because
mmdet's sine encoding of text positions and a linear layer of its decoder are fixed to that.
"""

default_scope = "mmdet"
lang_model_name = "{{ fileDirname }}/bert"
embed_dims = 256
num_levels = 2  # strides 16 and 32

deformable_attention = dict(embed_dims=embed_dims, num_heads=4, num_levels=num_levels, num_points=4, dropout=0.0)
plain_attention = dict(embed_dims=embed_dims, num_heads=8, dropout=0.0)
feed_forward = dict(embed_dims=embed_dims, feedforward_channels=256, ffn_drop=0.0)

model = dict(
    type="GroundingDINO",
    num_queries=60,
    num_feature_levels=num_levels,
    with_box_refine=True,
    as_two_stage=True,
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=False,
    ),
    language_model=dict(
        type="BertModel",
        name=lang_model_name,
        max_tokens=256,
        pad_to_max=False,
        use_sub_sentence_represent=True,
        special_tokens_list=["[CLS]", "[SEP]", ".", "?"],
        add_pooling_layer=False,
    ),
    backbone=dict(
        type="ResNet",
        depth=18,
        base_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
        init_cfg=None,
    ),
    neck=dict(
        type="ChannelMapper",
        in_channels=[128],
        kernel_size=1,
        out_channels=embed_dims,
        act_cfg=None,
        bias=True,
        norm_cfg=dict(type="GN", num_groups=32),
        num_outs=num_levels,
    ),
    encoder=dict(
        num_layers=1,
        num_cp=0,
        layer_cfg=dict(self_attn_cfg=deformable_attention, ffn_cfg=feed_forward),
        text_layer_cfg=dict(self_attn_cfg=dict(num_heads=4, embed_dims=embed_dims, dropout=0.0), ffn_cfg=feed_forward),
        fusion_layer_cfg=dict(
            v_dim=embed_dims, l_dim=embed_dims, embed_dim=128, num_heads=4, dropout=0.0, drop_path=0.0, init_values=0.1
        ),
    ),
    decoder=dict(
        num_layers=2,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=plain_attention,
            cross_attn_text_cfg=plain_attention,
            cross_attn_cfg=deformable_attention,
            ffn_cfg=feed_forward,
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=embed_dims // 2, normalize=True, offset=0.0, temperature=20),
    bbox_head=dict(
        type="GroundingDINOHead",
        num_classes=256,
        num_reg_fcs=1,
        sync_cls_avg_factor=True,
        contrastive_cfg=dict(max_text_len=256, log_scale="auto", bias=True),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=5.0),
        loss_iou=dict(type="GIoULoss", loss_weight=2.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=30),
    ),
    train_cfg=dict(
        assigner=dict(
            type="HungarianAssigner",
            match_costs=[
                dict(type="BinaryFocalLossCost", weight=2.0),
                dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
                dict(type="IoUCost", iou_mode="giou", weight=2.0),
            ],
        )
    ),
    # mmdet takes this many of the (query, name) scores: more than queries x names would fail, with a single name too.
    test_cfg=dict(max_per_img=60),
)

test_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None, imdecode_backend="pillow"),
    dict(type="FixScaleResize", scale=(512, 256), keep_ratio=True, backend="pillow"),
    # Sides become multiples of the largest stride: between two of them mmdet scales boxes by up to an eighth.
    dict(type="Pad", size_divisor=32, pad_val=dict(img=(104, 116, 124))),  # the mean, blue first
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=(
            *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            *("text", "custom_entities", "tokens_positive"),
        ),
    ),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(type="CocoDataset", pipeline=test_pipeline, return_classes=True, test_mode=True),
)
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")
