"""The data sets of the field: how each lies on disk and how it is prepared.

    python -m yoda_jax.main --config=configs/data_sets.py:NAME [--config.data.train=folder:PATH]

writes the records of one of them, with attention, to records/NAME. Experiments apply the same
functions and take these records over by --config.data.records=records/NAME. Folders are named on
the command line; TFDS data sets (tfds:NAME) are named here and prepared once before, by

    python -c "import tensorflow_datasets as tfds; tfds.builder('NAME').download_and_prepare()"

in ~/tensorflow_datasets, or with builder('NAME', data_dir='DIR') and --config.data.tfds_dir=DIR.
"""

from ml_collections import ConfigDict

from configs import default


def ffhq(c: ConfigDict) -> None:
    """FFHQ: 70,000 aligned faces, PNG, 16 -> 128; 512 of them are held out.

    folder:PATH with PATH one of these two (any depth below them, hence also without subfolders):
        images1024x1024/00000/00000.png ... images1024x1024/69000/69999.png
        thumbnails128x128/00000/00000.png ... thumbnails128x128/69000/69999.png
    Thumbnails serve up to an HR size of 128. Naming the folder above both would count faces twice.
    """
    _faces(c)


def celeba_hq(c: ConfigDict) -> None:
    """CelebA-HQ: 30,000 aligned faces, 16 -> 128; 512 of them are held out.

    tfds:celeb_a_hq/SIZE with SIZE a power of two from 1 to 1024, here 256 (an experiment with
    larger HR pictures names a larger one); its only split is train. TFDS downloads nothing here,
    but reads the pictures of that size from an archive of yours:
        ~/tensorflow_datasets/downloads/manual/data256x256.tar
    Or folder:PATH, as CelebAMask-HQ has them: CelebA-HQ-img/0.jpg ... CelebA-HQ-img/29999.jpg.
    """
    _faces(c)
    c.data.train = "tfds:celeb_a_hq/256"


def celeba(c: ConfigDict) -> None:
    """CelebA: 178x218 aligned crops of faces, 20 -> 160 as SRDiff; 512 are held out.

    tfds:celeb_a, which TFDS downloads, has 162,770 in train, and its own validation and test:
        --config.data.eval=tfds:celeb_a:test      # in place of held-out ones
    Or folder:PATH/img_align_celeba with 000001.jpg ... 202599.jpg, which has all splits in one.
    SRDiff cuts the square of 178 and scales it; here, the picture is scaled and then cut.
    """
    _faces(c)
    c.data.train = "tfds:celeb_a"
    c.data.hr_size = c.data.stride = 160
    c.data.resampling = "matlab"


def df2k(c: ConfigDict) -> None:
    """DF2K: 800 photographs of DIV2K and 2,650 of Flickr2K, in tiles, 40 -> 160 as SRDiff.

    data.train=folder:A,B and data.eval=folder:C with
        A: DIV2K/DIV2K_train_HR/0001.png ... 0800.png
        B: Flickr2K/Flickr2K_HR/000001.png ... 002650.png
        C: DIV2K/DIV2K_valid_HR/0801.png ... 0900.png
    Without data.eval, 100 pictures of data.train are held out. Tiles of data.hr_size are cut every
    data.stride pixels.
    """
    _tiles(c)


def div2k(c: ConfigDict) -> None:
    """DIV2K: 800 photographs for training and 100 for evaluation, in tiles, 40 -> 160.

    tfds:div2k/bicubic_x4, which TFDS downloads, has splits train and validation; its HR pictures
    are taken and the LR ones made from them, by the same rule.
    For folders, as they come out of the archives, see df2k.
    """
    _tiles(c)
    c.data.train = "tfds:div2k/bicubic_x4"
    c.data.eval = "tfds:div2k/bicubic_x4:validation"


def _faces(c: ConfigDict) -> None:
    c.data.crop = "fit"
    c.data.hr_size = c.data.stride = 128
    c.data.scale = 8
    c.data.resampling = "pil"
    c.data.holdout = 512


def _tiles(c: ConfigDict) -> None:
    c.data.crop = "tiles"
    c.data.hr_size = c.data.stride = 160
    c.data.scale = 4
    c.data.resampling = "matlab"
    c.data.holdout = 100
    c.data.pictures_per_shard = 32  # each gives about 100 tiles
    # The whole picture is looked at, of which a tile is a small part; patches of 8, 14 and 16 fit.
    c.attention.input_size = 448


DATA_SETS = {"ffhq": ffhq, "celeba_hq": celeba_hq, "celeba": celeba, "df2k": df2k, "div2k": div2k}


def get_config(name: str = "") -> ConfigDict:
    """The preparation of a data set's records, without an experiment."""
    if name not in DATA_SETS:
        raise ValueError(
            f"data_sets.py has the data sets {', '.join(DATA_SETS)}, found {name!r}; give one "
            "after a colon."
        )
    c = default.get_config()
    c.mode = "precompute"
    c.workdir = c.data.records = f"records/{name}"
    DATA_SETS[name](c)
    return c
