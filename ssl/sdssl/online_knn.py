"""A quick k-NN reading of the last layer while training goes on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sdssl.augment import IMAGENET_MEAN, IMAGENET_STD, reading_transform
from sdssl.backbone import Backbone
from sdssl.images import ImageDataset, usable
from sdssl.knn import knn_predict

_BANK, _QUERIES, _K, _BATCH = 2000, 500, 20, 250


class OnlineKNN:
    """k-NN (k = 20, T = 0.07) among some of the training images, on queries that are others of them.

    It shows whether training goes anywhere. It is no result: test images are never touched for it.

    Args:
        data: The training images.
        image_size: Side in pixels that the encoder takes.
        seed: Draws the images.
    """

    def __init__(self, data: ImageDataset, image_size: int, seed: int) -> None:
        self.transform = reading_transform(image_size, IMAGENET_MEAN, IMAGENET_STD)
        self.labels = data.labels
        chosen = np.random.default_rng(seed).permutation(len(data))[: _BANK + _QUERIES]
        self.queries = min(_QUERIES, len(chosen) // 5)
        self.data, self.chosen = data, chosen

    def accuracy(self, backbone: Backbone, device: torch.device) -> float | None:
        """The share of queries that are classified right; None without labels or with too few images."""
        if self.labels is None or len(np.unique(self.labels)) < 2:
            return None
        features: list[NDArray[np.float32]] = []
        used: list[int] = []
        training = backbone.training
        backbone.eval()
        with torch.inference_mode():
            for start in range(0, len(self.chosen), _BATCH):
                found = [usable(self.data, int(i)) for i in self.chosen[start : start + _BATCH]]
                images = torch.stack([self.transform(image) for image, _, _ in found]).to(device)
                features.append(backbone(images)[-1].float().cpu().numpy())
                used += [number for _, number, _ in found]
        backbone.train(training)
        # The image that takes a corrupt one's place may be on both sides.
        own = np.array(used) == self.chosen
        bank, truth = np.concatenate(features)[own], self.labels[self.chosen[own]]
        n = int(own[: self.queries].sum())
        if n == 0 or len(bank) - n <= _K:
            return None
        predicted = knn_predict(bank[n:], truth[n:], bank[:n], ks=[_K], num_classes=int(self.labels.max()) + 1)[_K]
        return float((predicted == truth[:n]).mean())
