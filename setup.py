import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "roberta/__init__.py").read_text(encoding="utf-8"))
assert VERSION

setup(
    name="roberta",
    version=VERSION[1],
    description="RoBERTa for research and use: pretraining, fine-tuning, evaluation and a hub interface",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="MIT",
    license_files=["LICENSE", "NOTICE"],
    keywords=["RoBERTa", "masked language model", "pretraining", "fine-tuning", "PyTorch", "fairseq"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["roberta", "roberta.*", "roberta_cli"]),
    package_data={
        "roberta": ["ARCHITECTURE.md", "py.typed", "mini/*"],
        "roberta.bpe": ["vocabulary/*"],
        "roberta.data": ["corpus/*"],
        "roberta_cli": ["recipes/*"],
    },
    install_requires=[
        "torch>=2.11",
        "numpy>=1.26",
        "regex",
        "requests>=2.31",
        "tqdm>=4.66",
        "sacrebleu>=2.4",
        "safetensors>=0.5",
        "tiktoken>=0.9",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist",
            "hypothesis>=6",
            "ruff",
            "mypy",
            "setuptools>=77",
            "shtab>=1.7",
            "pyyaml",
            "huggingface_hub",
            "types-requests",
            "types-tqdm",
            "scikit-learn",
            "scipy",
            "matplotlib",
            "tensorboard",
            "tokenizers",
            "transformers>=5",
        ],
        "bench": ["transformers>=5"],
        "bpe": ["tokenizers"],
        "completion": ["shtab>=1.7"],
        "hf": ["huggingface_hub"],
        "onnx": ["onnx", "onnxscript", "onnxruntime"],
        "plot": ["matplotlib"],
        "spacy": ["spacy>=3.8"],
        "zst": ["backports.zstd; python_version < '3.14'"],
    },
    entry_points={
        "console_scripts": [
            "roberta-preprocess=roberta_cli.preprocess:main",
            "roberta-train=roberta_cli.train:main",
            "roberta-finetune=roberta_cli.finetune:main",
            "roberta-score=roberta_cli.score:main",
            "roberta-inspect=roberta_cli.inspect:main",
            "roberta-plot=roberta_cli.plot:main",
            "roberta-eval=roberta_cli.evaluate:main",
            "roberta-convert=roberta_cli.convert:main",
            "roberta-quickstart=roberta_cli.quickstart:main",
        ],
    },
)
