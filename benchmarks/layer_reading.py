"""Reading every layer against reading the last one alone, images to k-NN and linear figures, in one run.

The same untrained ViT, the same images, an empty feature store each time; the forward pass over the images is counted
in both. The two take turns.

    python benchmarks/layer_reading.py --data path/to/cifar10 [--train 10000] [--test 2000] [--rounds 1]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from harness.cli.layer_inputs import DataRequest, load_layer_data
from harness.core.features import FeatureStore
from sdssl.augment import IMAGENET_MEAN, IMAGENET_STD
from sdssl.backbone import create_vit
from sdssl.encoders import Hardware, ImageEncoder, ImageSettings
from sdssl.evaluate import ReadingSettings
from sdssl.evaluation_run import run_evaluation
from sdssl.timm_reader import TimmBackbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="a dataset of images; by default scans of digits")
    parser.add_argument("--arch", default="vit_tiny_patch16_224")
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    data = load_layer_data(chosen.data, DataRequest(chosen.train, chosen.test))
    arguments = {"num_classes": 0, "img_size": 32, "patch_size": 4}
    image = ImageSettings(32, IMAGENET_MEAN, IMAGENET_STD)
    backbone = TimmBackbone(create_vit(chosen.arch, arguments).eval(), chosen.arch, arguments)
    reader = ImageEncoder("untrained", backbone, image, {}, Hardware())
    depth = reader.num_layers
    seconds: dict[str, list[float]] = {"all": [], "last": []}
    for turn in range(chosen.rounds):
        for name in ("all", "last") if turn % 2 == 0 else ("last", "all"):
            layers = tuple(range(1, depth + 1)) if name == "all" else (depth,)
            settings = ReadingSettings(layers, protocols=("knn", "linear"), poolings=("cls",))
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                run_evaluation(reader, [data], settings, Path(folder, "run"), store=FeatureStore(Path(folder, "store")))
                seconds[name].append(time.perf_counter() - started)
    print(f"{chosen.arch}, {len(data.train_labels)} + {len(data.test_labels)} images of {data.name}, {depth} layers")
    for name, taken in seconds.items():
        print(f"{name:>5} {statistics.median(taken):8.1f} s")
    ratio = statistics.median(a / b for a, b in zip(seconds["all"], seconds["last"], strict=True))
    print(f"all layers / last layer  {ratio:.2f}  (target: at most 1.5)")


if __name__ == "__main__":
    main()
